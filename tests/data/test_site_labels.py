"""Labels of sites: from tables and pairs of cells to the nodes of graphs."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from ase.build import bulk

from cgcnn_ase.core.errors import DatasetError
from cgcnn_ase.core.targets import TargetSpec
from cgcnn_ase.data.site_labels import (
    LabelledHost,
    SiteSet,
    labelled_host,
    prepare_sites,
    with_splits,
    without_held_out,
)
from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.graphs.crystal_graph import geometry
from cgcnn_ase.structures.composition import composition_key
from cgcnn_ase.zoo.defect_data import VACANCY_SETS, jarvis_vacancies, load_vacancies, packed_vacancies, removed_site

SPECS = tuple(TargetSpec(name=f"vacancy_{name}", unit="eV", level="site") for name in ("a", "b"))


def rock_salt(formula: str, a: float):
    return geometry(bulk(formula, "rocksalt", a=a, cubic=True))


def host(formula, a, sites, values, split="train") -> LabelledHost:
    return labelled_host(f"{formula}-{split}", rock_salt(formula, a), sites, values, split)


@pytest.mark.parametrize("merge", [False, True])
def test_labels_reach_the_nodes_of_their_atoms(merge):
    sets = [
        SiteSet("one", [host("MgO", 4.21, [0, 1], [8.0, 7.0]), host("NiO", 4.18, [3], [5.0])]),
        SiteSet("two", [host("CaO", 4.81, [2, 4], [6.0, 6.5], "val")]),
    ]
    config = GraphConfig(merge=merge)
    data = prepare_sites(sets, SPECS, config)
    assert data.ids == ["one:MgO-train", "one:NiO-train", "two:CaO-val"]
    assert data.of_sites
    numbers = data.graphs.batch([0, 1, 2]).numbers.numpy()
    known = np.isfinite(data.targets)
    assert numbers[known[:, 0]].tolist() == [12, 8, 8]
    assert data.targets[known[:, 0], 0].tolist() == [8.0, 7.0, 5.0]
    assert numbers[known[:, 1]].tolist() == ([20] if merge else [20, 20])
    # two equivalent atoms with different labels share a node and their mean
    assert data.targets[known[:, 1], 1].tolist() == ([6.25] if merge else [6.0, 6.5])
    assert np.isfinite(data.labels("train")).sum(axis=0).tolist() == [3, 0]


def test_the_hash_is_of_the_training_labels():
    def hashed(value, split="train"):
        hosts = [host("MgO", 4.21, [0], [value], split), host("CaO", 4.81, [0], [3.0])]
        return prepare_sites([SiteSet("one", hosts)], SPECS[:1], GraphConfig()).train_hash

    assert hashed(1.0) == hashed(1.0) != hashed(1.5)
    assert hashed(1.0, "val") == hashed(1.5, "val") != hashed(1.0)


def test_what_one_set_tests_no_other_teaches():
    one = SiteSet("one", [host("MgO", 4.2, [0], [8.0], "test"), host("NiO", 4.2, [0], [5.0], "val")])
    two = SiteSet(
        "two",
        [
            host("MgO", 4.3, [0], [8.0]),
            host("NiO", 4.3, [0], [8.0]),
            host("CaO", 4.8, [0], [8.0]),
            host("MgO", 4.25, [0], [8.0], "val"),
            host("NiO", 4.25, [0], [8.0], "test"),
        ],
    )
    left = without_held_out([one, two])
    assert [h.id for h in left[0].hosts] == ["MgO-test"]  # nickel oxide is val here and test there
    assert [h.id for h in left[1].hosts] == ["CaO-train", "NiO-test"]


@pytest.mark.parametrize(
    ("sites", "values", "words"),
    [
        ([8], [1.0], "there is no site 8; it has sites 0 to 7"),
        ([-1], [1.0], "there is no site -1"),
        ([0, 0], [1.0, 2.0], "site 0 has two labels"),
        ([0], [np.nan], "label of site 0 is not finite"),
    ],
)
def test_bad_labels(sites, values, words):
    with pytest.raises(DatasetError, match=f"MgO-train: .*{words}"):
        host("MgO", 4.21, sites, values)


def test_no_hosts():
    with pytest.raises(DatasetError, match="no host"):
        prepare_sites([SiteSet("one", [])], SPECS[:1], GraphConfig())


@pytest.mark.parametrize("symbol", ["Mg", "O"])
def test_the_removed_atom_is_found(symbol):
    """Also where the atoms have moved, another order, and another origin of the cell's coordinates."""
    cell = bulk("MgO", "rocksalt", a=4.21, cubic=True).repeat(2)
    rng = np.random.default_rng(0)
    for site in rng.choice([k for k, s in enumerate(cell.symbols) if s == symbol], 5, replace=False):
        defective = cell.copy()
        del defective[site]
        defective.positions += rng.normal(scale=0.05, size=defective.positions.shape)
        defective = defective[rng.permutation(len(defective))]
        defective.wrap()
        assert removed_site(geometry(cell), geometry(defective), symbol) == site


def test_an_element_that_is_not_there_cannot_be_removed():
    cell = rock_salt("MgO", 4.21)
    with pytest.raises(DatasetError, match="no Li to remove"):
        removed_site(cell, cell, "Li")


