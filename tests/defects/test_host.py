"""Hosts: what is refused, in words; vacuum; the hash."""

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene, mx2
from pymatgen.core import Lattice, Structure

from cgcnn_ase.defects.host import check_host, host_hash

from .conftest import EXAMPLES, example


def test_disordered_hosts(tmp_path):
    mixed = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(4.2), [{"Mg": 0.5, "Ni": 0.5}, "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )
    with pytest.raises(ValueError, match=r"alloy: has partially occupied sites.*order_disordered=True"):
        check_host(mixed, "alloy")
    mixed.to(str(tmp_path / "alloy.cif"))
    with pytest.raises(ValueError, match=r"partially occupied sites.*order_disordered=True"):
        check_host(ase.io.read(tmp_path / "alloy.cif"))  # ASE keeps the main element and notes the rest


def test_ordered_hosts_read_by_ase_are_taken():
    assert len(check_host(ase.io.read(EXAMPLES / "LiNiO2.cif")).atoms) == 12


@pytest.mark.parametrize(
    ("atoms", "words"),
    [
        (Atoms("H2O", positions=np.eye(3)), "periodic in no direction"),
        (Atoms(), "has no atoms"),
        (Atoms("Si2", positions=[[0, 0, 0], [0, 0, 0.1]], cell=[5, 5, 5], pbc=True), "overlap"),
        (Atoms("X", cell=[5, 5, 5], pbc=True), "dummy"),
    ],
)
def test_no_host(atoms, words):
    with pytest.raises(ValueError, match=words):
        check_host(atoms)


@pytest.mark.parametrize(
    ("atoms", "vacuum"),
    [
        (example("LiNiO2"), (False, False, False)),
        (bulk("Cs"), (False, False, False)),
        (mx2("MoS2", vacuum=8), (False, False, True)),
        (mx2("MoS2", vacuum=None), (False, False, True)),
        (graphene(vacuum=2.0), (False, False, True)),  # not periodic: 4 Å are enough
        (Atoms("C2", positions=[[0, 0, 0], [0, 0, 1.3]], cell=[10, 12, 2.6], pbc=True), (True, True, False)),
        (Atoms("Xe", cell=[9, 9, 9], pbc=True), (False, False, False)),  # far apart in all directions
    ],
)
def test_vacuum(atoms, vacuum):
    assert check_host(atoms).vacuum == vacuum


def test_a_layer_across_the_face_of_the_cell():
    layer = mx2("MoS2", vacuum=8)
    layer.pbc = True
    layer.positions[:, 2] -= layer.positions[0, 2]
    layer.wrap()
    assert np.ptp(layer.positions[:, 2]) > 15
    assert check_host(layer).vacuum == (False, False, True)


def test_graphite_is_no_layer():
    graphite = Structure.from_spacegroup(
        "P6_3/mmc", Lattice.hexagonal(2.461, 6.708), ["C", "C"], [[0, 0, 0.25], [1 / 3, 2 / 3, 0.25]]
    )
    assert check_host(graphite).vacuum == (False, False, False)


@pytest.mark.parametrize("suffix", ["extxyz", "cif", "vasp"])
def test_the_hash_survives_files_and_sees_changes(tmp_path, suffix):
    from cgcnn_ase.structures import read_structures

    host = example("LiFePO4")
    ase.io.write(tmp_path / f"host.{suffix}", host)
    again = next(iter(read_structures(tmp_path / f"host.{suffix}"))).unwrap()
    assert host_hash(again) == host_hash(host)
    moved, other = host.copy(), host.copy()
    moved.positions[3, 0] += 0.01
    other.symbols[0] = "Na"
    assert len({host_hash(host), host_hash(moved), host_hash(other)}) == 3
