"""One signature's program: recorded, passed through all passes, bound to buffers, and carried out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import is_dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import optree

from ..arguments import DATA, flatten
from ..backend import is_array, on_gpu
from ..errors import InputError
from ..foreign import kind_of, remedy_for
from ..memo import uncollected
from ..numpy.picked import Picked
from ..tape.traced import Traced
from .cpu.executor import Executor
from .held import GENERATORS, GONE, Held, held, unchanged, watcher
from .ir import Program, carried_out, interpreted, without_dead_code
from .loops import LOOP
from .methods import Static, unmarked
from .passes.simplify import optimised
from .record import Foreign, Recorder, Symbol, is_number, whole

__all__ = ["Entry", "How", "record", "recorded_in", "run_recorded"]

ndarray = np.ndarray


class How(NamedTuple):
    """How a program is carried out."""

    plain: bool = False
    """On the CPU, so that it is cheap to bind: without tiles and loops."""
    often: bool = False
    """On the CPU, for so many calls that loops on small arrays pay, too."""
    tf32: bool = False
    """On the GPU: matmuls of single precision with ten bits of mantissa."""


class Entry:
    """One signature's program, and executors for as many threads as have called it at once."""

    __slots__ = (
        "_program", "arrays", "chosen", "chosen_at", "device", "executors", "fresh", "lifted", "loops", "often",
        "other", "parts", "plain", "recorded", "shaping", "sizes", "tf32", "tree", "watched",
    )  # fmt: skip

    def __init__(self, recorded: Program, tree: Any, parts: Any, how: How, device: int | None, loops: bool) -> None:
        self.watched: list[Held] = []
        """Captured arrays that a name may be bound anew of; with names, numbers and other plain values that the code
        names, and arrays that something was computed from beforehand."""
        self.fresh: Callable[[], bool] = bool
        """Whether nothing has to be looked at further, as in nearly every call."""
        self.lifted: list[list[Held]] = []
        """Arrays whose names were bound anew before: inputs behind the arguments, each under all its names."""
        self.arrays: list[int] = []
        """Results that are arrays without axes, where the program has numbers."""
        self.chosen: list[int] = []
        """Arguments whose numbers say what the program does: positions in plain arrays."""
        self.chosen_at = ""
        """The user's line that first asked for some."""
        self.shaping: list[Held] = []
        """Arrays that say what the program does, with copies of what they held."""
        self.other: Held | None = None
        """What is another now, and no input, where that is why the program is not the function's any more."""
        self.recorded: Program | None = recorded
        """As long as no program was made of it."""
        self.loops = loops
        self.plain, self.often = how.plain, how.often
        self.tf32 = how.tf32
        self.sizes: dict[int, tuple[int, int]] = {}
        self.device = device
        self.parts = parts
        """How results make the leaves of the tree, where those are not arrays alone."""
        self.tree = None if tree == LEAF else tree
        self.executors: list[Any] = []

    @property
    def program(self) -> Program:
        """What was recorded, after all passes: they are done when it is first asked for."""
        recorded = self.recorded
        if recorded is not None:
            with uncollected():
                self._program = released(optimised(recorded, self.loops))
            self.recorded = None
        return self._program

    def executor(self) -> Any:
        """An executor that nobody uses, bound now if there is none."""
        try:
            return self.executors.pop()
        except IndexError:
            if self.device is None:
                with uncollected():
                    return Executor(self.program, self.plain, self.sizes, self.often)
            from .gpu import executor as cuda
            from .gpu import runtime as cuda_runtime

            return cuda.GraphExecutor(self.program, cuda_runtime.CupyRuntime(self.device), self.tf32)

    def __call__(self, arguments: Sequence[Any]) -> Any:
        try:  # without a call
            executor = self.executors.pop()
        except IndexError:
            executor = self.executor()
        result: Sequence[Any] = executor.run(*arguments)
        self.executors.append(executor)
        if self.tree is None and self.parts is None and not self.arrays:
            return result[0]
        return self._whole(result)

    def unbound(self, arguments: Sequence[Any]) -> Any:
        """The results of one call, operation by operation: sooner there than an executor."""
        program = self.program
        return _owned(self._whole(interpreted(program, arguments, carried_out)), arguments, program)

    def followed(self, arguments: Sequence[Any], program: Program) -> Any:
        """The results on values that traces follow, which follow each operation of the program."""
        made = interpreted(program, arguments)
        return self._whole([x.fresh() if isinstance(x, Traced) else np.array(x, order="C") for x in made])

    def _whole(self, result: Sequence[Any]) -> Any:
        if self.arrays:
            result = [
                x if isinstance(x, Traced) or k not in self.arrays else np.asarray(x) for k, x in enumerate(result)
            ]
        if self.parts is not None:
            result = optree.tree_unflatten(self.parts, result)
        return result[0] if self.tree is None else optree.tree_unflatten(self.tree, result)

    def stale(self) -> list[Held] | None:
        """What has to be lifted, where a name stands for another array since, or for one that does not fit.

        None where the program is still that of the function.
        """
        try:
            if not all(_same(read(), content) for read, content, _ in self.shaping):
                return []
            anew = [each for each in self.watched if not unchanged(each)]
            self.other = next((each for each in anew if each.name), None)
            if self.other is not None:
                return []
            for each in anew:  # which may be gone
                each.read()
            for first, *rest in self.lifted:
                array = first.read()
                if not _alike(array, first.value) or any(each.read() is not array for each in rest):
                    anew.append(first)
        except GONE:  # it is not there any more
            return []
        return [each for group in self.lifted for each in group] + anew if anew else None

    def buffer_bytes(self) -> int:
        """Bytes that the executors hold between calls."""
        return sum([executor.nbytes for executor in self.executors[:]])

    def ready(self) -> Any:
        """An executor to look at, which the next call uses."""
        executor = self.executor()
        self.executors.append(executor)
        return executor


