"""Handles that look elsewhere for their value: views, and values that were written and not read since."""

from __future__ import annotations

from typing import Any

from ..backend import Wrapped
from ..tape.traced import Traced, TracedArray

__all__ = ["Pending", "Seen", "kinds"]


class Seen:
    """What a view is beside: its value is read from that of which it is a view, anew when that was written."""

    __slots__ = ()
    home = property(lambda self: self.link.now().home)
    index = property(lambda self: self.link.now().index)
    value = property(lambda self: self.link.now().value)


class Pending:
    """What a value is while writes to parts of it wait: they are put together when it is read."""

    __slots__ = ()
    home = property(lambda self: self.link.settled(self).home)
    index = property(lambda self: self.link.settled(self).index)
    value = property(lambda self: self.link.settled(self).value)
    dtype = property(lambda self: _VALUE.__get__(self).dtype)

    @property
    def shape(self) -> Any:
        return _VALUE.__get__(self).shape

    def unwritten(self) -> Any:
        """What it was before, as a handle of its own."""
        kind: Any = type(self)
        return kind.ordinary(_HOME.__get__(self), _INDEX.__get__(self), _VALUE.__get__(self))


_HOME: Any
_INDEX: Any
_VALUE: Any
_HOME, _INDEX, _VALUE = vars(Traced)["home"], vars(Traced)["index"], vars(Wrapped)["value"]


def kinds(number: Any, array: Any, **waiting: Any) -> None:
    """Make the classes of a kind of value's views, and of its arrays of which written parts wait, and let all of them
    know each other. `waiting`: attributes of the last one."""

    def made(way: type, kind: Any, own: dict[str, Any]) -> Any:
        return type(way.__name__ + kind.__name__, (way, kind), {"__slots__": (), **own})

    view, array_view, pending = made(Seen, number, {}), made(Seen, array, {}), made(Pending, array, waiting)
    for some, ordinary, viewed in (
        (number, number, view), (array, array, array_view), (view, number, view), (array_view, array, array_view),
        (pending, array, array_view),
    ):  # fmt: skip
        some.ordinary, some.viewed, some.waiting = ordinary, viewed, pending


kinds(Traced, TracedArray)
