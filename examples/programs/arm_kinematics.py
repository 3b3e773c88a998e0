"""Pose of a robot's hand by Denavit and Hartenberg's matrices (J. Appl. Mech. 22, 1955)."""

import math

import numpy as np

LINKS = [(0.0, math.pi / 2, 0.4), (0.6, 0.0, 0.0), (0.5, 0.0, 0.1)]  # length, twist, offset


def link(angle, length, twist, offset):
    T = np.eye(4)
    ct, st = math.cos(angle), math.sin(angle)
    ca, sa = math.cos(twist), math.sin(twist)
    T[0, :] = [ct, -st * ca, st * sa, length * ct]
    T[1, :] = [st, ct * ca, -ct * sa, length * st]
    T[2, 1:3] = sa, ca
    T[2, 3] = offset
    return T


def f(q):
    T = np.eye(4)
    for k in range(len(LINKS)):
        T = T @ link(q[k], *LINKS[k])
    return np.r_[T[:3, 3], T[:3, 2]]


POINT = np.array([0.3, -0.7, 1.1])
