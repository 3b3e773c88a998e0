"""Composition: the term of one map after another, and what gives an axis a label of its own where structure ends."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from math import inf, prod
from typing import Any

from .factors import Array, Factor, contract, contract_to_one, size_of, spread
from .labels import Axes, Label, Listed, Misaligned, Vanishes, Window, axis_of, axis_size, labels_in
from .matching import solve
from .terms import Term, plain
from .writing import embed

__all__ = ["compose", "lone", "materialise", "meet", "reduced", "restrict"]


def compose(left: Sequence[Term], right: Sequence[Term], one: Array) -> list[Term]:
    """The terms of each of `left` after each of `right` that are not zero. Labels of the two are distinct.

    Terms that meet along the same axes do so at once: what becomes of an axis or an array is found once for all.
    """
    lefts, rights = dict[Any, list[Term]](), dict[Any, list[Term]]()
    for g in left:
        lefts.setdefault((g.inp, g.identity), []).append(g)
    for f in right:
        rights.setdefault((f.out, f.identity), []).append(f)
    made: list[Term] = []
    for (_, same), gs in lefts.items():
        for (_, alike), fs in rights.items():
            made += fs * len(gs) if same else gs * len(fs) if alike else _composed(gs, fs, one)
    return made


def _composed(gs: Sequence[Term], fs: Sequence[Term], one: Array) -> list[Term]:
    """The same, of terms that meet along the same axes."""
    inp, out, listed = gs[0].inp, fs[0].out, any(term.listed for term in (*gs, *fs))
    met: Axes = out
    if not listed and plain(inp) and plain(out):
        new = {a[0]: b[0] for a, b in zip(inp, out, strict=True) if a}
        gs = [_renamed(g, new) for g in gs]
    else:
        try:
            if listed:
                raise Misaligned  # what becomes of a list is a matter of each two
            gs, fs, met = _matched(gs, fs)
        except Vanishes:
            return []
        except Misaligned:
            return [term for g in gs for f in fs for term in _joined(g, f, one)]
    return [
        reduced(g.out, f.inp, met, (*g.factors, *f.factors), g.scale * f.scale, g.conj != f.conj)
        for g in gs
        for f in (fs if not g.conj else [f.conjugated for f in fs])
    ]


def _renamed(term: Term, new: dict[Any, Any]) -> Term:
    """The term with other labels in place of some."""
    new = new | {d: Window(new[d.label], *d[1:]) for axis in term.out for d in axis
                 if type(d) is Window and d.label in new}  # fmt: skip
    out = tuple([tuple([new.get(d, d) for d in axis]) for axis in term.out])
    factors = tuple([Factor(array, tuple([new.get(label, label) for label in axes])) for array, axes in term.factors])
    return Term(out, term.inp, factors, term.scale, term.conj)


def _matched(gs: Sequence[Term], fs: Sequence[Term]) -> tuple[list[Term], list[Term], Axes]:
    """The terms after substitutions that make the axes where they meet name the same positions, and those axes."""
    inp, out = gs[0].inp, fs[0].out
    axes = [inp, out, *(g.out for g in gs), *(f.inp for f in fs)]
    pairs = list(zip(inp, out, strict=True))[::-1]
    (inp, out, *ends), factors = solve(pairs, axes, [factor for term in (*gs, *fs) for factor in term.factors])
    rest = iter(factors)
    own = [(tuple(islice(rest, len(term.factors))), term.scale, term.conj) for term in (*gs, *fs)]
    first = [Term(end, inp, *each) for end, each in zip(ends, own[: len(gs)], strict=False)]
    then = [Term(out, end, *each) for end, each in zip(ends[len(gs) :], own[len(gs) :], strict=True)]
    return first, then, (*inp, *out)


def _joined(g: Term, f: Term, one: Array) -> list[Term]:
    """The term of `g` after `f`, or none, where structure may have to be given up."""
    met = meet(g, f.conjugated if g.conj else f, one)
    if met is None:
        return []
    before = size_of(g.labels()) + size_of(f.labels())
    g, f = met
    term = reduced(g.out, f.inp, (*g.inp, *f.out), (*g.factors, *f.factors), g.scale * f.scale, g.conj != f.conj)
    return [term.listed[0].settled(term, before, one) if term.listed else term]


def meet(g: Term, f: Term, one: Array) -> tuple[Term, Term] | None:
    """Two terms after substitutions that make `g.inp` and `f.out` name the same positions; None where they cannot."""
    while True:
        before, listed = (g, f), bool(g.listed or f.listed)
        for k in _in_turn(g, f) if listed else range(len(g.inp)):  # one by one, so that a failure names its axis
            try:
                most = _room(g.transposed, k) * _room(f, k) if listed else inf
                solved = solve([(g.inp[k], f.out[k])], [g.out, g.inp, f.out, f.inp], [*g.factors, *f.factors], most)
            except Misaligned:
                break
            except Vanishes:
                return None
            (out, g_inp, f_out, inp), factors = solved
            count = len(g.factors)
            g = Term(out, g_inp, tuple(factors[:count]), g.scale, g.conj)
            f = Term(f_out, inp, tuple(factors[count:]), f.scale, f.conj)
        else:
            return g, f
        if listed:  # what was matched so far would share labels that go
            g, f = before
        if f.listed and len(f.out[k]) > 1:
            f = f.listed[0].merged(f, k)
        elif g.listed and len(g.inp[k]) > 1:
            g = g.listed[0].merged(g.transposed, k).transposed
        elif not lone(f, k):
            f = materialise(f, k, one)
        else:
            g = materialise(g.transposed, k, one).transposed


def _in_turn(g: Term, f: Term) -> list[int]:
    """The axes where lists meet before those where one replaces a label: the list is then no longer than it will be."""
    lists = [any(isinstance(digit, Listed) for digit in a) + any(isinstance(digit, Listed) for digit in b)
             for a, b in zip(g.inp, f.out, strict=True)]  # fmt: skip
    return sorted(range(len(lists)), key=lambda k: (3 - lists[k]) % 3)


def reduced(out: Axes, inp: Axes, met: Axes, factors: tuple[Factor, ...], scale: complex, conj: bool = False) -> Term:
    """A term whose factors have only labels of its axes; the labels in `met` are summed where nothing else has them."""
    keep = labels_in(out) | labels_in(inp)
    for label in labels_in(met):
        if label not in keep and all(label not in axes for _, axes in factors):
            scale *= label.size
    constants = [array for array, axes in factors if not axes]
    if constants and all(type(c) in (float, int, complex) for c in constants):
        scale *= prod(constants)
        factors = tuple(factor for factor in factors if factor.axes)
    if scale != 1.0 and len(factors) > 1:  # into the smallest of what is multiplied anyway
        gone = [factor for factor in factors if any(label not in keep for label in factor.axes)]
        least = min(gone, key=lambda factor: size_of(factor.axes), default=factors[0])
        if len(gone) > 1 and size_of(least.axes) <= size_of(keep):  # or the result, which is smaller still
            scaled = Factor(least.array * scale, least.axes)
            factors, scale = tuple([scaled if factor is least else factor for factor in factors]), 1.0
    return Term(out, inp, contract(factors, keep) if factors else (), scale, conj)


def restrict(term: Term, out_axis: int, inp_axis: int, one: Array) -> Term | None:
    while True:
        pair = (term.out[out_axis], term.inp[inp_axis])
        try:
            (out, inp), factors = solve([pair], [term.out, term.inp], list(term.factors))
        except Vanishes:
            return None
        except Misaligned:
            if lone(term, out_axis):
                term = materialise(term.transposed, inp_axis, one).transposed
            else:
                term = materialise(term, out_axis, one)
        else:
            return Term(out, inp, tuple(factors), term.scale, term.conj)


def lone(term: Term, k: int, several: bool = False) -> bool:
    """Whether output axis `k` is one whole label (or `several`) that stands nowhere else in the term's axes."""
    axis = term.out[k]
    if (len(axis) > 1 and not several) or any(type(digit) is not Label for digit in axis) or len(set(axis)) < len(axis):
        return False
    return not axis or labels_in((*term.out[:k], *term.out[k + 1 :], *term.inp)).keys().isdisjoint(axis)


