"""An epidemic's four groups, day by day in a table (Kermack and McKendrick, Proc. R. Soc. A 115, 1927)."""

import numpy as np


def f(parameters):
    beta, sigma, gamma = parameters
    days = np.zeros((4, 8))
    days[:, 0] = [0.97, 0.02, 0.01, 0.0]
    for t in range(1, days.shape[1]):
        S, E, I, R = days[:, t - 1]
        infected, ill, healed = beta * S * I, sigma * E, gamma * I
        days[0, t] = S - infected
        days[1, t] = E + infected - ill
        days[2, t] = I + ill - healed
        days[3, t] = R + healed
    return days[1:, -1]


POINT = np.array([0.9, 0.3, 0.2])
