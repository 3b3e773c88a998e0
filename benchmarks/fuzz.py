"""Random programs, NumPy's, complex and such that write in place, in every way to a Jacobian against torch or NumPy.

"further" ones are NumPy's within bounds on memory, with samples on another axis, and in second order. Of four programs,
three are compiled in tiles of a few samples, on 1, 2 and 4 threads, as machine code where they can be; all that this
will reach is looked at before it is called, and tiles are taken in shuffled order.

Run `python benchmarks/fuzz.py --programs 1000 --seed 7`; see benchmarks/README.md. The programs are those of
`tests/support`: `fuzz.py`, `complex_programs.py`, `writing_programs.py`. Each that is wrong is printed.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))
import complex_programs
import fuzz
import tiles
import writing_programs

import minijac as mj
from minijac.program.cpu.native import checks

Check = Callable[[Any, int | None], Any]
KINDS: dict[str, tuple[Callable[[int, int], Any], Check, Callable[[Any], object]]] = {
    "numpy": (lambda seed, n: fuzz.build(random.Random(f"{seed}/{n}").choice), fuzz.check, str),
    "further": (lambda seed, n: fuzz.build(random.Random(f"{seed}/{n}/further").choice), fuzz.check_further, str),
    "complex": (
        lambda seed, n: complex_programs.build(random.Random(f"{seed}/{n}").choice),
        complex_programs.check,
        str,
    ),
    "writing": (lambda seed, n: 1_000_000 * seed + n, writing_programs.check, writing_programs.build),
}
"""How a program is made of a seed and a number, how it is checked, and how it is told."""
TILES: tuple[tuple[int, int] | None, ...] = (None, (1, 1), (2, 2), (3, 4))
"""Samples of a tile, and threads; or as small programs are carried out."""


def ended(kind: str, seed: int, n: int, by_turns: bool) -> str:
    """How a program ended: "right", how it was refused, or "wrong", which is printed."""
    make, check, told = KINDS[kind]
    program = make(seed, n)
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(checks, "CHECKED", True)
            if (tile := TILES[n // 8 % 4]) is not None:  # eight ways take turns
                tiles.tile_everything(patch, *tile)
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
            return check(program, n if by_turns else None) or "right"
    except Exception as error:
        named = isinstance(error, mj.MinijacError)
        print(f"--- {kind} {n} of seed {seed}\n{told(program)}\n{traceback.format_exc(limit=-3)}", flush=True)
        return f"raised {type(error).__name__}" if named else "wrong"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=int, default=300, help="how many of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--by-turns", action="store_true", help="each program in one way, the next in the next one")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after as many")
    options = parser.parse_args(arguments)
    start, ends = time.perf_counter(), {kind: Counter[str]() for kind in options.kinds}
    for n in range(options.programs):
        if time.perf_counter() - start > options.seconds:
            break
        for kind, counts in ends.items():
            counts[ended(kind, options.seed, n, options.by_turns)] += 1
        if n % 500 == 499:
            print(f"{n + 1} of each kind, {time.perf_counter() - start:.0f} s: {ends}", flush=True)
    for kind, counts in ends.items():
        print(f"{kind}: {counts.total()} programs, {dict(counts)}")
    print(f"{time.perf_counter() - start:.0f} s")
    return int(any("wrong" in counts for counts in ends.values()))


if __name__ == "__main__":
    sys.exit(main())
