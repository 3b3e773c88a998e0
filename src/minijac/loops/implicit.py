"""root and fixed_point: solutions of equations, differentiated by the implicit function theorem."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from ..arguments import fitting, flatten, known_calls, returned, unflatten
from ..backend import is_array, value_of
from ..errors import ConvergenceError, InputError, UnsupportedOperationError
from ..lines import user_line
from ..numpy.ordered import laid
from ..numpy.picked import Rows
from ..tape.op import Op
from ..transforms.first import jacobian
from ..transforms.vmap import OneSample
from ..ways.closing import Closed, as_inside, innermost

__all__ = ["fixed_point", "root"]

Function = Callable[..., Any]
HALVINGS = 30
"""How often a step that does not come nearer is halved before a sample is given up."""


@known_calls
def root(
    f: Function, x0: Any, *args: Any, solver: Function | None = None, rtol: float | None = None, max_steps: int = 50
) -> Any:
    """`x` with ``f(x, *args) = 0`` for every sample, differentiable with respect to `args` and to what `f` captures.

    Args:
        f: ``f(x, *args)``, of the whole batch: (B, *in) to (B, *in), each sample by itself.
        x0: (B, *in), where to start; no derivative is taken with respect to it.
        args: Pytrees of arrays.
        solver: ``solver(f, x0, *args)`` finds x in place of Newton's method; it is given plain arrays.
        rtol: A sample has converged when Newton's step is so small beside it; the default is the 2/3 power of its
            dtype's precision.
        max_steps: Newton steps at most.

    Newton's method takes per-sample Jacobians from minijac; a step that does not come nearer is halved, and samples
    that have converged rest. The derivative is ``-(df/dx)^-1 df/dargs`` at the solution, whatever steps led there.

    Raises ConvergenceError, which names the samples; BatchMixingError where `f` mixes them.

    Cost: for each step an evaluation of `f`, its Jacobian and a solve, (B, n, n); for the derivative one of each.

    >>> import numpy as np, minijac as mj
    >>> square_root = lambda a: mj.root(lambda x, a: x * x - a, np.ones((2, 1)), a)
    >>> a = np.array([[4.0], [9.0]])
    >>> square_root(a)[:, 0], mj.jacobian(square_root)(a)[:, 0, 0].round(6)
    (array([2., 3.]), array([0.25    , 0.166667]))
    """
    return _Equation("root", f, x0, args, lambda x, value: value, solver, rtol, max_steps).solution()


@known_calls
def fixed_point(
    f: Function, x0: Any, *args: Any, solver: Function | None = None, rtol: float | None = None, max_steps: int = 50
) -> Any:
    """`x` with ``f(x, *args) = x`` for every sample, differentiable as that of `root`, whose arguments it has.

    >>> import numpy as np, minijac as mj
    >>> cosine = lambda a: mj.fixed_point(lambda x, a: a * np.cos(x), np.ones((1, 1)), a)
    >>> cosine(np.ones((1, 1))).round(6)
    array([[0.739085]])
    """
    return _Equation("fixed_point", f, x0, args, lambda x, value: value - x, solver, rtol, max_steps).solution()


class _Equation:
    """What is to be zero, as a function of x and of the operands that traces follow."""

    def __init__(
        self,
        name: str,
        f: Function,
        x0: Any,
        args: tuple[Any, ...],
        residual: Function,
        solver: Function | None,
        rtol: float | None,
        max_steps: int,
    ) -> None:
        self.name, self.f, self.solver, self._residual = name, f, solver, residual
        self.x0 = start = value_of(x0)
        if not hasattr(start, "dtype") or start.dtype.kind != "f" or not start.ndim:
            got = f"{start.dtype}{list(start.shape)}" if hasattr(start, "dtype") else type(start).__name__
            raise InputError(f"{name}: x0: expected floats with the samples on axis 0, (B, *in), got {got}.")
        for what, given in (("f", f), ("solver", solver)):
            if not callable(given) and (given is not None or what == "f"):
                raise InputError(f"{name}: {what}: expected a function, got {type(given).__name__}.")
        if type(max_steps) is not int or max_steps < 1:
            raise InputError(f"{name}: max_steps: expected a positive int, got {max_steps!r}.")
        if rtol is not None and (not isinstance(rtol, int | float | np.number) or not rtol >= 0):
            raise InputError(f"{name}: rtol: expected a number of at least 0 or None, got {rtol!r}.")
        self.rtol = float(np.finfo(start.dtype).eps) ** (2 / 3) if rtol is None else rtol
        self.max_steps = max_steps
        self.line = user_line()
        self.leaves, self.tree = flatten((start, *args))
        with self._fitting():
            self.closed = Closed(f, (start, *args), {}, free=True)
        self.closed.first = None

    def _of(self, x: Any, operands: Sequence[Any]) -> Any:
        """What is to be zero."""
        count = len(self.leaves) - 1
        with self._fitting():
            return self._residual(x, self._checked(self.closed(operands[count:], [x, *operands[:count]])))

    def _fitting(self) -> AbstractContextManager[None]:
        expected = f"{self.name}: x0: expected the samples on axis 0, as many as f takes beside it"
        return fitting(expected, self.x0, self.leaves[1:], "Start from an x0 of the solution's shape.")

    def _checked(self, value: Any) -> Any:
        if np.shape(returned(value, self.f)) != np.shape(self.x0):
            raise InputError(
                f"{self.name}: expected a function that returns an array of x's shape {np.shape(self.x0)}, as many "
                f"equations as unknowns, got {np.shape(value)}. Give x0 the shape of the solution."
            )
        return value

    def solution(self) -> Any:
        return self._solved([*map(as_inside, self.leaves[1:]), *self.closed.operands])

    def _solved(self, operands: Sequence[Any]) -> Any:
        """The solution for these operands: found where they are plain, and one Newton step on each trace above.

        That step changes nothing but the derivative: ``x - J^-1 f(x, args)`` has that of the implicit function theorem.
        """
        operands = [*map(laid, operands)]
        trace = innermost([self.x0, *operands])
        if trace is None:
            return self._found(self.x0, operands)
        if isinstance(trace, OneSample | Rows):
            raise UnsupportedOperationError(
                f"{self.name} at {self.line}: got values under minijac.vmap, or that a mask picks under "
                "minijac.compile. It solves for a whole batch, x of shape (B, *in), at once: call it outside of vmap, "
                "with the samples on axis 0, and for all of them, `np.where(m, solution, y)`."
            )
        if trace.program is trace:
            return SOLUTION(self.x0, *operands, equation=self._found)
        below = [x.value if getattr(x, "home", None) is trace else x for x in operands]
        x = self._solved(below)
        x = self._step(x, below, operands)
        for _ in range(0 if trace.takes_steps else 2):  # one pass may take several derivatives: each step doubles them
            x = self._step(x, operands, operands)
        return x

    def _step(self, x: Any, fixed: Sequence[Any], operands: Sequence[Any]) -> Any:
        J = jacobian(lambda z: self._of(z, fixed))(x)
        return x - _solve(J, self._of(x, operands))

    # -- plain arrays --------------------------------------------------------------------------------------------------
    def _found(self, start: Any, operands: Sequence[Any]) -> Any:
        with np.errstate(all="ignore"):
            return (self._newton if self.solver is None else self._by_solver)(start, operands)

    def _newton(self, start: Any, operands: Sequence[Any]) -> Any:
        def g(x: Any) -> Any:
            return self._of(x, operands)

        x, value = start, g(start)
        norm = _norm(value)
        scale, active = _norm(x), norm != 0
        failed = np.zeros_like(active)
        for _ in range(self.max_steps):
            if not active.any():
                break
            step, solved = _newton_step(jacobian(g)(x), value)
            small = solved & (_norm(step) <= self.rtol * scale)
            x, value, stuck = _nearer(g, x, value, step, active, small)
            scale = np.maximum(scale, _norm(x))
            failed = failed | (active & stuck & ~small)
            active = active & ~small & ~failed & (_norm(value) != 0)
        self._raise_unless(~(active | failed) & np.isfinite(_norm(value)), value)
        return x

    def _by_solver(self, start: Any, operands: Sequence[Any]) -> Any:
        """What the user's solver finds, checked by the Newton step that is left."""
        count = len(self.leaves) - 1
        f = lambda x, *args: self.closed(operands[count:], flatten((x, *args))[0])  # noqa: E731
        with self._fitting():
            x = self.solver(f, *unflatten(self.tree, [start, *operands[:count]]))  # type: ignore[misc]
        x = x if is_array(x) else np.asarray(x, start.dtype)
        if x.shape != start.shape:
            raise InputError(f"{self.name}: expected the solver to return shape {start.shape}, got {x.shape}.")
        value = self._of(x, operands)
        left, solved = _newton_step(jacobian(lambda z: self._of(z, operands))(x), value)
        near = solved & (_norm(left) <= 1e-3 * np.maximum(_norm(x), _norm(start)))
        self._raise_unless(near | (_norm(value) == 0), value)
        return x

    def _raise_unless(self, converged: Any, value: Any) -> None:
        if bool(converged.all()):
            return
        samples = [int(n) for n in np.flatnonzero(~converged)]
        norms = _norm(value)
        shown = ", ".join(f"{n} (residual {float(norms[n]):.2g})" for n in samples[:5])
        more = f" and {len(samples) - 5} more" if len(samples) > 5 else ""
        how = f"in {self.max_steps} Newton steps" if self.solver is None else "by the given solver"
        raise ConvergenceError(
            f"{self.name} at {self.line}: {len(samples)} of {len(converged)} samples did not converge {how}: {shown}"
            f"{more}. Expected an x for which all residuals vanish. Try an x0 that is nearer, more max_steps=, a "
            "larger rtol=, or a solver= of your own; where the Jacobian is singular there may be no single solution."
        )