def _room(term: Term, k: int) -> int:
    """How many entries the axes of the other side have that are tied to output axis `k`."""
    mine = labels_in((term.out[k],)).keys()
    return prod(axis_size(axis) for axis in term.inp if not mine.isdisjoint(labels_in((axis,))))


def materialise(term: Term, k: int, unit: Array) -> Term:
    """Give output axis `k` one label of its own: what tied it to other axes becomes data."""
    mine = labels_in((term.out[k],))
    tied = any(not mine.keys().isdisjoint(digit.axes) for digit in term.listed)
    if tied and lone(term := term.without_listed(unit), k):
        return term
    axis = term.out[k]
    (new,) = fresh = axis_of(axis_size(axis))
    assert type(new) is Label
    elsewhere = labels_in((*term.out[:k], *term.out[k + 1 :], *term.inp))
    mine = labels_in((axis,))
    touched = [factor for factor in term.factors if not mine.keys().isdisjoint(factor.axes)]
    others = tuple(factor for factor in term.factors if all(factor is not t for t in touched))
    keep = elsewhere | mine
    one = contract_to_one(touched, keep) if touched else Factor(unit, ())
    labels = tuple(one.axes) + tuple(label for label in mine if label not in one.axes)
    array = spread(one, labels)
    stays = tuple(label for label in labels if label in elsewhere)
    data = embed(array, labels, (*((label,) for label in stays), axis), (*(label.size for label in stays), new.size))
    factors = (*others, Factor(data, (*stays, new)))
    return Term((*term.out[:k], fresh, *term.out[k + 1 :]), term.inp, factors, term.scale, term.conj)
