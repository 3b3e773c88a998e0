"""Programs: what a function computed, recorded, simplified, and replayed without Python's share of the work."""
