"""Lyapunov exponents of Lorenz 96: how fast an ensemble of forecasts forgets where it began.

The model (Lorenz, Predictability: a problem partly solved, 1996) has forty variables around a circle of latitude,

    dx_k/dt = (x_{k+1} - x_{k-2}) x_{k-1} - x_k + 8

and a time unit is five days. Each member of an ensemble is a sample; the Jacobian of the flow over a few Runge-Kutta
steps, ``(B, 40, 40)``, comes from one call through `mj.scan`, and the exponents are the growth rates of a frame that it
carries along, made orthogonal again each time (Benettin et al., Meccanica 15, 1980). Three things are known of them:
errors double in 2.1 days (Lorenz and Emanuel, J. Atmos. Sci. 55, 1998), so the largest is about 1.65 for a time unit;
thirteen are positive, of a Kaplan-Yorke dimension of 27.1 (Karimi and Paul, Chaos 20, 2010); and they add up to the
trace of the Jacobian, exactly -40.

    python examples/lorenz96.py [--quick] [--out PICTURE.png]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from common import BLUE, GREY, ORANGE, Progress, options, pyplot, save, torch_or_none

import minijac as mj

SIZE, FORCING = 40, 8.0
DT, STEPS = 0.05, 4  # a Runge-Kutta step, and how many lie between two orthonormalisations
DAYS = 5.0  # in a time unit


def tendency(x: Any) -> Any:
    """x: (B, 40) -> dx/dt: (B, 40)."""
    return (np.roll(x, -1, 1) - np.roll(x, 2, 1)) * np.roll(x, 1, 1) - x + FORCING


def step(x: Any, _: None) -> tuple[Any, None]:
    """One step of the classical Runge-Kutta method."""
    k1 = tendency(x)
    k2 = tendency(x + DT / 2 * k1)
    k3 = tendency(x + DT / 2 * k2)
    k4 = tendency(x + DT * k3)
    return x + DT / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None


def flow(x: Any) -> Any:
    """The state after STEPS steps."""
    return mj.scan(step, x, None, STEPS)[0]


FLOW = mj.compile(mj.value_and_jacobian(flow))


class Growth(NamedTuple):
    """Growth rates of the frame's directions, for each window and member: (windows, B, 40)."""

    rates: np.ndarray
    state: np.ndarray

    @property
    def exponents(self) -> np.ndarray:
        return self.rates.mean((0, 1))


def grown(members: int, windows: int, rng: np.random.Generator) -> Growth:
    """Follow an ensemble and a frame for each of its members; the first windows, in which both settle, are left out."""
    x = FORCING + rng.normal(size=(members, SIZE))
    frame = np.broadcast_to(np.eye(SIZE), (members, SIZE, SIZE))
    settling = windows // 4
    rates = np.empty((windows, members, SIZE))
    with Progress(settling + windows, "windows") as progress:
        for n in range(-settling, windows):
            x, J = FLOW(x)
            frame, R = np.linalg.qr(J @ frame)
            if n >= 0:
                rates[n] = np.log(np.abs(np.diagonal(R, axis1=1, axis2=2))) / (DT * STEPS)
            progress.step()
    return Growth(rates, x)


def dimension(exponents: np.ndarray) -> float:
    """Kaplan and Yorke's: how many exponents, largest first, add up to zero."""
    total = np.cumsum(exponents)
    whole = int(np.flatnonzero(total >= 0)[-1]) + 1
    return whole + float(total[whole - 1] / -exponents[whole])


def check(x: np.ndarray) -> None:
    """The flow's Jacobian against torch, member by member."""
    torch = torch_or_none()
    if torch is None:
        return

    def one(x: Any) -> Any:
        def rate(x: Any) -> Any:
            return (torch.roll(x, -1) - torch.roll(x, 2)) * torch.roll(x, 1) - x + FORCING

        for _ in range(STEPS):
            k1 = rate(x)
            k2 = rate(x + DT / 2 * k1)
            k3 = rate(x + DT / 2 * k2)
            x = x + DT / 6 * (k1 + 2 * k2 + 2 * k3 + rate(x + DT * k3))
        return x

    expected = np.stack([torch.autograd.functional.jacobian(one, torch.tensor(member)).numpy() for member in x])
    print(f"against torch: largest error {np.abs(FLOW(x)[1] - expected).max():.1e}")


def picture(growth: Growth, path: Any) -> None:
    """The spectrum, and how the largest exponent settles."""
    plt = pyplot()
    figure, (a, b) = plt.subplots(1, 2, figsize=(9.0, 3.4), layout="constrained")
    a.axhline(0.0, color=GREY, linewidth=0.8)
    a.plot(np.arange(1, SIZE + 1), growth.exponents, "o-", color=BLUE, markersize=3.5, linewidth=0.9)
    a.set(title="Lyapunov exponents", xlabel="number", ylabel="for a time unit", xlim=(0, SIZE + 1))
    largest = growth.rates[:, :, 0]
    count = np.arange(1, len(largest) + 1)
    b.plot(count * DT * STEPS, np.cumsum(largest, 0) / count[:, None], color=BLUE, linewidth=0.6, alpha=0.5)
    b.axhline(np.log(2) / 2.1 * DAYS, color=ORANGE, linestyle="--", label="errors double in 2.1 days")
    b.set(title="the largest, of each member", xlabel="time units", ylabel="mean so far", ylim=(0.8, 2.6))
    b.legend(frameon=False, fontsize=8)
    save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    """Follow, judge, check, draw."""
    given = options(__doc__, "lorenz96", argv)
    members, windows = (16, 400) if given.quick else (64, 2000)
    growth = grown(members, windows, np.random.default_rng(0))
    exponents = growth.exponents
    doubling = np.log(2) / exponents[0] * DAYS
    print(f"largest exponent: {exponents[0]:.3f}, errors double in {doubling:.2f} days (2.1)")
    print(f"positive exponents: {int((exponents > 0.01).sum())} (13), dimension {dimension(exponents):.1f} (27.1)")
    print(f"sum of the exponents: {exponents.sum():.3f} (-40)")
    check(growth.state[:4])
    picture(growth, given.out)


if __name__ == "__main__":
    main()
