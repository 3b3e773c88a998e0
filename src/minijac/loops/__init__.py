"""Loops whose steps are alike, functions whose inside is recomputed, and solutions of equations."""
