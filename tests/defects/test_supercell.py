"""Supercells: images really far enough apart, no smaller cell would do, and the order of the atoms."""

import time
from itertools import product

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, mx2

from cgcnn_ase.defects.host import check_host
from cgcnn_ase.defects.supercell import image_distance, make_supercell

from .conftest import example

HOSTS = {
    "fcc": bulk("Cu"),
    "bcc": bulk("Fe"),
    "hcp": bulk("Mg"),
    "LiNiO2": example("LiNiO2"),
    "LiFePO4": example("LiFePO4"),
    "triclinic": Atoms("Li", cell=[[3.1, 0.4, -0.2], [1.3, 4.2, 0.6], [-0.9, 1.7, 5.3]], pbc=True),
    "skewed": Atoms("Li", cell=[[3, 0, 0], [11.5, 3, 0], [7, -8, 3]], pbc=True),
}


def shortest(cell, reach=12):
    """The shortest lattice vector, by looking at all of them."""
    steps = np.array([n for n in product(range(-reach, reach + 1), repeat=len(cell)) if any(n)])
    return np.linalg.norm(steps @ cell, axis=1).min()


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("distance", [6.0, 10.0])
@pytest.mark.parametrize("name", HOSTS)
def test_images_are_far_enough_apart(name, distance, diagonal):
    if name == "skewed" and diagonal:
        distance = 4.0
    cell = make_supercell(check_host(HOSTS[name]), min_distance=distance, diagonal=diagonal)
    assert shortest(cell.atoms.cell.array) >= distance - 1e-6
    assert shortest(cell.atoms.cell.array) == pytest.approx(cell.image_distance)
    assert np.linalg.det(cell.matrix) > 0
    if diagonal:
        assert (cell.matrix == np.diag(np.diag(cell.matrix))).all()


def test_no_smaller_supercell_would_do():
    """Against all matrices with entries from -1 to 2 in a crystal, and from -4 to 4 in a layer."""
    host = check_host(bulk("Cu"))
    size = round(np.linalg.det(make_supercell(host, min_distance=4.9).matrix))
    assert size == 8  # 2×2×2, images 5.1 Å apart
    matrices = np.array(list(product(range(-1, 3), repeat=9))).reshape(-1, 3, 3)
    assert _longest(matrices, host.cell, size) < 4.9
    layer = check_host(mx2("MoS2", vacuum=8))
    size = round(np.linalg.det(make_supercell(layer, min_distance=8.4).matrix))
    assert size == 7  # √7 × √7, images 8.41 Å apart
    matrices = np.array(list(product(range(-4, 5), repeat=4))).reshape(-1, 2, 2)
    assert _longest(matrices, layer.cell[:2], size) < 8.4


