"""Passes: each takes a program and returns a smaller or cheaper one that computes the same."""
