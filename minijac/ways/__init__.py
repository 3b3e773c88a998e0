"""Ways to carry an accumulation out other than at once: replayed as a program, or within a bound on memory."""
