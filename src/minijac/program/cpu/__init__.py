"""Programs carried out by NumPy's calls, loops and tiles."""
