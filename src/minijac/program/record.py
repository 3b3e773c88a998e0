"""Recording: a trace that keeps every array operation, with shapes and dtypes, and knows what was captured."""

from __future__ import annotations

import operator
import weakref
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any
from zlib import crc32

import numpy as np

from ..backend import check_operand, on_gpu
from ..errors import MutationError, TraceError
from ..lines import user_line
from ..numpy.handles import kinds
from ..ops.elementwise import UFUNCS
from ..ops.families import Elementwise
from ..ops.scalars import SCALARS
from ..tape.op import Op
from ..tape.trace import Trace
from ..tape.traced import FIXED, Indexable, Traced
from .chosen import Chosen
from .ir import Instruction, Program, Value
from .loops import LOOP, PICK, SEVERAL, Loop
from .standing import Standing

__all__ = [
    "Foreign",
    "Recorder",
    "Symbol",
    "is_number",
    "whole",
]


def is_number(value: Any) -> bool:
    """Whether a value is a Python number: NumPy lets it take the dtype of the array that it meets."""
    return isinstance(value, bool | int | float | complex) and not isinstance(value, np.generic)


def _checksum(array: Any) -> int:
    return crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data) if isinstance(array, np.ndarray) else 0


def _equal(a: Any, b: Any) -> bool:
    """Whether parameters or constants are the same, and so is a zero's sign."""
    try:
        return bool(a == b) and str(a) == str(b)
    except ValueError:  # arrays among them
        return False


class Foreign(Exception):
    """A function under compile met a value that another transformation follows."""


class Symbol(Traced):
    """A value of a program that is being recorded: it has a shape and a dtype, and its numbers may not be looked at."""

    __slots__ = ()

    def plain(self) -> Symbol:
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape if type(self.value) is np.ndarray else np.shape(self.value)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.value.dtype if hasattr(self.value, "dtype") else np.result_type(self.value)

    def _hidden(self, what: str) -> Any:
        got = (
            f"{what} at {user_line()}: got a value of shape {self.shape} of a function under minijac.compile, whose "
            "numbers differ from call to call. "
        )
        if self.dtype.kind in "iu":
            raise TraceError(
                got + "Look up positions in a plain array, `table[t]`, by minijac.numpy.take(table, t); invert an "
                "order, `inverse[order] = np.arange(n)`, by np.argsort(order); an argument that the program should "
                "depend on, such as a size, goes into static_argnames."
            )
        raise TraceError(
            got + "Expected a program that does not depend on them: write `if` on values as np.where, or leave this "
            "function uncompiled; where the program should depend on an argument, such as a size, capture it or pass "
            "it as a bool or string."
        )

    def __bool__(self) -> bool:
        return self._hidden("a decision (if, while, and, or)")

    def _refuse(self, what: str) -> Any:
        return self._hidden(what)

    def __hash__(self) -> int:  # arrays have none; what stands for a number must not be looked up as another key
        return super().__hash__() if self.shape else self._hidden("a look-up in a dict or a set")

    def __repr__(self) -> str:
        return f"Symbol({self.dtype}{list(self.shape)})"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)


METHODS: dict[np.ufunc, Any] = {
    np.add: operator.add, np.subtract: operator.sub, np.multiply: operator.mul, np.divide: operator.truediv,
    np.floor_divide: operator.floordiv, np.remainder: operator.mod, np.power: operator.pow, np.less: operator.lt,
    np.less_equal: operator.le, np.equal: operator.eq, np.not_equal: operator.ne, np.greater: operator.gt,
    np.greater_equal: operator.ge, np.bitwise_and: operator.and_, np.bitwise_or: operator.or_,
    np.bitwise_xor: operator.xor, np.negative: operator.neg, np.positive: operator.pos, np.absolute: operator.abs,
}  # fmt: skip


