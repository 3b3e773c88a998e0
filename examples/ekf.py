"""256 extended Kalman filters at once: covariances carried through per-sample Jacobians of motion and measurement.

Robots drive about among landmarks, each with its own commands, executed inexactly. Each has a filter for its pose
(x, y, heading), which sees ranges and bearings now and then. Nothing is derived by hand: one call gives each robot's
Jacobians of its motion, with respect to its pose ``(B, 3, 3)`` and to its command ``(B, 3, 2)``, another those of its
measurement ``(B, 10, 3)``. The filters are judged by their consistency: the squared error in units of its own
covariance (NEES) has to follow a chi-squared distribution. The Jacobians are checked against torch.

    python examples/ekf.py [--quick] [--out PICTURE.png]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from common import BLUE, GREEN, GREY, ORANGE, Progress, needed, options, pyplot, save, torch_or_none

import minijac as mj

DT = 0.1  # s
EVERY = 10  # steps between measurements
COMMAND_NOISE = np.array([0.15, 0.10])  # m/s, rad/s: standard deviations of what is executed about what was asked
RANGE_NOISE, BEARING_NOISE = 0.40, 0.06  # m, rad
LANDMARKS = np.array([[6.0, 1.0], [1.0, 7.0], [-7.0, 2.0], [-2.0, -6.0], [5.0, -7.0]])


def motion(pose: np.ndarray, command: np.ndarray) -> np.ndarray:
    """pose (x, y, heading): (B, 3), command (speed, turn rate): (B, 2) -> the pose after DT: (B, 3)."""
    x, y, heading = pose[:, 0], pose[:, 1], pose[:, 2]
    speed, turn = command[:, 0], command[:, 1]
    middle = heading + 0.5 * DT * turn
    return np.stack([x + DT * speed * np.cos(middle), y + DT * speed * np.sin(middle), heading + DT * turn], 1)


def measurement(pose: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """pose: (B, 3), landmarks: (L, 2), the same for all -> ranges and bearings: (B, 2 L)."""
    offset = landmarks - pose[:, None, :2]
    ranges = np.sqrt((offset**2).sum(2))
    bearings = np.arctan2(offset[:, :, 1], offset[:, :, 0]) - pose[:, 2:]
    return np.concatenate([ranges, bearings], 1)


MOTION = mj.compile(mj.value_and_jacobian(motion, argnums=(0, 1)))
MEASUREMENT = mj.compile(mj.value_and_jacobian(measurement, batch_axis=(0, None)))


class Filters(NamedTuple):
    """Estimates of B poses: mean (B, 3), covariance (B, 3, 3)."""

    mean: np.ndarray
    covariance: np.ndarray


def predict(filters: Filters, command: np.ndarray) -> Filters:
    """After a step of motion."""
    mean, (F, G) = MOTION(filters.mean, command)
    noise = G * COMMAND_NOISE  # (B, 3, 2): how the error of a command moves the pose
    return Filters(mean, F @ filters.covariance @ F.transpose(0, 2, 1) + noise @ noise.transpose(0, 2, 1))


def update(filters: Filters, seen: np.ndarray) -> Filters:
    """After a measurement, seen: (B, 2 L)."""
    expected, H = MEASUREMENT(filters.mean, LANDMARKS)
    R = np.diag(np.repeat([RANGE_NOISE**2, BEARING_NOISE**2], len(LANDMARKS)))
    PHt = filters.covariance @ H.transpose(0, 2, 1)
    gain = np.linalg.solve(H @ PHt + R, PHt.transpose(0, 2, 1)).transpose(0, 2, 1)
    surprise = seen - expected
    surprise[:, len(LANDMARKS) :] = wrapped(surprise[:, len(LANDMARKS) :])
    left = np.eye(3) - gain @ H  # Joseph's form keeps the covariance symmetric and positive
    covariance = left @ filters.covariance @ left.transpose(0, 2, 1) + gain @ R @ gain.transpose(0, 2, 1)
    return Filters(filters.mean + (gain @ surprise[:, :, None])[:, :, 0], covariance)


def wrapped(angle: np.ndarray) -> np.ndarray:
    """The angle in [-pi, pi)."""
    return (angle + np.pi) % (2.0 * np.pi) - np.pi


def errors(truth: np.ndarray, filters: Filters) -> np.ndarray:
    """Error of each pose: (B, 3)."""
    e = truth - filters.mean
    e[:, 2] = wrapped(e[:, 2])
    return e


class Run(NamedTuple):
    """T steps of B robots: poses and means (T, B, 3), covariances (T, B, 3, 3), NEES (T, B)."""

    truth: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray
    nees: np.ndarray
    dead_reckoning: np.ndarray


def simulate(robots: int, steps: int, rng: np.random.Generator) -> Run:
    """Drive the robots and run their filters; the filters know only commands and measurements."""
    truth = np.column_stack([rng.uniform(-3, 3, (robots, 2)), rng.uniform(-np.pi, np.pi, robots)])
    spread = np.array([0.4, 0.4, 0.1])
    filters = Filters(truth + spread * rng.normal(size=truth.shape), np.tile(np.diag(spread**2), (robots, 1, 1)))
    blind = filters.mean
    speed, rate, phase = rng.uniform(0.6, 1.2, robots), rng.uniform(0.3, 0.6, robots), rng.uniform(0, 6, robots)
    noise = np.repeat([RANGE_NOISE, BEARING_NOISE], len(LANDMARKS))
    record = []
    with Progress(steps, "filtering") as bar:
        for step in range(steps):
            command = np.column_stack([speed, rate * (1.0 + np.sin(0.7 * DT * step + phase))])
            truth = motion(truth, command + COMMAND_NOISE * rng.normal(size=command.shape))
            blind = motion(blind, command)
            filters = predict(filters, command)
            if (step + 1) % EVERY == 0:
                filters = update(filters, measurement(truth, LANDMARKS) + noise * rng.normal(size=(robots, len(noise))))
            e = errors(truth, filters)
            nees = (e * np.linalg.solve(filters.covariance, e[:, :, None])[:, :, 0]).sum(1)
            record.append((truth, filters.mean, filters.covariance, nees, blind))
            bar.step(nees=float(nees.mean()))
    return Run(*(np.stack(parts) for parts in zip(*record, strict=True)))


def check(pose: np.ndarray, command: np.ndarray) -> None:
    """Jacobians of motion and measurement against torch's reverse mode, one robot at a time."""
    torch = torch_or_none()
    if torch is None:
        return

    def torch_motion(pose: Any, command: Any) -> Any:
        middle = pose[:, 2] + 0.5 * DT * command[:, 1]
        x = pose[:, 0] + DT * command[:, 0] * torch.cos(middle)
        y = pose[:, 1] + DT * command[:, 0] * torch.sin(middle)
        return torch.stack([x, y, pose[:, 2] + DT * command[:, 1]], 1)

    def torch_measurement(pose: Any) -> Any:
        offset = torch.from_numpy(LANDMARKS) - pose[:, None, :2]
        bearings = torch.atan2(offset[:, :, 1], offset[:, :, 0]) - pose[:, 2:]
        return torch.cat([offset.norm(dim=2), bearings], 1)

    F = mj.testing.compare_with_torch(motion, torch_motion, pose, command)
    H = mj.testing.compare_with_torch(lambda pose: measurement(pose, LANDMARKS), torch_measurement, pose)
    print(f"against torch: largest error {F.absolute:.1e} for the motion, {H.absolute:.1e} for the measurement")


