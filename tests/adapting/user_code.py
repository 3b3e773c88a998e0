"""Code as its authors wrote it, for NumPy alone."""

import math
from collections import deque
from dataclasses import dataclass
from functools import partial
from math import atan2, sqrt

import numpy as np
import numpy.linalg as la
from numpy import array, zeros
from scipy.special import logsumexp

GRAVITY = 9.81


def rotation(angle):
    c, s = np.cos(angle), np.sin(angle)
    return array([[c, -s], [s, c]])


def arm(q, lengths=(1.0, 0.5)):
    """Where a planar arm ends, one sample's joints."""
    p, total = np.zeros(2), 0.0
    for k in range(len(lengths)):
        total += q[k]
        p[0] += lengths[k] * math.cos(total)
        p[1] += lengths[k] * math.sin(total)
    return p


def turned(q):
    return rotation(q[0]) @ np.array([q[1], 1.0])


def joined(q):
    return np.r_[q[0], q[1:] ** 2, 0.0, 1.0] * float(q[1])


def norms(q):
    import numpy as inner

    out = inner.empty(3)
    out[0] = sqrt(q[0] ** 2 + q[1] ** 2)
    out[1] = atan2(q[1], q[0])
    out[2] = la.norm(q) + logsumexp(q)
    return out


def weighted(x):
    out = zeros((len(x), 2))
    out[:, 0] = np.vectorize(lambda v: math.exp(-v) * v)(x[:, 0])
    out[:, 1] = np.apply_along_axis(lambda row: row @ row, 1, x)
    return out


def columns(x):
    return np.c_[x[:, 0], x[:, 1:]]


@dataclass
class Oscillator:
    mass: float
    stiffness: float

    @property
    def rate(self):
        return math.sqrt(self.stiffness / self.mass)

    def step(self, state, h):
        new = np.zeros(2)
        new[0] = state[0] + h * state[1]
        new[1] = state[1] - h * self.rate**2 * np.sin(new[0])
        return new


class Damped(Oscillator):
    def step(self, state, h):
        new = super().step(state, h)
        new[1] *= 0.9
        return new


MODEL = Damped(2.0, 3.0)
STEPS = [lambda s: MODEL.step(s, 0.1), partial(MODEL.step, h=0.2)]


def simulated(state):
    for step in STEPS * 2:
        state = step(state)
    return state


def with_state():
    calls = 0

    def counted(q):
        nonlocal calls
        calls += 1
        return array([q[0] * calls, q[1]])

    return counted, lambda: calls


SCALE = 1.0


def scaled(q):
    return array([q[0] * SCALE, q[1]])


def in_lists(q):
    """Lists of numbers where NumPy takes arrays."""
    a, b = q
    sides = [[a, b], [b * a, 1.0]]
    y = np.sum([a, b, 2.0]) * la.norm((a, b)) + np.dot([a, b], [b, 1.0]) + np.linalg.det(sides)
    y = y + np.hypot([a, b], 1.0).sum() + np.add.reduce([a, b]) + np.max([a, b]) + np.interp(0.4, [0.0, 1.0], [a, b])
    spectrum = np.abs(np.fft.fft([a, b, a * b]))
    return np.concatenate([[y, a], spectrum, np.vstack(([a, b], [b, a])).ravel(), np.cumsum((a, b))])


def series(q):
    """Polynomials as objects and as functions, their coefficients made of the argument."""
    p = np.polynomial.Polynomial([q[0], 1.0, q[1]])
    surface = np.polynomial.legendre.legval2d(q[0], q[1], [[1.0, q[0]], [q[1], 2.0]])
    return np.array([p(q[1]), p.deriv()(q[0]), np.polynomial.chebyshev.chebval(0.3, [q[0], q[1]]), surface])


def trimmed(q):
    """Products and zeros of series, whose length depends on values."""
    product = np.polynomial.chebyshev.chebmul([q[0], q[1]], [1.0, q[0] * q[1]])
    return np.concatenate([product, np.polynomial.polynomial.polyroots([q[0], -3.0, 1.0])])


def by_kind(x):
    return x.sum() * 2.0 if isinstance(x, np.ndarray) and x.ndim == 1 else x * 0.0


def as_numbers(q):
    """What numbers are, and what sequences of them become."""
    x, last = np.float64(q[0]) * isinstance(q[0], float) * isinstance(q[0], np.float64), deque(q * 2.0, maxlen=1)
    y = np.zeros(2)
    for k, value in np.ndenumerate(q):
        y[k] = value**2
    y = np.ones(2) * [q[0], 2.0] + y + [q[1], 1.0] * q + np.ones((2, 2)) @ [q[0], x]
    return np.concatenate([y, np.fromiter((a * x for a in q), float), np.array(last)])
