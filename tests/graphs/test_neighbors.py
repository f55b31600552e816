"""The neighbour search against a loop over images and against two other libraries; the rules against their words."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111, molecule
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from cgcnn_ase.graphs.crystal_graph import Geometry
from cgcnn_ase.graphs.neighbors import Bonds, NeighborRule, bonds_of_all, pad_to, search

PERIODIC = np.ones(3, dtype=bool)

Pairs = list[tuple[int, int, float]]


def find_bonds(positions, cell, pbc, **settings) -> Bonds:
    """Bonds of one structure."""
    return bonds_of_all([Geometry(np.zeros(len(positions), dtype=np.int64), positions, cell, pbc)], **settings)


def brute_force(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> Pairs:
    """(i, j, distance) of all pairs; images as far as the reciprocal lattice says that they can matter."""
    periodic = np.flatnonzero(pbc)
    reach = cutoff + np.linalg.norm(np.ptp(positions, axis=0))
    widths = np.linalg.norm(np.linalg.pinv(cell[periodic]), axis=0)  # |reciprocal vector|, also of a slab or a wire
    limits = np.zeros(3, dtype=int)
    limits[periodic] = np.ceil(reach * widths)
    shifts = [np.array(n) @ np.where(pbc[:, None], cell, 0.0) for n in product(*(range(-m, m + 1) for m in limits))]
    pairs = []
    for i, j in product(range(len(positions)), repeat=2):
        d = np.linalg.norm(positions[j] + np.array(shifts) - positions[i], axis=1)
        pairs += [(i, j, float(x)) for x in d[(d > 1e-8) & (d <= cutoff)]]
    return sorted(pairs)


def as_pairs(bonds: Bonds) -> Pairs:
    return sorted(zip(bonds.centers.tolist(), bonds.neighbors.tolist(), bonds.distances.tolist(), strict=True))


def assert_same(result: Pairs, expected: Pairs) -> None:
    assert [p[:2] for p in result] == [p[:2] for p in expected]
    np.testing.assert_allclose([p[2] for p in result], [p[2] for p in expected], atol=1e-9)


def random_cell(rng: np.random.Generator, kind: str) -> np.ndarray:
    if kind == "tiny":
        return np.diag(rng.uniform(0.8, 1.5, 3))
    cell = np.diag(rng.uniform(2.0, 5.0, 3)) + rng.normal(scale=0.5, size=(3, 3))
    if kind == "skewed":  # the same lattice with vectors up to ten times as long
        cell[1] += rng.integers(-6, 7) * cell[0]
        cell[2] += rng.integers(-6, 7) * cell[1]
    return cell


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["tiny", "skewed", "plain"]),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    n_atoms=st.integers(1, 4),
    zero_vectors=st.booleans(),
)
def test_search_equals_brute_force(
    seed: int, kind: str, pbc: tuple[bool, bool, bool], n_atoms: int, zero_vectors: bool
) -> None:
    rng = np.random.default_rng(seed)
    cell, periodic = random_cell(rng, kind), np.array(pbc)
    if zero_vectors:
        cell[~periodic] = 0.0
    positions = rng.uniform(-6.0, 6.0, size=(n_atoms, 3))  # most of them outside the cell
    cutoff = rng.uniform(1.0, 3.0 if kind == "tiny" else 5.0)
    bonds = search(positions, cell, periodic, cutoff)
    assert_same(as_pairs(bonds), brute_force(positions, cell, periodic, cutoff))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(["skewed", "plain"]))
def test_search_equals_other_libraries(seed: int, kind: str) -> None:
    vesin = pytest.importorskip("vesin")
    matscipy = pytest.importorskip("matscipy.neighbours")
    rng = np.random.default_rng(seed)
    atoms = Atoms("X5", cell=random_cell(rng, kind), scaled_positions=rng.random((5, 3)), pbc=True)
    result = as_pairs(search(atoms.positions, atoms.cell.array, atoms.pbc, 4.0))

    list_ = vesin.NeighborList(cutoff=4.0, full_list=True)
    i, j, d = list_.compute(points=atoms.positions, box=atoms.cell.array, periodic=True, quantities="ijd")
    assert_same(result, sorted(zip(i.tolist(), j.tolist(), d.tolist(), strict=True)))
    i, j, d = matscipy.neighbour_list("ijd", atoms, 4.0)
    assert_same(result, sorted(zip(i.tolist(), j.tolist(), d.tolist(), strict=True)))


@pytest.mark.parametrize(
    "atoms",
    [
        fcc111("Al", (2, 2, 3), vacuum=8.0),  # the third vector is long
        fcc111("Al", (2, 2, 3)),  # the third vector is zero
        molecule("CH3CH2OH"),  # no cell at all
        Atoms("C2", positions=[(0, 0, 0), (1.2, 40, -90)], cell=[2.5, 0, 0], pbc=[True, False, False]),
        Atoms(
            "C2", positions=[(0, 0, 0), (0, 0, 1.2)], cell=[[9, 0, 0], [9, 0, 0], [9, 0, 0]], pbc=[True, False, False]
        ),
    ],
    ids=["slab in a box", "slab", "molecule", "wire", "vectors without a volume in directions that are not periodic"],
)
@pytest.mark.parametrize("rule", ["radius", "shell"])
def test_slabs_molecules_and_wires(atoms: Atoms, rule: NeighborRule) -> None:
    bonds = find_bonds(
        atoms.positions, atoms.cell.array, atoms.pbc, rule=rule, cutoff=6.0, n_neighbors=100, tolerance=0.01
    )
    assert_same(as_pairs(bonds), brute_force(atoms.positions, atoms.cell.array, atoms.pbc, 6.0))
    clean = atoms.copy()
    clean.cell[~clean.pbc] = 0.0
    i, j, d = neighbor_list("ijd", clean, 6.0)
    assert_same(as_pairs(bonds), sorted(zip(i.tolist(), j.tolist(), d.tolist(), strict=True)))


def test_vectors_point_to_the_neighbours() -> None:
    rng = np.random.default_rng(0)
    cell, positions = random_cell(rng, "skewed"), rng.uniform(-20, 20, (4, 3))
    bonds = search(positions, cell, PERIODIC, 5.0)
    np.testing.assert_allclose(np.linalg.norm(bonds.vectors, axis=1), bonds.distances, atol=1e-9)
    images = (bonds.vectors + positions[bonds.centers] - positions[bonds.neighbors]) @ np.linalg.inv(cell)
    np.testing.assert_allclose(images, np.rint(images), atol=1e-9)


def test_bonds_are_grouped_by_centre_and_sorted_by_distance() -> None:
    rng = np.random.default_rng(1)
    bonds = search(rng.uniform(0, 8, (6, 3)), np.diag([8.0, 8, 8]), PERIODIC, 6.0)
    order = np.lexsort((bonds.distances, bonds.centers))
    np.testing.assert_array_equal(order, np.arange(len(order)))


def test_a_neighbour_at_the_cutoff_counts_whatever_the_rounding() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        bonds = search(rng.normal(size=(1, 3)), 4.0 * np.eye(3) @ rotation, PERIODIC, 8.0)
        assert len(bonds.centers) == 6 + 12 + 8 + 6  # the last six at 8 Å


@pytest.mark.parametrize("rule", ["radius", "knn", "shell"])
def test_single_atom_has_its_images_for_neighbours(rule: NeighborRule) -> None:
    bonds = find_bonds(
        np.zeros((1, 3)), 3.0 * np.eye(3), PERIODIC, rule=rule, cutoff=3.1, n_neighbors=6, tolerance=0.01
    )
    np.testing.assert_allclose(bonds.distances, np.full(6, 3.0))
    np.testing.assert_allclose(bonds.vectors.sum(axis=0), 0.0, atol=1e-12)


@pytest.mark.parametrize("rule", ["radius", "knn", "shell"])
def test_isolated_atoms_have_no_bonds(rule: NeighborRule) -> None:
    positions = np.array([[0.0, 0, 0], [10, 10, 10]])
    bonds = find_bonds(positions, 20 * np.eye(3), PERIODIC, rule=rule, cutoff=8.0, n_neighbors=12, tolerance=0.01)
    assert len(bonds.centers) == len(bonds.distances) == 0
    assert bonds.vectors.shape == (0, 3)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 14), cutoff=st.floats(2.0, 7.0))
def test_shell_and_knn_follow_their_definitions(seed: int, k: int, cutoff: float) -> None:
    """Against the sorted distances of the brute force: the small sphere searched first must not show."""
    rng = np.random.default_rng(seed)
    cell = random_cell(rng, "plain") * rng.uniform(0.8, 2.0)  # dense to sparse
    cell[2] *= rng.choice([1.0, 3.0])  # an uneven density: the small sphere is too small for some of the atoms
    positions = rng.random((4, 3)) @ cell * [1, 1, 0.5]
    everything = brute_force(positions, cell, PERIODIC, cutoff)
    settings_: Any = {"cutoff": cutoff, "n_neighbors": k, "tolerance": 0.05}
    shell = find_bonds(positions, cell, PERIODIC, rule="shell", **settings_)
    knn = find_bonds(positions, cell, PERIODIC, rule="knn", **settings_)
    for i in range(4):
        d = np.sort([pair[2] for pair in everything if pair[0] == i])
        limit = d[k - 1] + 0.05 if len(d) >= k else np.inf
        np.testing.assert_allclose(shell.distances[shell.centers == i], d[d <= limit], atol=1e-9)
        np.testing.assert_allclose(knn.distances[knn.centers == i], d[:k], atol=1e-9)


def test_shell_keeps_ties_and_knn_cuts_them(crystals: dict[str, Atoms]) -> None:
    atoms = crystals["rocksalt"]  # 6 at a / 2, 12 at a / sqrt(2)
    counts = {}
    rules: tuple[NeighborRule, ...] = ("knn", "shell")
    for rule in rules:
        bonds = find_bonds(
            atoms.positions, atoms.cell.array, atoms.pbc, rule=rule, cutoff=8.0, n_neighbors=12, tolerance=0.01
        )
        counts[rule] = set(np.bincount(bonds.centers).tolist())
    assert counts == {"knn": {12}, "shell": {18}}


def test_a_cell_without_volume_is_refused() -> None:
    flat = np.array([[3.0, 0, 0], [0, 3, 0], [3, 3, 0]])
    with pytest.raises(ValueError, match="zero or lie in one plane"):
        search(np.zeros((1, 3)), flat, PERIODIC, 5.0)


def test_padding_of_the_original_code() -> None:
    positions = np.array([[0.0, 0, 0], [0, 0, 1.5], [10, 10, 10]])
    bonds = find_bonds(positions, 30 * np.eye(3), PERIODIC, rule="knn", cutoff=8.0, n_neighbors=3, tolerance=0.0)
    padded = pad_to(bonds, np.zeros(3, dtype=np.int64), 3, 9.0)
    assert padded.centers.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert padded.neighbors.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0]
    assert padded.distances.tolist() == [1.5, 9, 9, 1.5, 9, 9, 9, 9, 9]