def write_packed(folder):
    folder.mkdir()
    cells = [rock_salt("MgO", 4.21), rock_salt("NiO", 4.18)]
    np.savez(
        folder / "structures.npz",
        ids=np.array(["a", "b"]),
        lattice=np.stack([c.cell for c in cells]),
        offsets=np.array([0, 8, 16]),
        numbers=np.concatenate([c.numbers for c in cells]),
        frac=np.concatenate([c.positions @ np.linalg.inv(c.cell) for c in cells]),
    )
    pd.DataFrame({"material_id": ["a", "b"], "split": ["train", "test"]}).to_csv(
        folder / "properties.csv.gz", index=False
    )
    table = pd.DataFrame({"host": ["b", "a", "a"], "site_index": [1, 0, 0], "energy": [5.0, 7.0, 8.0]})
    table.to_csv(folder / "vacancies.csv.gz", index=False)
    return folder


def test_a_packed_set(tmp_path):
    result = packed_vacancies(write_packed(tmp_path / "set"), "mine", "host", "energy")
    assert [(h.id, h.split) for h in result.hosts] == [("a", "train"), ("b", "test")]
    assert result.n_labels == 2
    assert result.hosts[0].labels[0] == 7.5  # the mean of two values of one site
    assert np.allclose(result.hosts[0].structure.positions, rock_salt("MgO", 4.21).positions)


def test_a_missing_file_is_named(tmp_path):
    (write_packed(tmp_path / "set") / "vacancies.csv.gz").unlink()
    with pytest.raises(DatasetError, match=r"vacancies\.csv\.gz: no such file"):
        packed_vacancies(tmp_path / "set", "mine", "host", "energy")
    with pytest.raises(DatasetError, match=r"vacancy_db\.json\.gz: no such file"):
        jarvis_vacancies(tmp_path)


def test_pairs_of_cells(tmp_path):
    cell = bulk("MgO", "rocksalt", a=4.21, cubic=True)

    def plain(atoms, cartesian):
        coords = atoms.positions if cartesian else atoms.get_scaled_positions()
        return {
            "lattice_mat": atoms.cell.tolist(),
            "coords": coords.tolist(),
            "elements": atoms.get_chemical_symbols(),
            "cartesian": cartesian,
        }

    entries = []
    for site, energy in ((2, 6.0), (5, 9.0), (2, 7.0)):
        defective = cell.copy()
        symbol = defective.symbols[site]
        del defective[site]
        entries.append(
            {
                "jid": "J-1",
                "bulk_atoms": plain(cell, cartesian=False),
                "defective_atoms": plain(defective, cartesian=True),
                "symbol": symbol,
                "E_vac": energy,
            }
        )
    with gzip.open(tmp_path / "vacancy_db.json.gz", "wt") as file:
        json.dump(entries, file)
    (only,) = jarvis_vacancies(tmp_path).hosts
    assert only.id == "J-1-8"
    assert {k: v for k, v in enumerate(only.labels.tolist()) if v == v} == {2: 6.5, 5: 9.0}


def test_a_set_without_a_split_takes_that_of_others():
    """By formula; a formula that no other has is hashed, and stays where it is whatever else is in the set."""
    with_split = SiteSet("one", [host("MgO", 4.2, [0], [8.0], "test"), host("NiO", 4.2, [0], [5.0], "val")])
    formulas = ["MgO", "NiO", "CaO", "LiF", "NaCl", "KBr", "SrO", "BaO", "FeO", "MnO", "CoO", "VO"]
    site_set = SiteSet("two", [host(formula, 4.5, [0], [1.0], "") for formula in formulas])
    split = {h.id.partition("-")[0]: h.split for h in with_splits(site_set, [with_split], val=0.3, test=0.3).hosts}
    assert (split["MgO"], split["NiO"]) == ("test", "val")
    assert set(split.values()) == {"train", "val", "test"}
    fewer = replace(site_set, hosts=site_set.hosts[4:])
    again = {h.id.partition("-")[0]: h.split for h in with_splits(fewer, [with_split], val=0.3, test=0.3).hosts}
    assert again == {name: split[name] for name in formulas[4:]}


def test_the_published_sets(shared_data, tmp_path):
    write_packed(tmp_path / "set")
    table = pd.read_csv(tmp_path / "set" / "properties.csv.gz")
    table.assign(split="").to_csv(tmp_path / "set" / "properties.csv.gz", index=False)
    rows = pd.DataFrame({"host": ["a", "b"], "site_index": [0, 1], "energy": [7.0, 5.0]})
    rows.to_csv(tmp_path / "set" / "vacancies.csv.gz", index=False)
    sets = load_vacancies(shared_data, tmp_path / "set")
    assert tuple(each.name for each in sets) == VACANCY_SETS
    witman, kumagai, jarvis, _ = sets
    assert witman.n_labels + kumagai.n_labels > 3100
    assert jarvis.n_labels > 450
    held = {
        split: {composition_key(h.structure.numbers) for each in sets for h in each.hosts if h.split == split}
        for split in ("train", "val", "test")
    }
    assert not held["train"] & (held["val"] | held["test"])
    assert not held["val"] & held["test"]
    # published values of Kumagai's set
    oxygen = {h.id: float(np.nanmin(h.labels)) for h in kumagai.hosts}
    assert oxygen.get("MgO", 7.61) == pytest.approx(7.61, abs=0.02)
    assert all(np.isfinite(h.labels).any() for each in sets for h in each.hosts)
    assert all((h.structure.numbers[np.isfinite(h.labels)] == 8).all() for h in kumagai.hosts)
    small = [replace(each, hosts=each.hosts[:5]) for each in sets]
    specs = [TargetSpec(name=f"v_{name}", unit="eV", level="site") for name in VACANCY_SETS]
    data = prepare_sites(small, specs, GraphConfig(merge=True))
    assert len(data.ids) == 15 + len(sets[3].hosts)