class OnNumbers(Elementwise):
    """Python's arithmetic on Python numbers, whose results are Python numbers again."""

    __slots__ = ()

    def takes_numbers(self, count: int) -> bool:
        return True


NUMBER_OPS = {
    method.__name__.strip("_"): OnNumbers(
        UFUNCS[ufunc].name, method, partials=(None,) * ufunc.nin, scalar=SCALARS[ufunc]._replace(loop=None)
    )
    for ufunc, method in METHODS.items()
}
"""By the names of Python's methods."""


def _on_numbers(op: Op, array: Callable[..., Any], swapped: bool) -> Callable[..., Any]:
    """An operator of Symbol: Python's where all operands are Python numbers, else NumPy's."""

    def method(self: Symbol, *others: Any) -> Any:
        if is_number(self.value) and all(is_number(x.value if isinstance(x, Symbol) else x) for x in others):
            return op(*others, self) if swapped else op(self, *others)
        return array(self, *others)

    return method


def _repeating(product: Callable[..., Any]) -> Callable[..., Any]:
    """A product, and with Python's sequences what whole numbers make of those: ``[x] * n`` is `n` of them."""

    def method(self: Symbol, other: Any) -> Any:
        if isinstance(other, list | tuple | str | bytes) and isinstance(self.value, int | np.integer):
            return other * operator.index(self)
        return product(self, other)

    return method


for _name, _op in NUMBER_OPS.items():
    for _prefix in ("", "r"):
        _method = f"__{_prefix}{_name}__"
        if hasattr(np.lib.mixins.NDArrayOperatorsMixin, _method):
            _array = getattr(np.lib.mixins.NDArrayOperatorsMixin, _method)
            setattr(Symbol, _method, _on_numbers(_op, _array, bool(_prefix)))
            if _name == "mul":
                setattr(Symbol, _method, _repeating(getattr(Symbol, _method)))


class SymbolArray(Indexable, Symbol):
    """A symbol with axes."""

    __slots__ = ()


kinds(Symbol, SymbolArray)


