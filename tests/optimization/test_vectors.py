"""The vectors of sites and crystals: the same for the same surroundings, however a cell is chosen."""

import numpy as np
import pytest
from ase.build import bulk

from cgcnn_ase import load_model
from cgcnn_ase.optimization.surrogates.pool_learner import crystal_vectors, site_vectors


@pytest.fixture(scope="module")
def model():
    return load_model("formation-energy-per-atom")


def test_equal_sites_have_equal_vectors(model):
    """In any cell and at any place in it."""
    salt = bulk("NaCl", "rocksalt", a=5.64)
    large = salt * (2, 1, 1)
    large.rotate(30, "z", rotate_cell=True)
    large.wrap()
    small, supercell = site_vectors(model, [salt, large])
    assert small.shape[0] == 2
    assert supercell.shape[0] == 4
    for k, symbol in enumerate(large.symbols):
        np.testing.assert_allclose(supercell[k], small[list(salt.symbols).index(symbol)], atol=2e-4)
    assert np.abs(small[0] - small[1]).max() > 0.1


def test_a_crystal_is_the_mean_of_its_sites(model):
    crystals = [bulk("NaCl", "rocksalt", a=5.64), bulk("MgO", "rocksalt", a=4.21, cubic=True)]
    together = crystal_vectors(model, crystals)
    for k, vectors in enumerate(site_vectors(model, crystals)):
        half = vectors.shape[1] // 2
        np.testing.assert_allclose(together[k], vectors[:, :half].mean(axis=0))
        np.testing.assert_allclose(vectors[:, half:], np.broadcast_to(together[k], (len(vectors), half)), atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.1


def test_many_are_as_few(model):
    """More than are in memory at once."""
    crystals = [bulk("MgO", "rocksalt", a=4.0 + 0.01 * k) for k in range(70)]
    np.testing.assert_allclose(
        crystal_vectors(model, crystals)[66], crystal_vectors(model, [crystals[66]])[0], atol=1e-4
    )
