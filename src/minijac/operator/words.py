"""The structure of a Jacobian in words."""

from __future__ import annotations

from collections.abc import Sequence

from ..algebra.factors import size_of
from ..algebra.labels import Axes, labels_in
from ..algebra.terms import Term
from .bands import offsets

__all__ = ["describe"]


def describe(terms: Sequence[Term], batched: bool) -> str:
    """The structure of a sum of terms in words: all its diagonals in one list, then the others."""
    diagonals: dict[tuple[int, ...], list[list[str]]] = {}
    words: list[str] = []
    for term in terms:
        out, inp = (term.out[1:], term.inp[1:]) if batched else (term.out, term.inp)
        off = offsets(out, inp)
        if off is not None:
            diagonals.setdefault(off, []).append(_qualities(term, batched))
        else:
            words.append(", ".join([_kind(term, out, inp), *_qualities(term, batched)]))
    if diagonals:
        qualities = [found for group in diagonals.values() for found in group]
        common = [quality for quality in qualities[0] if all(quality in other for other in qualities)]
        banded = f"banded ({_listed(sorted(diagonals))})" if any(map(any, diagonals)) else "diagonal"
        words.insert(0, ", ".join([banded, *common]))
    counted = {word: words.count(word) for word in words}
    return " + ".join(word if n == 1 else f"{n} x ({word})" for word, n in counted.items()) or "zero"


def _listed(found: Sequence[tuple[int, ...]]) -> str:
    def signed(offset: int) -> str:
        return f"{offset:+d}" if offset else "0"

    names = [signed(off[0]) if len(off) == 1 else f"({', '.join(map(signed, off))})" for off in found]
    return f"offset{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _kind(term: Term, out: Axes, inp: Axes) -> str:
    if term.listed:
        return f"{size_of(labels_in((*out, *inp)))} entries at listed positions"
    mine, theirs = labels_in(out), labels_in(inp)
    paired = [label for label in mine if label in theirs]
    if len(paired) == len(mine) == len(theirs):
        return "entries moved"
    return "block diagonal" if paired else "dense"


def _qualities(term: Term, batched: bool) -> list[str]:
    words = []
    samples = labels_in((term.out[0],)) if batched and term.out else {}
    if not any(label in factor.axes for factor in term.factors for label in samples):
        words.append("shared by all samples")
    if not term.factors:
        words.append("constant")
    if len(term.factors) > 1:
        words.append(f"product of {len(term.factors)} factors")
    return words
