"""The model's output depends on the crystal alone, not on how somebody wrote it down."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import make_supercell
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from cgcnn_ase.graphs import GraphConfig
from cgcnn_ase.graphs.neighbors import search

Output = Callable[[Atoms, GraphConfig], torch.Tensor]

TOLERANCE = 1e-5

CONFIGS = {
    "shell": GraphConfig(),
    "shell, angular": GraphConfig(angular=True),
    "shell, merged": GraphConfig(merge=True),
    "shell, angular, merged": GraphConfig(angular=True, merge=True),
    "shell, lines": GraphConfig(line_graph=True),
    "shell, lines, merged": GraphConfig(line_graph=True, merge=True),
    "radius": GraphConfig(rule="radius", cutoff=4.3),
    "coordinator": GraphConfig(rule="coordinator"),
    "coordinator, merged": GraphConfig(rule="coordinator", merge=True),
    "radius, angular, merged": GraphConfig(rule="radius", cutoff=4.3, angular=True, merge=True),
}
NAMES = ["fcc", "bcc", "hcp", "diamond", "rocksalt", "perovskite", "LiNiO2", "spinel", "rutile"]


def unimodular(rng: np.random.Generator) -> np.ndarray:
    """Another basis of the same lattice, entries up to 3."""
    while True:
        matrix = rng.integers(-3, 4, (3, 3))
        if round(abs(np.linalg.det(matrix))) == 1:
            return matrix


def supercell(rng: np.random.Generator) -> np.ndarray:
    while True:
        matrix = rng.integers(-1, 3, (3, 3))
        if 2 <= round(np.linalg.det(matrix)) <= 4:
            return matrix


def other_cell(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """Same atoms, another cell, atoms left where they are or moved by lattice vectors."""
    changed: Atoms = atoms.copy()
    changed.set_cell(unimodular(rng) @ atoms.cell.array, scale_atoms=False)
    changed.positions += rng.integers(-2, 3, (len(atoms), 3)) @ atoms.cell.array
    return changed


def rotated(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """Rotated, and half of the time mirrored."""
    matrix = Rotation.random(rng=rng).as_matrix() * rng.choice([-1, 1])
    changed: Atoms = atoms.copy()
    changed.set_cell(atoms.cell.array @ matrix, scale_atoms=False)
    changed.positions = atoms.positions @ matrix
    return changed


def translated(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    changed: Atoms = atoms.copy()
    changed.positions += rng.uniform(-20, 20, 3)
    if rng.random() < 0.5:
        changed.wrap()
    return changed


CHANGES: dict[str, Callable[[Atoms, np.random.Generator], Atoms]] = {
    "cell": other_cell,
    "supercell": lambda atoms, rng: make_supercell(atoms, supercell(rng)),
    "order": lambda atoms, rng: atoms[rng.permutation(len(atoms))],
    "rotation": rotated,
    "translation": translated,
}


def random_crystal(rng: np.random.Generator) -> Atoms:
    """One to five atoms of three elements, at least 0.7 Å apart, dense or sparse, the cell skewed."""
    while True:
        n = int(rng.integers(1, 6))
        cell = np.diag(rng.uniform(0.7, 1.4, 3)) + rng.normal(scale=0.2, size=(3, 3))
        cell *= np.cbrt(n * rng.uniform(6.0, 40.0) / abs(np.linalg.det(cell)))
        atoms = Atoms(rng.choice([3, 8, 28], n), cell=cell, scaled_positions=rng.random((n, 3)), pbc=True)
        if not len(search(atoms.positions, cell, atoms.pbc, 0.7).centers):
            return atoms


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_crystals(output: Output, config: GraphConfig, change: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    atoms = random_crystal(rng)
    changed = CHANGES[change](atoms, rng)
    torch.testing.assert_close(output(changed, config), output(atoms, config), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_neighbours_at_the_same_distance(
    output: Output, crystals: dict[str, Atoms], config: GraphConfig, name: str
) -> None:
    rng = np.random.default_rng(11)
    atoms = crystals[name]
    expected = output(atoms, config)
    for change in CHANGES.values():
        changed = rotated(change(atoms, rng), rng)  # a rotation makes the ties differ in the last bits
        torch.testing.assert_close(output(changed, config), expected, atol=TOLERANCE, rtol=0)


def test_knn_is_not_invariant(output: Output, crystals: dict[str, Atoms]) -> None:
    """Why the trained models use ``shell``: 14 atoms of three kinds lie within a / sqrt(2) of an oxygen of SrTiO3.

    Keeping 12 of them is a matter of the order in which they are written down.
    """
    rng, atoms = np.random.default_rng(0), crystals["perovskite"]

    def spread(config: GraphConfig) -> float:
        outputs = [output(atoms[rng.permutation(len(atoms))], config) for _ in range(10)]
        return float((torch.stack(outputs) - outputs[0]).abs().max())

    assert spread(GraphConfig(rule="knn")) > 100 * TOLERANCE
    assert spread(GraphConfig(rule="shell")) < TOLERANCE


def test_the_output_tells_crystals_apart(output: Output, crystals: dict[str, Atoms]) -> None:
    """Else the tests above would pass for a network that says the same of everything."""
    for config in CONFIGS.values():
        outputs = torch.stack([output(crystals[name], config) for name in NAMES])
        difference = (outputs[:, None] - outputs).abs().amax(dim=2) + torch.eye(len(NAMES))
        assert difference.min() > 100 * TOLERANCE
    for atoms in crystals.values():
        strained = atoms.copy()
        strained.set_cell(atoms.cell.array * [1, 1, 1.01], scale_atoms=True)
        assert (output(strained, GraphConfig()) - output(atoms, GraphConfig())).abs().max() > 100 * TOLERANCE
