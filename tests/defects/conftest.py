"""Hosts for the tests of defects: published cells only."""

from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "structures"


def example(name):
    """The host in examples/structures whose file has this stem."""
    from cgcnn_ase.structures import read_structures

    (file,) = EXAMPLES.glob(f"{name}.*")
    return next(iter(read_structures(file))).unwrap()


@pytest.fixture
def lithium_nickelate():
    """LiNiO2, R-3m, 12 atoms."""
    return example("LiNiO2")


@pytest.fixture
def layered_108():
    """108 atoms of a layered oxide without any symmetry: Co and Mn at random, all atoms displaced."""
    rng = np.random.default_rng(0)
    host = example("LiNiO2").repeat((3, 3, 1))
    nickel = rng.permutation([i for i, symbol in enumerate(host.symbols) if symbol == "Ni"])
    host.symbols[nickel[:3]] = "Co"
    host.symbols[nickel[3:6]] = "Mn"
    host.rattle(0.02, seed=0)
    return host
