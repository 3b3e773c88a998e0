"""The benchmark of programs: what is measured is right."""

import numpy as np
import programs
import pytest

import minijac as mj


@pytest.mark.parametrize("name", programs.PROGRAMS)
def test_jacobians_are_those_of_differences(name):
    program, x = programs.PROGRAMS[name]
    x = x[:2]
    steps = {"steps": 5} if name.startswith("axon") else {}
    f = lambda x: program(np, x, **steps)
    found = mj.compile(mj.jacobian(f))(x).reshape(2, -1, x[0].size)
    shifts = 1e-6 * np.eye(x[0].size).reshape(-1, *x[0].shape)
    expected = np.stack([(f(x + h) - f(x - h)).reshape(2, -1) / 2e-6 for h in shifts], -1)
    np.testing.assert_allclose(found, expected, 1e-5, 1e-6 * np.abs(expected).max())


def test_the_torques_of_a_robot_by_its_accelerations_are_a_mass_matrix():
    state = np.random.default_rng(0).normal(size=(2, 18))
    for mass in mj.jacobian(lambda x: programs.inverse_dynamics(np, x))(state)[..., 12:]:
        np.testing.assert_allclose(mass, mass.T, 1e-12, 1e-14)
        assert (np.linalg.eigvalsh(mass) > 0).all()
