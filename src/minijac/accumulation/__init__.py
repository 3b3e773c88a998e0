"""From a recorded function to its Jacobian blocks: the graph, prices and plans, and ways to carry them out."""
