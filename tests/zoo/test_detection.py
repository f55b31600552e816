"""Labelled supercells: perfect and defective ones, and where the defect is."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.geometry import get_distances

from cgcnn_ase.cathodes import build_cathode
from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.structures.composition import composition_key
from cgcnn_ase.zoo.defect_data import (
    CATHODES,
    IS_DEFECTIVE,
    NamedHost,
    layers,
    prepare_cells,
    prepare_places,
    prepared,
    split_hosts,
)
from cgcnn_ase.zoo.detection_cells import DetectionConfig, detection_cells, elements_of

from ..published_layers import boron_nitride, molybdenum_disulfide

DOPANTS = ["Se", "W", "C", "Na", "Br"]
GRAPH = GraphConfig(rule="shell", angular=True, merge=True)


HOSTS = [("BN", boron_nitride()), ("MoS2", molybdenum_disulfide()), ("MgO", bulk("MgO", "rocksalt", a=4.212))]


def cells_of(**settings):
    return list(detection_cells(HOSTS, DetectionConfig(**{"supercell": 3, **settings}), dopants=DOPANTS))


def unlike(perfect: Atoms, defective: Atoms) -> tuple[list[int], list[int]]:
    """Atoms of each without a counterpart in the other: the same element within 0.001 Å."""
    d = get_distances(perfect.positions, defective.positions, cell=perfect.cell, pbc=perfect.pbc)[1]
    same = (d < 1e-3) & (perfect.numbers[:, None] == defective.numbers)
    return np.flatnonzero(~same.any(axis=1)).tolist(), np.flatnonzero(~same.any(axis=0)).tolist()


def test_a_defective_cell_differs_from_the_perfect_one_by_the_defect_alone():
    expected = {"vacancy": (1, 0), "antisite": (1, 1), "substitution": (1, 1), "interstitial": (0, 1)}
    cells = cells_of(n_defects=2)
    for defective, perfect in zip(cells[::2], cells[1::2], strict=True):
        assert not perfect.defective
        assert perfect.host == defective.host
        gone, come = unlike(perfect.atoms, defective.atoms)
        assert (len(gone), len(come)) == expected[defective.kind]
        if come:
            assert defective.places == tuple(come)
        host_elements = set(dict(HOSTS)[defective.host].get_chemical_symbols())
        new = {defective.atoms.symbols[i] for i in come}
        assert new.isdisjoint(host_elements) if defective.kind == "substitution" else new <= host_elements


def test_the_places_of_a_vacancy_are_its_nearest_neighbours():
    """Three in boron nitride, six sulfur atoms of a metal or three metals of a sulfur atom, six in rock salt."""
    n = {"v_B": 3, "v_N": 3, "v_Mo": 6, "v_S": 3, "v_Mg": 6, "v_O": 6}
    result = [cell for cell in cells_of(kinds=("vacancy",), n_defects=9) if cell.defective]
    assert {cell.defect: len(cell.places) for cell in result} == n


def test_as_many_perfect_cells_as_defective_ones_of_each_host():
    counts = Counter((cell.host, cell.defective) for cell in cells_of(n_defects=3))
    assert all(counts[host, True] == counts[host, False] > 0 for host, _ in HOSTS)
    assert len({cell.id for cell in cells_of(n_defects=3)}) == sum(counts.values())


def test_both_classes_are_displaced_alike():
    std = 0.05
    still, moved = cells_of(), cells_of(rattle=std)
    for which in (True, False):
        pairs = [(a, b) for a, b in zip(still, moved, strict=True) if a.defective == which]
        shift = np.concatenate([(b.atoms.positions - a.atoms.positions).ravel() for a, b in pairs])
        assert shift.std() == pytest.approx(std, rel=0.1)
        assert abs(shift.mean()) < 5 * std / np.sqrt(len(shift))


def test_the_same_seed_gives_the_same_cells_whatever_the_other_hosts():
    first, again = cells_of(rattle=0.02, seed=3), cells_of(rattle=0.02, seed=3)
    assert all(a.atoms == b.atoms for a, b in zip(first, again, strict=True))
    config = DetectionConfig(supercell=3, rattle=0.02, seed=3)
    alone = list(detection_cells(HOSTS[1:2], config, dopants=DOPANTS))
    cells = [cell for cell in first if cell.host == "MoS2"]
    assert all(a.atoms == b.atoms for a, b in zip(cells, alone, strict=True))
    other = cells_of(rattle=0.02, seed=4)
    assert any(len(a.atoms) != len(b.atoms) or a.atoms != b.atoms for a, b in zip(first, other, strict=False))


def test_a_layer_is_not_repeated_along_its_vacuum():
    heights = {cell.host: cell.atoms.cell.lengths()[2] for cell in cells_of()}
    assert heights["BN"] == pytest.approx(15.0)
    assert heights["MgO"] == pytest.approx(3 * HOSTS[2][1].cell.lengths()[2])


def test_what_is_not_allowed():
    with pytest.raises(ValueError, match="unknown kind 'hole'; allowed: vacancy, antisite, substitution"):
        DetectionConfig(kinds=("hole",))
    with pytest.raises(ValueError, match="rattle -1"):
        DetectionConfig(rattle=-1.0)
    with pytest.raises(ValueError, match="n_defects 0"):
        DetectionConfig(n_defects=0)
    with pytest.raises(ValueError, match="no dopant is given that BN does not have"):
        list(detection_cells(HOSTS[:1], DetectionConfig(kinds=("substitution",)), dopants=["B", "N"]))


def test_hosts_too_large_are_left_out():
    assert {cell.host for cell in cells_of(max_atoms=20)} == {"BN"}


def test_hosts_of_one_formula_are_in_one_split():
    hosts = [NamedHost(f"{k}", bulk("Cu"), f"f{k % 10}") for k in range(40)]
    split = split_hosts(hosts, val=0.2, test=0.3)
    by_formula = {host.formula: {split[h.name] for h in hosts if h.formula == host.formula} for host in hosts}
    assert all(len(names) == 1 for names in by_formula.values())
    assert Counter(split.values()) == {"train": 20, "val": 8, "test": 12}
    assert split == split_hosts(hosts, val=0.2, test=0.3)


def test_prepared_data_has_the_labels_of_the_cells():
    split = {"BN": "train", "MoS2": "val", "MgO": "test"}
    cells = cells_of(rattle=0.02)
    data = prepare_cells(cells, split, GRAPH)
    assert data.targets[:, 0].tolist() == [1.0, 0.0] * (len(cells) // 2)
    assert data.split.tolist() == [split[cell.host] for cell in cells]
    sites = prepare_places(cells, split, replace(GRAPH, merge=False))
    assert np.flatnonzero(sites.targets[: len(cells[0].atoms), 0]).tolist() == list(cells[0].places)
    assert sites.targets.sum() == sum(len(cell.places) for cell in cells)


def test_merged_sites_have_the_label_of_their_atoms():
    """In cells without displacements symmetry makes neighbours of a vacancy equal: one node for several atoms."""
    split = {name: "train" for name, _ in HOSTS}
    cells = cells_of(kinds=("vacancy",))
    data = prepare_places(cells, split, GRAPH)
    weights = data.graphs.batch(range(len(cells))).multiplicity.numpy()
    assert (weights * data.targets[:, 0]).sum() == sum(len(cell.places) for cell in cells)
    assert set(data.targets[:, 0].tolist()) == {0.0, 1.0}


def test_the_pretrained_detectors_have_one_target(tmp_path):
    with pytest.raises(ValueError, match="one target, not 2"):
        prepared(tmp_path, [IS_DEFECTIVE, IS_DEFECTIVE], GRAPH)


def test_cathodes_of_the_test_split_are_not_learned_from():
    compositions = {
        part: {composition_key(build_cathode(name, n_atoms=80, seed=0).numbers) for name in names}
        for part, names in CATHODES.items()
    }
    assert not compositions["train"] & (compositions["val"] | compositions["test"])
    assert not compositions["val"] & compositions["test"]


def test_published_layers(shared_data):
    hosts = layers(shared_data)
    assert len(hosts) > 400
    assert len({host.name for host in hosts}) == len(hosts)
    assert all(len(host.atoms) <= 6 for host in hosts)
    assert Counter(host.name.partition(":")[0] for host in hosts)["jarvis"] > 20
    split = split_hosts(hosts)
    formulas = {name: {h.formula for h in hosts if split[h.name] == name} for name in ("train", "val", "test")}
    assert not formulas["train"] & formulas["test"]
    assert not formulas["train"] & formulas["val"]
    assert elements_of([hosts[0].atoms]) == list(dict.fromkeys(hosts[0].atoms.get_chemical_symbols()))
