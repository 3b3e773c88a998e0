"""Labelled blocks: labels, arrays with labelled axes, terms, and the blocks that they add up to."""