def _norm(x: Any) -> Any:
    """The largest absolute entry of each sample."""
    return np.max(np.abs(x), axis=tuple(range(1, x.ndim)), initial=0.0)


def _solve(J: Any, value: Any) -> Any:
    """``J^-1 value`` for each sample: J (B, *in, *in), value (B, *in)."""
    n = int(np.prod(value.shape[1:], dtype=int))
    columns = value.reshape((len(value), n, 1))
    return np.linalg.solve(J.reshape((len(value), n, n)), columns).reshape(value.shape)


def _newton_step(J: Any, value: Any) -> tuple[Any, Any]:
    """As `_solve`, and for which samples it solves: where some matrix is singular it is the least squares solution."""
    try:
        step = _solve(J, value)
        if bool(np.isfinite(step).all()):
            return step, np.ones(len(value), bool)
    except np.linalg.LinAlgError:
        pass
    n = int(np.prod(value.shape[1:], dtype=int))
    J, columns = J.reshape((len(value), n, n)), value.reshape((len(value), n, 1))
    safe = np.where(np.isfinite(J).all(axis=(1, 2), keepdims=True), J, 0.0)
    step = np.linalg.pinv(safe) @ columns
    return step.reshape(value.shape), _norm(safe @ step - columns) <= 0.5 * _norm(value)


def _nearer(g: Function, x: Any, value: Any, step: Any, active: Any, small: Any) -> tuple[Any, Any, Any]:
    """``x - t step`` with t halved until the residual is less, its residual, and the samples where it never is."""
    norm = _norm(value)
    wide = (slice(None), *[None] * (x.ndim - 1))
    t = np.where(active, 1.0, 0.0).astype(x.dtype)
    for _ in range(HALVINGS):
        new = np.where((t > 0)[wide], x - t[wide] * step, x)
        found = g(new)
        worse = (t > 0) & ~(_norm(found) < norm)
        if not worse.any():
            break
        t = np.where(worse, np.where(small, 0.0, t / 2), t).astype(x.dtype)
    else:
        t = np.where(worse, 0.0, t).astype(x.dtype)
        new = np.where((t > 0)[wide], x - t[wide] * step, x)
        found = g(new)
    return new, found, active & (t == 0)


def _carried_out(*operands: Any, equation: Function) -> Any:
    return equation(operands[0], operands[1:])


SOLUTION = Op("solution", _carried_out)
"""The solution for a start and operands of a program, found anew in every call of it."""
