"""Programs that are unrolled by nature: first calls, eager and compiled, and steady calls, beside jitted JAX's.

Run `python benchmarks/programs.py`; see benchmarks/README.md. Processor time, each library in a process of its own: it
does not grow when the machine is busy. Every program is a function of one namespace, so that both run the same lines.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).resolve().parent / "results" / "programs-cpu.json"
RNG = np.random.default_rng(0)
PATIENCE = 150
"""Seconds after which a library is given up on a program."""
LINKS = [(0.1 * (k + 1), 0.3 - 0.03 * k) for k in range(6)]
"""Mass and inertia."""
ARM = (np.array([0.0, 0.0, 1.0]), np.array([0.0, 0.0, 9.81]), *(RNG.normal(size=3) * 0.1 for _ in range(6)))
"""The axis of a joint, the pull of gravity, and where the links' masses are."""


def cross(xp: Any, a: Any, b: Any) -> Any:
    x, y, z = (a[..., 1] * b[..., 2] - a[..., 2] * b[..., 1], a[..., 2] * b[..., 0] - a[..., 0] * b[..., 2],
               a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0])  # fmt: skip
    return xp.stack([x, y, z], -1)


def turned(xp: Any, angle: Any, v: Any, back: bool) -> Any:
    """About z and then tilted, there or back."""
    c, s = xp.cos(angle), (-1.0 if back else 1.0) * xp.sin(angle)
    if back:
        v = xp.stack([v[..., 0], -v[..., 2], v[..., 1]], -1)
    x, y = c * v[..., 0] + s * v[..., 1], c * v[..., 1] - s * v[..., 0]
    return xp.stack([x, y, v[..., 2]], -1) if back else xp.stack([x, v[..., 2], -y], -1)


def inverse_dynamics(xp: Any, state: Any, axis: Any = ARM[0], gravity: Any = ARM[1], *places: Any) -> Any:
    """Torques of six links by Newton and Euler's recursion: angles, rates and accelerations (B, 18) -> (B, 6)."""
    turn = rise = 0.0 * state[..., :3]
    pull = turn + gravity
    forces = []
    for k, ((mass, inertia), at) in enumerate(zip(LINKS, places or ARM[2:], strict=True)):
        q, w, a = state[..., k], state[..., 6 + k, None], state[..., 12 + k, None]
        turn, rise, pull = (turned(xp, q, v, False) for v in (turn, rise, pull))
        rise = rise + axis * a + cross(xp, turn, axis * w)
        turn = turn + axis * w
        place = turn * 0.0 + at
        pull = pull + cross(xp, rise, place) + cross(xp, turn, cross(xp, turn, place))
        forces.append((mass * pull, inertia * rise + cross(xp, turn, inertia * turn), place))
    force = moment = 0.0 * state[..., :3]
    torques = []
    for k in range(5, -1, -1):
        own, spin, place = forces[k]
        moment = spin + moment + cross(xp, place, own) + cross(xp, place, force)
        force = own + force
        torques.append(moment[..., 2])
        force, moment = (turned(xp, state[..., k], v, True) for v in (force, moment))
    return xp.stack(torques[::-1], -1)


def projection(xp: Any, x: Any) -> Any:
    """A camera's picture of points with radial distortion: pose, lens and point (B, 12) -> (B, 2)."""
    w, t, (f, k1, k2), p = x[..., :3], x[..., 3:6], (x[..., 6:7], x[..., 7:8], x[..., 8:9]), x[..., 9:12]
    angle = xp.sqrt((w * w).sum(-1)[..., None] + 1e-12)
    u = w / angle
    c, s = xp.cos(angle), xp.sin(angle)
    p = c * p + s * cross(xp, u, p) + (1 - c) * u * (u * p).sum(-1)[..., None] + t
    flat = p[..., :2] / p[..., 2:]
    square = (flat * flat).sum(-1)[..., None]
    return f * flat * (1 + k1 * square + k2 * square * square)


def kinetics(xp: Any, y: Any) -> Any:
    """Twenty steps of ozone's and nitrogen's chemistry in columns: (B, 6) -> (B, 6)."""
    rates = [(0.1, (0, 1), (2,)), (0.3, (2,), (0, 1)), (0.2, (1, 3), (4,)), (0.05, (4, 0), (3, 5)), (0.1, (5,), (1, 3))]
    for _ in range(20):
        c = [y[..., k] for k in range(6)]
        change: list[Any] = [0.0] * 6
        for rate, left, right in rates:
            flow = rate * c[left[0]] * (c[left[1]] if len(left) > 1 else 1.0) / (1.0 + c[left[0]])
            for k in left:
                change[k] = change[k] - flow
            for k in right:
                change[k] = change[k] + flow
        y = y + 0.05 * xp.stack(change, -1)
    return y