def whole(array: Any) -> Any:
    """The array that a view is of."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


class Recorder(Trace):
    """The trace of a program. Other traces inside it tell it of the arrays that they capture."""

    __slots__ = (
        "_captured", "_numbers", "_replaced", "arrays", "bounded", "chosen", "given", "instructions",
        "shaping", "standing", "values",
    )  # fmt: skip

    def __init__(self, postpones: bool = False, choosing: bool = False) -> None:
        """`choosing`: whether the program may be made for the numbers of integer arguments."""
        super().__init__()
        self.standing = Standing(postpones)
        self.given: dict[int, Any] = {}
        """Its inputs, by number."""
        self.chosen = Chosen() if choosing else None
        self.program = self
        self.values: list[Value] = []
        self.instructions: list[Instruction] = []
        self._captured: dict[int, tuple[Symbol, int, str]] = {}
        self._numbers: dict[Any, Symbol] = {}
        self._replaced: dict[int, int] = {}
        """Values that were computed once more since, by what computes no more than is needed of them."""
        self.arrays: list[Any] = []
        """Arguments and captured arrays, for where they live."""
        self.bounded = False
        """Whether a bound on memory was asked for: loops, which keep rows of all steps, are then not looked for."""
        self.shaping: list[tuple[Any, Any]] = []
        """Arrays that say what the program does, such as indices, by weak reference, with what they held."""

    def close(self) -> None:
        """End the recording. What it followed is let go of."""
        super().close()
        self.program = None
        self._captured.clear()
        self._numbers.clear()
        self.given.clear()
        self.standing = Standing(False)
        self.shaping = []

    def _symbol(self, value: Any, kind: str, content: Any = None) -> Symbol:
        if type(value) is np.ndarray and value.ndim:
            self.values.append(Value(value.shape, value.dtype, kind, content))
            return SymbolArray(self, len(self.values) - 1, value)
        dtype = value.dtype if hasattr(value, "dtype") else np.asarray(value).dtype
        number = None if isinstance(value, np.ndarray) or not np.isscalar(value) else type(value)
        self.values.append(Value(np.shape(value), dtype, kind, content, number))
        return (SymbolArray if np.shape(value) else Symbol)(self, len(self.values) - 1, value)

    def input(self, value: Any) -> Symbol:
        check_operand("argument of a compiled function", value)
        self.arrays.append(value)
        symbol = self._symbol(value, "input")
        self.given[symbol.index] = value
        symbol.link = FIXED
        return symbol

    def constant(self, value: Any) -> Symbol:
        """A plain value that is the same in every call."""
        return self._symbol(value, "constant", value)

    def _number(self, value: Any) -> Symbol:
        """An operand that is no array: of Python's numbers each is one symbol, which nobody is handed."""
        if type(value) is not float and type(value) is not int:
            return self.constant(value)
        key = type(value), repr(value)
        found = self._numbers.get(key)
        if found is None:
            found = self._numbers[key] = self._symbol(value, "constant", value)
        return found

    @property
    def source(self) -> Any:
        return self.arrays[0] if self.arrays else None

    def known(self, x: Traced) -> Any:
        value = self.values[x.index]
        return value.content if value.kind == "constant" else None

    def stated(self, x: Traced) -> Any:
        """The positions that a symbol holds in every call, for which the program is made; None where it is computed."""
        value = self.values[x.index]
        if value.kind == "captured":
            self.looked_at(value.content)
        return value.content if value.kind in ("captured", "constant") else None

    def made_for(self, x: Traced) -> Any:
        return self.chosen.numbers(self, x.index) if self.chosen is not None and self.open else None

    def maker(self, n: int) -> Instruction | None:
        """The instruction that computes a value: they are numbered in turn."""
        k = bisect_left(self.instructions, n, key=attrgetter("out"))
        step = self.instructions[k] if k < len(self.instructions) else None
        return step if step is not None and step.out == n else None

    def alike(self, a: int, b: int) -> bool:
        """Whether two values are computed alike of the same ones."""
        waiting, seen = [(a, b)], set()
        while waiting:
            pair = waiting.pop()
            if pair[0] == pair[1] or pair in seen:
                continue
            seen.add(pair)
            one, other = map(self.maker, pair)
            if one is None or other is None:
                x, y = [self.values[n] for n in pair]
                if not (x.kind == y.kind == "constant" and x.shape == () and _equal(x, y)):
                    return False
            elif one.op is not other.op or len(one.args) != len(other.args) or not _equal(one.params, other.params):
                return False
            else:
                waiting += zip(one.args, other.args, strict=True)
        return True

    @staticmethod
    def captures(x: Any) -> bool:
        """Whether a plain value is an array that may be written to later, and not a number."""
        return isinstance(x, np.ndarray) or on_gpu(x)

    def captured(self, array: Any) -> Symbol:
        """A captured array's symbol: the array itself is read at replay, so that writes to it are seen."""
        found = self._captured.get(id(array))
        if found is None:
            self.arrays.append(array)
            found = self._symbol(array, "captured", array), _checksum(array), user_line()
            found[0].link = FIXED
            self._captured[id(array)] = found
        return found[0]

    def look_at(self, held: Mapping[int, Any]) -> None:
        """The same of values that stand for captured arrays, by their numbers."""
        for n in held.keys() & {symbol.index for symbol, *_ in self._captured.values()}:
            self.looked_at(held[n])

    def looked_at(self, array: Any) -> None:
        """Keep in mind an array whose numbers the program is made for."""
        array = whole(array)
        if isinstance(array, np.ndarray) and all(known() is not array for known, _ in self.shaping):
            self.shaping.append((weakref.ref(array), array.copy()))

    def lift(self, array: Any) -> Symbol:
        """An input for an array that the function captures."""
        symbol = self.input(array)
        self._captured[id(array)] = symbol, _checksum(array), user_line()
        return symbol

    def captured_ids(self) -> set[int]:
        """The identities of the arrays that were captured."""
        return set(self._captured)

    def check_captured(self) -> None:
        """Raise MutationError for a captured array that was written while the function ran: a replay would not."""
        for symbol, before, line in self._captured.values():
            if before != _checksum(symbol.value):
                raise MutationError(
                    f"compile: an array of shape {symbol.shape}, first used at {line}, was written by the function "
                    "that is being compiled, after it had been used. A replay reads arrays as they are when it is "
                    "called. Expected a new array for each value: write `y = x + 1` instead of `x += 1`, np.where or "
                    "np.stack instead of filling a buffer."
                )

    def replace(self, before: Symbol, after: Symbol) -> None:
        """Let a value that was recorded later, and does not depend on it, stand in place of another one."""
        self._replaced[before.index] = after.index

    def recorded(self, inputs: Sequence[int], outputs: Sequence[int]) -> Program:
        """The program of what was recorded."""
        steps, values = self.instructions, tuple(self.values)
        if not self._replaced:
            return Program(values, tuple(steps), tuple(inputs), tuple(outputs))
        stands = self._replaced
        makers = {step.out: step for step in steps}
        ordered: dict[int, Instruction] = {}
        outputs = tuple([stands.get(n, n) for n in outputs])
        waiting = list(reversed(outputs))
        while waiting:  # what makes operands first
            step = makers.get(waiting[-1])
            if step is None or step.out in ordered:
                waiting.pop()
                continue
            args = tuple([stands.get(n, n) for n in step.args])
            missing = [n for n in args if n in makers and n not in ordered]
            if missing:
                waiting += reversed(missing)
            else:
                ordered[waiting.pop()] = step._replace(args=args)
        return Program(values, tuple(ordered.values()), tuple(inputs), outputs)

    def process(self, op: Op, args: tuple[Any, ...], params: dict[str, Any]) -> Symbol:
        """Compute an operation once, for its result's shape and dtype, and keep it as an instruction."""
        numbers, plain = [], []
        for arg in args:
            if isinstance(arg, Traced):
                if arg.home is not self:
                    raise Foreign
            else:
                arg = self.captured(arg) if self.captures(arg) else self._number(arg)
            numbers.append(arg.index)
            plain.append(arg.value)
        for value in params.values():
            if isinstance(value, Traced):
                value._refuse(f"{op.name} with a parameter that depends on values,")
        if not op.takes_numbers(len(args)):
            plain = [np.asarray(x) if is_number(x) else x for x in plain]
        out, stands = self.standing.result(self, op, numbers, plain, params)
        check_operand(op.name, out)
        symbol = self._symbol(out, "computed")
        if stands:
            self.standing.note(symbol.index, out)
        self.instructions.append(Instruction(op, tuple(numbers), params, symbol.index))
        return symbol

    def follows_all(self, args: Sequence[Any]) -> bool:
        """Whether values are its own, or plain arrays."""
        return self.open and all(type(x) is np.ndarray or (isinstance(x, Symbol) and x.home is self) for x in args)

    def call(self, loop: Loop, args: Sequence[Any], like: Sequence[Any]) -> list[Any]:
        """Keep a program that is called as one instruction; its results have shapes and dtypes of other arrays."""
        symbols = [x if isinstance(x, Symbol) else self.captured(x) for x in args]
        self.values.append(SEVERAL)
        several = len(self.values) - 1
        self.instructions.append(Instruction(LOOP, tuple([x.index for x in symbols]), {"loop": loop}, several))
        results = []
        for k, array in enumerate(like):
            results.append(self._symbol(array, "computed"))
            self.standing.note(results[-1].index, array)
            self.instructions.append(Instruction(PICK, (several,), {"index": k}, results[-1].index))
        return results