LEAF = flatten(0)[1]


def _last(known: Callable[[], Any], content: Any) -> Any:
    """An array while it is there; nobody can write to it after."""
    array = known()
    return content if array is None else array


def _same(a: Any, b: Any) -> bool:
    return _alike(a, b) and (a is b or a.tobytes() == b.tobytes())


def _alike(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a.shape == b.shape and a.dtype == b.dtype


def record(
    fn: Callable[..., Any],
    args: Any,
    kwargs: Any,
    how: How = How(),  # noqa: B008 - immutable
    found: Sequence[Held] | None = None,
    lifted: Sequence[Held] = (),
) -> Entry:
    """Run `fn` once on symbols, and make a program of what it did.

    `found` is what it reaches by name: it is watched, if it is given, and the program may be made for the numbers of
    integer arguments. `lifted` become inputs.
    """
    leaves, tree = flatten((args, kwargs))
    with next((leaf.device for leaf in leaves if on_gpu(leaf)), nullcontext()), uncollected():
        groups: dict[int, list[Held]] = {}
        for read, *_ in lifted:
            array = read()
            groups.setdefault(id(array), []).append(Held(read, array))
        behind = [same[0].value for same in groups.values()]
        entry, captured, shaping = _recorded(fn, leaves, tree, how, behind, found is not None)
        entry.lifted = list(groups.values())
        entry.watched = list(_watched(fn, found, captured, groups.keys(), shaping)) if found is not None else []
        for known, content in shaping:
            array = known()
            if array is not None:  # it was not made on the way
                named = [each for each in found or () if isinstance(each.value, ndarray) and whole(each.value) is array]
                entry.shaping += [Held(each.read, each.value.copy()) for each in named]
                if all(each.value is not array for each in named):
                    entry.shaping.append(Held(partial(_last, known, content), content))
        if not entry.lifted and not entry.shaping:
            entry.fresh = watcher(entry.watched)
        return entry


def run_recorded(fn: Callable[[list[Any]], Any], arrays: list[Any]) -> tuple[Entry, Any]:
    """A function of a list of arrays, recorded, to be bound with little effort; and its result, for which it ran.

    Where it calls loops, which are not carried out while it is recorded, the result is that of the program.
    """
    made: list[Any] = []

    def noted(symbols: list[Any]) -> Any:
        made.append(fn(symbols))
        return made[0]

    entry = record(noted, (arrays,), {}, How(plain=True))
    recorded = recorded_in(entry)
    if recorded is None:
        return entry, entry(arrays)
    result = optree.tree_map(lambda x: x.value if isinstance(x, Symbol) else x, made[0], namespace=DATA)
    return entry, _owned(result, arrays, recorded)


def recorded_in(entry: Entry) -> Program | None:
    """What was recorded, before any pass, as long as no program was made of it; None where it has loops."""
    recorded = entry.recorded
    if recorded is None or any(step.op is LOOP for step in recorded.instructions):
        return None
    return released(without_dead_code(recorded))


def _owned(result: Any, arguments: Sequence[Any], program: Program) -> Any:
    """A tree of results in memory of their own, in order: copies of what a program was given, or holds."""
    theirs = {id(whole(x)) for x in (*arguments, *(value.content for value in program.values)) if type(x) is ndarray}

    def own(x: Any) -> Any:
        memory = whole(x) if type(x) is ndarray else None
        if memory is None or id(memory) in theirs or memory.nbytes != x.nbytes or not x.flags.c_contiguous:
            return np.array(x, order="C")
        theirs.add(id(memory))
        return x if x.flags.writeable else x.copy()

    return optree.tree_map(own, result, namespace=DATA)


def _watched(
    fn: Callable[..., Any], found: Sequence[Held], captured: set[int], lifted: Any, shaping: Sequence[tuple[Any, Any]]
) -> Iterator[Held]:
    """What has to stand where it stands for a program to be that of the function.

    What the function writes itself, such as a count of its calls, it does when it is recorded only, so that is not
    watched; but captured arrays are, wherever they stand now.
    """
    shapes = [known() for known, _ in shaping]
    before = {id(each.value) for each in found}
    for each in (*found, *(each for each in held(fn) if is_array(each.value) and id(each.value) not in before)):
        if not is_array(each.value):
            if not isinstance(each.value, GENERATORS) and unchanged(each):
                yield each
        elif id(each.value) in lifted:
            continue
        elif id(each.value) in captured:
            with suppress(*GONE):
                yield Held(each.read, each.read())
        elif each.name and unchanged(each) and all(whole(each.value) is not array for array in shapes):
            yield each


def _recorded(
    fn: Callable[..., Any], leaves: Sequence[Any], tree: Any, how: How, lifted: Sequence[Any], choosing: bool
) -> tuple[Entry, set[int], list[tuple[Any, Any]]]:
    recorder = Recorder(not how.plain, choosing)
    symbols = [
        unmarked(leaf) if isinstance(leaf, bool | str | np.bool_ | Static) else recorder.input(leaf) for leaf in leaves
    ]
    behind = [recorder.lift(array) for array in lifted]
    inputs = tuple(symbol.index for symbol in (*symbols, *behind) if isinstance(symbol, Symbol))
    args, kwargs = optree.tree_unflatten(tree, symbols)
    with recorder:
        leaves, output_tree = flatten(fn(*args, **kwargs))
        arrays, parts = optree.tree_flatten(leaves, namespace=DATA)
        numbers = tuple([_output(recorder, y) for y in arrays])
        without_axes = [k for k, y in enumerate(arrays) if isinstance(y, Symbol) and _is_array(y)]
        recorder.check_captured()
        captured, shaping, chosen = recorder.captured_ids(), recorder.shaping, recorder.chosen
    program = recorder.recorded(inputs, numbers)
    device = _device(recorder)
    alone = len(arrays) == len(leaves) and all(a is b for a, b in zip(arrays, leaves, strict=True))
    loops = not how.plain and not recorder.bounded
    entry = Entry(program.verify(), output_tree, None if alone else parts, how, device, loops)
    if chosen is not None and chosen.known:
        entry.chosen_at = chosen.line
        entry.chosen = [k for k, n in enumerate(inputs[: len(inputs) - len(behind)]) if n in chosen.known]
    entry.arrays = [k for k in without_axes if program.values[numbers[k]].number is not None]
    return entry, captured, shaping


def _device(recorder: Recorder) -> int | None:
    """The device of CuPy's arrays that a program is recorded with; None for NumPy's."""
    devices = {array.device.id for array in recorder.arrays if on_gpu(array)}
    if len(devices) > 1 or (devices and any(type(array) is ndarray for array in recorder.arrays)):
        places = [f"GPU {n}" for n in sorted(devices)]
        places += ["the host"] if any(type(array) is ndarray for array in recorder.arrays) else []
        raise TypeError(
            "compile: expected all arrays, arguments and captured ones, in one place, got arrays on "
            f"{' and '.join(places)}. Move them with cupy.asarray(x) or x.get()."
        )
    return devices.pop() if devices else None


def _output(recorder: Recorder, y: Any) -> int:
    """The number of an output's value."""
    if isinstance(y, Symbol) and y.home is recorder:
        return y.index
    if isinstance(y, Traced):
        if isinstance(y, Picked):
            y._refuse("a result of the function")
        raise Foreign
    if recorder.captures(y):
        return recorder.captured(y).index
    if is_array(y) or is_number(y) or isinstance(y, str):
        return recorder.constant(y).index
    raise InputError(
        f"compile: expected the function to return arrays, numbers and strings in any pytree, got {kind_of(y)}. "
        f"{remedy_for(y) if is_dataclass(y) else 'Return the arrays in it instead.'}"
    )


def _is_array(y: Symbol) -> bool:
    return type(y.value) is ndarray and not y.value.shape


def released(program: Program) -> Program:
    """Without the arrays of the recording that no instruction reads."""
    used = {n for step in program.instructions for n in step.args} | set(program.outputs) | set(program.inputs)
    values = tuple(value if n in used else value._replace(content=None) for n, value in enumerate(program.values))
    return program._replace(values=values)