def _longest(matrices, cell, size):
    """The longest shortest vector, of all supercells with less than so many cells."""
    determinants = np.rint(np.linalg.det(matrices))
    smaller = matrices[(determinants > 0) & (determinants < size)]
    steps = np.array([n for n in product(range(-4, 5), repeat=len(cell)) if any(n)])
    result = 0.0
    for part in np.array_split(smaller, 1 + len(smaller) // 1_000):
        lattices = part[np.linalg.norm(part @ cell, axis=2).min(axis=1) > result] @ cell
        result = max([result, *np.linalg.norm(steps @ lattices, axis=2).min(axis=1)])
    return result


def test_no_smaller_diagonal_supercell_would_do():
    host = check_host(HOSTS["triclinic"])
    size = round(np.linalg.det(make_supercell(host, min_distance=9.0, diagonal=True).matrix))
    fitting = [n for n in product(range(1, 6), repeat=3) if shortest(np.diag(n) @ host.cell, 4) >= 9.0]
    assert size == min(np.prod(n) for n in fitting)


def test_large_distances_are_quick():
    """There are 10^5 sublattices of a few hundred cells: those are not all looked at."""
    start = time.perf_counter()
    cell = make_supercell(check_host(bulk("Cu")), min_distance=20.0)
    assert time.perf_counter() - start < 20.0  # 0.4 s on an idle machine
    assert shortest(cell.atoms.cell.array, 6) >= 20.0
    assert len(cell.atoms) < 1.25 * 20**3 / np.sqrt(2) / 11.8  # the densest lattice of images has so many
    with pytest.raises(ValueError, match=r"at most max_atoms = 300 atoms keeps images 20 Å apart"):
        make_supercell(check_host(bulk("Cu")), min_distance=20.0, max_atoms=300)


def test_a_cell_that_is_large_enough_stays():
    host = check_host(Atoms("Li2", positions=[[0, 0, 0], [5, 5, 5.5]], cell=[10.5, 10.5, 11], pbc=True))
    assert (make_supercell(host).matrix == np.eye(3)).all()


@pytest.mark.parametrize("shape", [2, (3, 1, 2), [[1, 1, 0], [-1, 2, 0], [0, 0, 1]], np.diag([1, 2, 2])])
def test_atoms_keep_the_order_of_the_host(shape):
    from ase.build import make_supercell as ase_supercell

    host = check_host(example("LiNiO2"))
    cell = make_supercell(host, shape)
    numbers = shape if isinstance(shape, tuple) else None
    if isinstance(shape, int) or numbers:
        repeated = host.atoms.repeat(shape)
        np.testing.assert_allclose(cell.atoms.positions, repeated.positions, atol=1e-9)
        assert (cell.atoms.numbers == repeated.numbers).all()
    n = len(host.atoms)
    np.testing.assert_allclose(cell.atoms.positions[:n], host.atoms.positions)
    assert (cell.atoms.numbers == np.tile(host.atoms.numbers, len(cell.atoms) // n)).all()
    matrix = np.diag([shape] * 3) if isinstance(shape, int) else np.diag(shape) if numbers else np.array(shape)
    truth = ase_supercell(host.atoms, matrix)
    ours = cell.atoms.copy()
    ours.wrap(eps=1e-6)
    truth.wrap(eps=1e-6)
    result = {(z, *np.round(p, 3)) for z, p in zip(ours.numbers, ours.positions + 0.0, strict=True)}
    assert result == {(z, *np.round(p, 3)) for z, p in zip(truth.numbers, truth.positions + 0.0, strict=True)}


def test_the_number_of_an_atom_in_any_cell():
    host = check_host(example("LiNiO2"))
    cell = make_supercell(host, [[2, 1, 0], [-1, 2, 1], [0, 0, 1]])
    rng = np.random.default_rng(3)
    for _ in range(50):
        site, steps = int(rng.integers(12)), rng.integers(-6, 7, 3)
        index = cell.index(site, steps)
        apart = (host.atoms.positions[site] + steps @ host.cell - cell.atoms.positions[index]) @ np.linalg.inv(
            cell.atoms.cell.array
        )
        np.testing.assert_allclose(apart, np.rint(apart), atol=1e-8)
        assert cell.atoms.numbers[index] == host.atoms.numbers[site]


@pytest.mark.parametrize("vacuum", [8, None])
def test_layers_grow_in_their_plane_only(vacuum):
    layer = check_host(mx2("MoS2", vacuum=vacuum))
    for cell in (make_supercell(layer), make_supercell(layer, diagonal=True), make_supercell(layer, 4)):
        assert cell.matrix[2].tolist() == cell.matrix[:, 2].tolist() == [0, 0, 1]
        assert shortest(cell.atoms.cell.array[:2]) == pytest.approx(cell.image_distance)
        assert cell.image_distance >= 10
    assert np.linalg.det(make_supercell(layer).matrix) < 16  # 12 is the densest: 10² √3/2 / area
    with pytest.raises(ValueError, match=r"supercell \[2, 2, 2\]: would repeat host along its vacuum \(c\)"):
        make_supercell(layer, [2, 2, 2])


def test_per_atom_arrays_are_repeated():
    host = bulk("NiO", "rocksalt", a=4.17)
    host.set_initial_magnetic_moments([2.0, 0.0])
    atoms = make_supercell(check_host(host), 2).atoms
    assert atoms.get_initial_magnetic_moments().tolist() == [2.0, 0.0] * 8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"supercell": 0}, "must be positive"),
        ({"supercell": [2, 2]}, "give a whole number, three of them"),
        ({"supercell": [2, 2, 1.5]}, "give a whole number, three of them"),
        ({"supercell": [1, -1, 1]}, "must be positive"),
        ({"supercell": [[1, 0, 0], [1, 0, 0], [0, 0, 1]]}, "must have a determinant"),
        ({"supercell": 5, "max_atoms": 100}, "has 125 atoms, more than max_atoms = 100"),
        ({"min_distance": -1.0}, "must be a positive length"),
        ({"min_distance": float("nan")}, "must be a positive length"),
        ({"min_distance": 20.0, "max_atoms": 50}, "at most max_atoms = 50 atoms keeps images 20 Å apart"),
    ],
)
def test_bad_supercells(options, words):
    with pytest.raises(ValueError, match=words) as caught:
        make_supercell(check_host(bulk("Cu")), **options)
    assert "\n" not in str(caught.value)


def test_image_distance_of_a_very_skewed_cell():
    cell = np.array([[3.0, 0, 0], [300.0, 4.0, 0], [0.5, 400.0, 5.0]])
    assert image_distance(cell, (True, True, True)) == pytest.approx(3.0)
