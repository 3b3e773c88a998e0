"""compile: a function's array operations recorded once, simplified, and replayed without Python's share of the work."""

from .compile import compile

__all__ = ["compile"]
