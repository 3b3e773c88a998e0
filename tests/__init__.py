"""The suite: a folder for each room of the package, and what the tests share in `support`."""