def axon_step(xp: Any, s: Any) -> Any:
    """One step of Euler's for Hodgkin and Huxley's axon: (B, 4) -> (B, 4)."""
    v, gates = s[..., :1], s[..., 1:]
    m, h, n = gates[..., :1], gates[..., 1:2], gates[..., 2:]
    current = 120 * m * m * m * h * (v - 50) + 36 * n * n * n * n * (v + 77) + 0.3 * (v + 54.387)
    am = -0.1 * (v + 40) / xp.expm1(-(v + 40) / 10)
    an = -0.01 * (v + 55) / xp.expm1(-(v + 55) / 10)
    rise = xp.concatenate([am, 0.07 * xp.exp(-(v + 65) / 20), an], -1)
    fall = xp.concatenate([4 * xp.exp(-(v + 65) / 18), 1 / (1 + xp.exp(-(v + 35) / 10)),
                           0.125 * xp.exp(-(v + 65) / 80)], -1)  # fmt: skip
    return xp.concatenate([v + 0.01 * (10 - current), gates + 0.01 * (rise * (1 - gates) - fall * gates)], -1)


def axon(xp: Any, s: Any, steps: int = 200) -> Any:
    """All steps: (B, 4) -> (B, 4)."""
    for _ in range(steps):
        s = axon_step(xp, s)
    return s


def volumes(xp: Any, u: Any, steps: int = 8) -> Any:
    """Advection in two dimensions by finite volumes with van Leer's limiter: (B, 8, 8) -> (B, 8, 8)."""
    for _ in range(steps):
        for axis in (-1, -2):
            right, left = xp.roll(u, -1, axis) - u, u - xp.roll(u, 1, axis)
            both = right * left
            slope = xp.where(both > 0, 2 * both / xp.where(both > 0, right + left, 1.0), 0.0)
            flux = u + 0.4 * slope
            u = u - 0.2 * (flux - xp.roll(flux, 1, axis))
    return u


def geodetic(xp: Any, p: Any) -> Any:
    """Longitude, latitude, height by Bowring's formula, twice (Survey Review 23, 1976): (B, 3) -> (B, 3)."""
    a, e2 = 6.378137, 6.69437999014e-3
    b, x, y, z = a * (1 - e2) ** 0.5, p[..., 0], p[..., 1], p[..., 2]
    r = xp.sqrt(x * x + y * y)
    t = z / ((1 - e2) * r)
    for _ in range(2):
        beta = xp.arctan(b / a * t)
        t = (z + e2 / (1 - e2) * b * xp.sin(beta) ** 3) / (r - e2 * a * xp.cos(beta) ** 3)
    latitude = xp.arctan(t)
    normal = a / xp.sqrt(1 - e2 * xp.sin(latitude) ** 2)
    return xp.stack([xp.arctan2(y, x), latitude, r / xp.cos(latitude) - normal], -1)


def acrobot_rates(xp: Any, s: Any) -> Any:
    """Two links hanging from each other, no torque (Spong, IEEE Control Systems 15, 1995): (B, 4) -> (B, 4)."""
    q1, q2, w1, w2 = (s[..., k] for k in range(4))
    d2 = 0.25 + 0.5 * xp.cos(q2) + 1.0
    d1 = d2 + 1.5 + 0.5 * xp.cos(q2)
    phi2 = 0.5 * 9.8 * xp.sin(q1 + q2)
    phi1 = -0.5 * w2 * xp.sin(q2) * (w2 + 2 * w1) + 1.5 * 9.8 * xp.sin(q1) + phi2
    a2 = (d2 / d1 * phi1 - 0.5 * w1 * w1 * xp.sin(q2) - phi2) / (1.25 - d2 * d2 / d1)
    return xp.stack([w1, w2, -(d2 * a2 + phi1) / d1, a2], -1)


def acrobot_step(xp: Any, s: Any) -> Any:
    """One step of Runge and Kutta's: (B, 4) -> (B, 4)."""
    h = 0.05
    k1 = acrobot_rates(xp, s)
    k2 = acrobot_rates(xp, s + h / 2 * k1)
    k3 = acrobot_rates(xp, s + h / 2 * k2)
    k4 = acrobot_rates(xp, s + h * k3)
    return s + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def acrobot(xp: Any, s: Any, steps: int = 100) -> Any:
    """All steps: (B, 4) -> (B, 4)."""
    for _ in range(steps):
        s = acrobot_step(xp, s)
    return s


def filtered(xp: Any, y: Any, steps: int = 12) -> Any:
    """Likelihood of angles of a pendulum by an extended Kalman filter: noises and angles (B, 2 + steps) -> (B,).

    The transition's Jacobians are taken inside, by the library that takes the whole's.
    """
    q, r, seen = xp.exp(y[..., :1]), xp.exp(y[..., 1]), y[..., 2:]

    def moved(m: Any) -> Any:
        return xp.stack([m[..., 0] + 0.1 * m[..., 1], m[..., 1] - 0.981 * xp.sin(m[..., 0])], -1)

    jacobian = jacobian_inside(xp)
    noise = q[..., None] * np.array([[0.01, 0.0], [0.0, 0.1]])
    m, P, total = 0.0 * y[..., :2] + np.array([0.5, 0.0]), noise + np.eye(2), 0.0
    for k in range(steps):
        F = jacobian(moved)(m)
        m, P = moved(m), F @ P @ xp.swapaxes(F, -1, -2) + noise
        s, off = P[..., 0, 0] + r, seen[..., k] - xp.sin(m[..., 0])
        gain = P[..., :, 0] / s[..., None]
        total = total - 0.5 * (off * off / s + xp.log(s))
        m, P = m + gain * off[..., None], P - gain[..., :, None] * P[..., None, 0, :]
    return total


