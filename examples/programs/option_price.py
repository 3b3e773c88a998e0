"""A European call and its rate of decay (Black and Scholes, J. Polit. Econ. 81, 1973)."""

import math

import numpy as np


def normal(x):
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def f(x):
    spot, strike, rate, sigma, t = x
    d1 = (math.log(spot / strike) + (rate + sigma**2 / 2) * t) / (sigma * math.sqrt(t))
    d2 = d1 - sigma * math.sqrt(t)
    price = spot * normal(d1) - strike * math.exp(-rate * t) * normal(d2)
    return np.array([price, np.maximum(price, 0.0)])


POINT = np.array([1.1, 1.0, 0.05, 0.3, 0.7])
