"""First Piola-Kirchhoff stress of a Neo-Hookean solid (Bonet and Wood, 2008)."""

import numpy as np

MU, LAMBDA = 0.8, 1.5


def f(gradient):
    F = np.eye(3)
    F += gradient.reshape(3, 3)
    J = np.linalg.det(F)
    inverse = np.linalg.inv(F).T
    P = MU * (F - inverse)
    P += LAMBDA * np.log(J) * inverse
    return P.ravel()


POINT = 0.1 * np.sin(np.arange(9.0))