def jacobian_inside(xp: Any) -> Any:
    """What takes Jacobians of a function of `xp`: of samples for minijac, of one sample for JAX."""
    if xp is np:
        import minijac as mj

        return mj.jacobian
    import jax

    return jax.jacfwd


def in_scan(step: Callable[[Any, Any], Any], steps: int) -> Callable[[Any, Any], Any]:
    """A loop as JAX wants it written."""

    def scanned(xp: Any, s: Any) -> Any:
        from jax import lax

        return lax.scan(lambda s, _: (step(xp, s), None), s, None, steps)[0]

    return scanned


ANGLES = RNG.normal(size=(256, 4)) * 0.5
POINTS = RNG.normal(size=(4096, 3))
PROGRAMS: dict[str, tuple[Callable[[Any, Any], Any], np.ndarray]] = {
    "inverse dynamics": (inverse_dynamics, RNG.normal(size=(256, 18))),
    "camera, 20,000": (projection, RNG.normal(size=(20_000, 12)) * 0.2 + np.array([0.0] * 11 + [3.0])),
    "geodetic": (geodetic, 6.4 * POINTS / np.sqrt((POINTS * POINTS).sum(1, keepdims=True))),
    "kinetics": (kinetics, RNG.random((1024, 6))),
    "acrobot, one step": (acrobot_step, ANGLES),
    "acrobot, 100 steps": (acrobot, ANGLES),
    "axon, 200 steps": (axon, np.array([-60.0, 0.1, 0.6, 0.35]) + RNG.random((64, 4)) * 0.1),
    "Kalman filter": (filtered, RNG.normal(size=(128, 14)) * 0.3),
    "finite volumes": (volumes, RNG.random((16, 8, 8))),
}
SCANS = {"acrobot, 100 steps": in_scan(acrobot_step, 100), "axon, 200 steps": in_scan(axon_step, 200)}
"""Loops of hundreds of steps as JAX wants them; ours are written as plain loops."""


def seconds(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def of_minijac(name: str) -> dict[str, float]:
    """Ours: eager, a forward sweep alone, and compiled."""
    import minijac as mj
    from minijac.memo import Memo

    program, x = PROGRAMS[name]
    f = lambda x: program(np, x)
    found = {}
    for way, options in (("forward sweep", {"mode": "forward"}), ("eager, first", {})):
        Memo.clear_all()
        found[way] = seconds(lambda options=options: mj.jacobian(f, **options)(x))
    Memo.clear_all()
    compiled = mj.compile(mj.jacobian(f))
    found["compiled, first"] = seconds(lambda: compiled(x))
    found["compiled, next"] = min(seconds(lambda: compiled(x)) for _ in range(5))
    return found


def of_jax(name: str) -> dict[str, float]:
    """JAX's, the faster of its two modes."""
    import jax

    jax.config.update("jax_enable_x64", True)
    program, x = PROGRAMS[name]
    one = lambda row: SCANS.get(name, program)(jax.numpy, row)
    best: dict[str, float] = {}
    for mode in (jax.jacfwd, jax.jacrev):
        jitted = jax.jit(jax.vmap(mode(one)))
        first = seconds(lambda jitted=jitted: jitted(x).block_until_ready())
        following = min(seconds(lambda jitted=jitted: jitted(x).block_until_ready()) for _ in range(5))
        if not best or following < best["JAX, next"]:
            best = {"JAX, first": first, "JAX, next": following}
    return best


def main() -> None:
    """Measure all programs, print milliseconds, store seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=2, metavar=("LIBRARY", "PROGRAM"), help="one library on one program, as JSON")
    parser.add_argument("--jax", default=sys.executable, help="the Python that has JAX")
    parser.add_argument("--only", help="ours alone, of one program, not stored")
    given = parser.parse_args()
    if given.one:
        print(json.dumps((of_jax if given.one[0] == "jax" else of_minijac)(given.one[1])))
        return
    rows: dict[str, dict[str, float]] = {}
    for name in [given.only] if given.only else PROGRAMS:
        rows[name] = {}
        for python, library in ((sys.executable, "minijac"), *(() if given.only else ((given.jax, "jax"),))):
            with suppress(subprocess.TimeoutExpired):  # as JAX's compiler does not end where steps are many
                call = [python, __file__, "--one", library, name]
                done = subprocess.run(call, capture_output=True, text=True, check=True, timeout=PATIENCE)
                rows[name] |= json.loads(done.stdout.splitlines()[-1])
        print(f"{name:18}" + "".join(f"  {way} {1e3 * value:.1f}" for way, value in rows[name].items()), flush=True)
    if not given.only:
        RESULTS.write_text(json.dumps({"seconds": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
