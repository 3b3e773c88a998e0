"""Rates of a quadrotor's twelve states (Bouabdallah, thesis, EPFL 2007)."""

import numpy as np
from numpy import cos, sin

MASS, INERTIA, ARM, G = 0.65, np.array([7.5e-3, 7.5e-3, 1.3e-2]), 0.23, 9.81


def f(x):
    thrusts = x[12:]
    roll, pitch, yaw = x[6:9]
    p, q, r = x[9:12]
    out = np.zeros(12)
    out[:3] = x[3:6]
    lift = thrusts.sum() / MASS
    out[3] = lift * (cos(yaw) * sin(pitch) * cos(roll) + sin(yaw) * sin(roll))
    out[4] = lift * (sin(yaw) * sin(pitch) * cos(roll) - cos(yaw) * sin(roll))
    out[5] = lift * cos(pitch) * cos(roll) - G
    out[6] = p + (q * sin(roll) + r * cos(roll)) * np.tan(pitch)
    out[7] = q * cos(roll) - r * sin(roll)
    out[8] = (q * sin(roll) + r * cos(roll)) / cos(pitch)
    Ix, Iy, Iz = INERTIA
    out[9] = (ARM * (thrusts[1] - thrusts[3]) + (Iy - Iz) * q * r) / Ix
    out[10] = (ARM * (thrusts[2] - thrusts[0]) + (Iz - Ix) * p * r) / Iy
    out[11] = (0.02 * (thrusts[0] - thrusts[1] + thrusts[2] - thrusts[3]) + (Ix - Iy) * p * q) / Iz
    return out


POINT = np.concatenate([np.linspace(-0.4, 0.6, 12), [1.5, 1.7, 1.6, 1.4]])
