"""The command line: the forum thread's networks, by minijac and by torch, and their picture."""
