"""Coordinates and the process on the difference, against finite differences and a regression by scikit-learn."""

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.stress import voigt_6_to_full_3x3_stress
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel

from cgcnn_ase.graphs.crystal_graph import geometry
from cgcnn_ase.learning.corrected import NOISE, Coordinates, DifferenceProcess
from cgcnn_ase.learning.surface import PotentialSurface, SpringSurface
from cgcnn_ase.potential.minimizer import spring_matrix
from tests.potential.conftest import random_potential


def emt(atoms):
    atoms = atoms.copy()
    atoms.calc = EMT()
    return atoms.get_potential_energy(), atoms.get_forces(), voigt_6_to_full_3x3_stress(atoms.get_stress())


def coordinates_of(atoms, *, with_cell):
    return Coordinates(geometry(atoms), SpringSurface(geometry(atoms))(geometry(atoms)).pairs, with_cell=with_cell)


def test_gradients_by_coordinates_are_central_differences(copper):
    coordinates = coordinates_of(copper, with_cell=True)
    moved = copper.copy()
    moved.set_cell(moved.cell.array @ [[1.01, 0.02, 0], [0.02, 1, 0.01], [0, 0.01, 0.99]], scale_atoms=True)
    moved.rattle(0.05, seed=7)
    _, forces, stress = emt(moved)
    gradient = coordinates.gradient(geometry(moved), forces, stress)
    rng = np.random.default_rng(0)
    for _ in range(4):
        shift, e = rng.normal(size=(len(moved), 3)), rng.normal(size=(3, 3))
        ends = []
        for sign in (1, -1):
            end = moved.copy()
            end.positions += sign * 1e-4 * shift
            end.set_cell(end.cell.array @ (np.eye(3) + sign * 1e-4 * (e + e.T)), scale_atoms=True)
            ends.append((emt(end)[0], coordinates.of(geometry(end))))
        expected = ends[0][0] - ends[1][0]
        assert gradient @ (ends[0][1] - ends[1][1]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("with_cell", [False, True])
def test_forces_and_stress_come_back(copper, with_cell):
    coordinates = coordinates_of(copper, with_cell=with_cell)
    moved = copper.copy()
    moved.rattle(0.05, seed=7)
    if with_cell:
        moved.set_cell(moved.cell.array * 1.03, scale_atoms=True)
    _, forces, stress = emt(moved)
    back, stress_back = coordinates.forces_and_stress(
        geometry(moved), coordinates.gradient(geometry(moved), forces, stress)
    )
    np.testing.assert_allclose(back, forces, atol=1e-10)
    if with_cell:
        np.testing.assert_allclose(stress_back, stress, atol=1e-10)


def test_length_of_a_displacement_is_the_energy_of_the_springs(copper):
    start = geometry(copper)
    surface = SpringSurface(start)
    moved = copper.copy()
    moved.rattle(0.05, seed=1)
    point = surface(geometry(moved))
    u = coordinates_of(copper, with_cell=False)
    length = np.linalg.norm(u.of(geometry(moved)) - u.of(start))
    assert 0.5 * length**2 == pytest.approx(point.energy, rel=1e-10)
    matrix = spring_matrix(len(copper), *surface(start).pairs)
    np.testing.assert_allclose(point.forces, -matrix @ (moved.positions - copper.positions), atol=1e-12)


@pytest.fixture
def labelled():
    """Points of a known function of two coordinates, its values and its gradients."""
    points = np.random.default_rng(3).normal(size=(6, 2))
    values = np.sin(points[:, 0]) + 0.5 * points[:, 1] ** 2
    return points, values, np.stack([np.cos(points[:, 0]), points[:, 1]], axis=1)


def test_process_gives_its_labels_back_and_its_gradient_is_that_of_its_mean(labelled):
    points, values, gradients = labelled
    process = DifferenceProcess(points, values, gradients)
    for point, value, gradient in zip(points, values, gradients, strict=True):
        result = process(point)
        assert result.energy == pytest.approx(value, abs=5e-3)
        np.testing.assert_allclose(result.gradient, gradient, atol=2e-2)
        assert result.energy_std < 0.01
    x, h = np.array([0.3, -0.4]), 1e-5
    numerical = [(process(x + h * e).energy - process(x - h * e).energy) / (2 * h) for e in np.eye(2)]
    np.testing.assert_allclose(process(x).gradient, numerical, rtol=1e-5, atol=1e-7)
    assert abs(process(x).energy - (np.sin(0.3) + 0.08)) < 0.05


def test_process_is_a_regression_on_energies_where_gradients_come_from_near_energies(labelled):
    """Gradients stand for two energies each, at both sides: scikit-learn's process on these gives the same mean."""
    points, _, _ = labelled
    h = 0.02
    function = lambda x: np.sin(x[..., 0]) + 0.5 * x[..., 1] ** 2  # noqa: E731
    gradients = np.array([[(function(p + h * e) - function(p - h * e)) / (2 * h) for e in np.eye(2)] for p in points])
    process = DifferenceProcess(points, function(points), gradients)
    around = np.concatenate([points, *(points + s * h * e for s in (1, -1) for e in np.eye(2))])
    best = process._best
    kernel = ConstantKernel(best.amplitude**2, "fixed") * RBF(best.length, "fixed") + ConstantKernel(
        25.0 * best.amplitude**2, "fixed"
    )
    peer = GaussianProcessRegressor(kernel, alpha=NOISE**2 * h**2, optimizer=None)
    mean = function(points).mean()
    peer.fit(around, function(around) - mean)
    x = np.array([[0.3, -0.4], [-0.5, 0.2]])
    ours = [process(each).energy for each in x]
    np.testing.assert_allclose(ours, peer.predict(x) + mean, atol=5e-3)


def test_std_grows_away_from_the_labels(labelled):
    process = DifferenceProcess(*labelled)
    near, far = process(labelled[0][0] + 0.01), process(np.array([30.0, 30.0]))
    assert far.energy_std > 10 * near.energy_std
    np.testing.assert_allclose(far.explained, 0.0, atol=1e-10)
    assert near.prior - (near.explained**2).sum(axis=0).max() < 0.1 * far.prior


def test_a_shift_adds_the_features_of_each_element_times_its_weights(copper):
    copper.symbols[:] = ["Ni", "Ni", "O", "Li"]
    surface = PotentialSurface(random_potential().double())
    structure = geometry(copper)
    features, before = surface.features(structure), surface(structure)
    rng = np.random.default_rng(0)
    weights = {z: rng.normal(size=len(each)) for z, each in features.energy.items() if z != 3}
    assert set(features.energy) == {3, 8, 28}
    after = surface.shifted(weights)(structure)
    added = sum(features.energy[z] @ weights[z] for z in weights)
    assert after.energy - before.energy == pytest.approx(added, rel=1e-6, abs=1e-8)
    added = sum(features.forces[z] @ weights[z] for z in weights)
    np.testing.assert_allclose(after.forces - before.forces, added, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(surface(structure).forces, before.forces)


def test_stress_of_a_shift_is_the_derivative_of_its_energy(copper):
    copper.symbols[:] = "Ni"
    surface = PotentialSurface(random_potential().double())
    width = len(surface.features(geometry(copper)).energy[28])
    shifted = surface.shifted({28: np.random.default_rng(0).normal(size=width)})
    ends = []
    for sign in (1, -1):
        strained = copper.copy()
        strained.set_cell(strained.cell.array @ (np.eye(3) + sign * 1e-4 * np.eye(3)), scale_atoms=True)
        ends.append(shifted(geometry(strained)).energy)
    expected = (ends[0] - ends[1]) / 2e-4 / copper.get_volume()
    assert np.trace(shifted(geometry(copper)).stress) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_noise_is_fitted_only_where_near_labels_contradict_each_other(noise):
    """Six labels of a curved function, five of them near each other, with and without noise in their gradients."""
    rng = np.random.default_rng(1)
    points = np.concatenate([[np.full(12, 0.8)], 0.03 * rng.normal(size=(5, 12))])
    values, gradients = np.cos(points).sum(axis=1), -np.sin(points)
    process = DifferenceProcess(points, values, gradients + noise * rng.normal(size=gradients.shape))
    if noise:
        assert 0.5 * noise < process.noise <= 2.01 * noise  # a grid of half decades
        assert np.abs(process(points[-1]).gradient - gradients[-1]).mean() < 0.7 * noise
    else:
        assert process.noise == NOISE
    few = DifferenceProcess(points[:4], values[:4], gradients[:4] + rng.normal(size=(4, 12)))
    assert few.noise == NOISE  # three near labels say too little
