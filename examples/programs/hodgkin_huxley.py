"""A squid's axon by Hodgkin and Huxley (J. Physiol. 117, 1952): some Euler steps of its four states."""

import math

import numpy as np


def gate(v):
    am = 0.1 * (v + 40) / (1 - math.exp(-(v + 40) / 10))
    ah = 0.07 * math.exp(-(v + 65) / 20)
    an = 0.01 * (v + 55) / (1 - math.exp(-(v + 55) / 10))
    rise = np.array([am, ah, an])
    fall = np.array(
        [4 * math.exp(-(v + 65) / 18), 1 / (1 + math.exp(-(v + 35) / 10)), 0.125 * math.exp(-(v + 65) / 80)]
    )
    return rise, fall


def f(s):
    s = s.copy()
    for _ in range(5):
        v, gates = s[0], s[1:]
        m, h, n = gates
        current = 120 * m**3 * h * (v - 50) + 36 * n**4 * (v + 77) + 0.3 * (v + 54.387)
        rise, fall = gate(v)
        s[1:] += 0.02 * (rise * (1 - gates) - fall * gates)
        s[0] += 0.02 * (10 - current)
    return s


POINT = np.array([-52.3, 0.1, 0.6, 0.35])
