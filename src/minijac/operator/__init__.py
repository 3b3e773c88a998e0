"""The structured Jacobian: an operator that keeps the structure of its blocks."""
