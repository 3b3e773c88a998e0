"""A point in a camera's picture: Rodrigues' rotation, perspective, radial distortion (Hartley and Zisserman, 2003)."""

import math

import numpy as np


def rotate(v, p):
    angle = math.sqrt(v[0] ** 2 + v[1] ** 2 + v[2] ** 2)
    axis = v / angle
    c, s = math.cos(angle), math.sin(angle)
    return c * p + s * np.cross(axis, p) + (1 - c) * (axis @ p) * axis


def f(x):
    v, t, focal, k1, k2, point = x[:3], x[3:6], x[6], x[7], x[8], x[9:]
    p = rotate(v, point) + t
    u = -p[:2] / p[2]
    r2 = u @ u
    return focal * (1 + k1 * r2 + k2 * r2**2) * u


POINT = np.array([0.1, -0.2, 0.3, 0.2, 0.1, -4.0, 1.1, 0.05, -0.01, 0.4, -0.3, 0.5])