def picture(run: Run, interval: tuple[float, float], path: Any) -> None:
    """Some robots' paths with ellipses of 95 % confidence, errors beside their predicted size, and the NEES."""
    plt = pyplot()
    steps, robots = run.nees.shape
    time = DT * np.arange(1, steps + 1)
    figure, (a, b, c) = plt.subplots(1, 3, figsize=(11.0, 3.5), layout="constrained", width_ratios=(1.0, 1.15, 1.15))

    circle = np.stack([np.cos(np.linspace(0, 2 * np.pi, 60)), np.sin(np.linspace(0, 2 * np.pi, 60))])
    shown = slice(0, int(15.0 / DT))
    for n, robot in enumerate((0, 1, 2)):
        truth, mean, blind = (paths[shown, robot, :2].T for paths in (run.truth, run.mean, run.dead_reckoning))
        a.plot(*truth, color=GREY, linewidth=3.0, alpha=0.6, label=None if n else "truth")
        a.plot(*blind, color=ORANGE, linewidth=0.9, label=None if n else "commands alone")
        a.plot(*mean, color=BLUE, linewidth=0.9, label=None if n else "filter, 95 % ellipses")
        for k in range(2 * EVERY - 2, mean.shape[1], 2 * EVERY):  # just before a measurement
            ellipse = np.sqrt(5.991) * np.linalg.cholesky(run.covariance[k, robot, :2, :2]) @ circle
            a.plot(*(mean[:, k : k + 1] + ellipse), color=BLUE, linewidth=0.7)
    a.plot(*LANDMARKS.T, "^", color=GREEN, label="landmarks")
    a.set(title=f"three of the robots, {min(15.0, DT * steps):g} s", xlabel="x [m]", ylabel="y [m]", aspect="equal")
    a.set(xlim=(-10, 10), ylim=(-8, 12))
    a.legend(frameon=False, fontsize=7, loc="upper center", ncols=2)

    def size(estimate: np.ndarray) -> np.ndarray:
        return np.sqrt(((run.truth - estimate)[:, :, :2] ** 2).sum(2).mean(1))

    b.semilogy(time, size(run.dead_reckoning), color=ORANGE, label="commands alone")
    b.semilogy(time, size(run.mean), color=BLUE, label="filter")
    predicted = np.sqrt(np.trace(run.covariance[:, :, :2, :2], axis1=2, axis2=3).mean(1))
    b.semilogy(time, predicted, color="black", linewidth=0.8, linestyle="--", label="predicted by the filter")
    b.set(title="position error, all robots (r.m.s.)", xlabel="time [s]", ylabel="[m]", xlim=(0, time[-1]))
    b.yaxis.set_major_formatter("{x:g}")
    b.legend(frameon=False, fontsize=8)

    c.axhspan(*interval, color=GREY, alpha=0.25, linewidth=0, label="95 % if consistent")
    c.axhline(3.0, color="black", linewidth=0.8, linestyle="--")
    c.plot(time, run.nees.mean(1), color=BLUE, linewidth=1.0, label=f"mean of {robots} filters")
    c.set(title="NEES (3 expected)", xlabel="time [s]", xlim=(0, time[-1]), ylim=(2.0, 4.0))
    c.legend(frameon=False, fontsize=8)
    save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    """Simulate, judge, check, draw."""
    given = options(__doc__, "ekf", argv)
    special = needed("scipy.special", "scipy")
    robots, steps = (64, 60) if given.quick else (256, 600)
    run = simulate(robots, steps, np.random.default_rng(0))

    # The sum over independent robots of their NEES is chi-squared with 3 degrees of freedom for each.
    low, high = (float(special.chdtri(3 * robots, above)) / robots for above in (0.975, 0.025))
    nees = run.nees.mean(1)
    inside = ((nees > low) & (nees < high)).mean()
    print(f"NEES: {nees.mean():.3f} in the mean (3 expected), {inside:.2f} of the time in [{low:.2f}, {high:.2f}]")
    distance = np.sqrt(((run.truth - run.mean)[-1, :, :2] ** 2).sum(1).mean())
    blind = np.sqrt(((run.truth - run.dead_reckoning)[-1, :, :2] ** 2).sum(1).mean())
    print(f"position error at the end: {distance:.3f} m (from the commands alone: {blind:.3f} m)")
    check(run.mean[-1], np.random.default_rng(1).uniform(0.2, 1.2, (robots, 2)))
    picture(run, (low, high), given.out)


if __name__ == "__main__":
    main()
