"""What of labelled sets is learned, and what is refused."""

import numpy as np
import pytest

pytest.importorskip("aiida", reason="aiida-core is an optional extra")

from aiida_plugin.calculations.training_data import divide, gather
from aiida_plugin.data.structures import StructureSetData
from cgcnn_ase.data.dataset import load_dataset
from cgcnn_ase.structures.record import label_of

from .labelled import SCHEME, oxide, oxides

TARGET = "formation_energy_per_atom"


def node(atoms):
    return StructureSetData.from_ase(atoms.values(), list(atoms))


def test_where_a_label_comes_from():
    atoms = oxide("Ni")
    assert label_of(atoms, "energy_per_atom") == pytest.approx(atoms.get_potential_energy() / 2)
    assert label_of(atoms, "energy") == atoms.get_potential_energy()
    assert label_of(atoms, TARGET) == atoms.info[TARGET]
    assert label_of(atoms, "gap") is None
    assert label_of(oxide("Ni", label=False), "energy_per_atom") is None


@pytest.mark.parametrize(
    ("value", "words"), [("deep", "is a str, not a number"), (np.nan, "is nan; allowed are finite")]
)
def test_a_label_that_is_no_number_names_its_structure(value, words):
    atoms = oxides(4)
    atoms["NiO-1"].info["gap"] = value
    for k, each in enumerate(atoms.values()):
        each.info.setdefault("gap", float(k))
    with pytest.raises(ValueError, match=f"structure 'NiO-1' of structures: its gap {words}"):
        gather(node(atoms), "gap", {})


def test_the_folder_is_what_the_package_reads(tmp_path):
    """Also partial periodicity."""
    atoms, test = oxides(12), {"slab": oxide("Fe", 1.1)}
    test["slab"].pbc = (True, True, False)
    data = gather(node(atoms), TARGET, {"val": 0.25}, test=node(test))
    data.write(tmp_path, TARGET)
    read = load_dataset(tmp_path, target=TARGET)
    assert read.ids == [*atoms, "slab"]
    assert read.targets[:, 0].tolist() == [a.info[TARGET] for a in (*atoms.values(), *test.values())]
    assert read.split is not None
    assert read.split.tolist() == data.split.tolist()
    assert {split: data.count(split) for split in ("train", "val", "test")} == {"train": 9, "val": 3, "test": 1}
    assert read.structures[-1].pbc.tolist() == [True, True, False]
    for shape, each in zip(read.structures, (*atoms.values(), *test.values()), strict=True):
        assert np.allclose(shape.positions, each.positions, atol=1e-9)
    assert data.scheme == SCHEME


def test_formulas_are_not_divided():
    data = gather(node(oxides(32)), TARGET, {"val": 0.25, "test": 0.25})
    parts = {}
    for name, split in zip(data.ids, data.split.tolist(), strict=True):
        parts.setdefault(name.split("-")[0], set()).add(split)
    assert all(len(splits) == 1 for splits in parts.values())
    assert data.split_by == "group"
    assert set(data.split.tolist()) == {"train", "val", "test"}


def test_hosts_are_not_divided():
    atoms = oxides(12)
    for k, each in enumerate(atoms.values()):
        each.info["host"] = "abc"[k % 3]
    data = gather(node(atoms), TARGET, {"split_by": "host", "val": 0.34, "test": 0.0})
    assert {"abc"[k % 3] for k in np.flatnonzero(data.split == "val")}.isdisjoint(
        {"abc"[k % 3] for k in np.flatnonzero(data.split == "train")}
    )
    with pytest.raises(ValueError, match="'MgO-0' of structures has no 'parent' in its info to split by"):
        gather(node(atoms), TARGET, {"split_by": "parent"})


@pytest.mark.parametrize("groups", [[0, 0], [0, 1], [0] * 6, [0, 0, 0, 1], list(range(20)), [0] * 15 + [1] * 3])
@pytest.mark.parametrize("test", [0.0, 0.1, 0.5])
def test_few_structures_leave_some_to_learn_and_some_to_hold_out(groups, test):
    for seed in range(5):
        division = divide(groups, val=0.1, test=test, seed=seed)
        counts = {name: int((division.split == name).sum()) for name in ("train", "val", "test")}
        assert counts["train"] >= 1
        assert 1 <= counts["val"] <= max(1, len(groups) // 2)
        assert sum(counts.values()) == len(groups)
        again = divide(groups, val=0.1, test=test, seed=seed)
        assert division.split.tolist() == again.split.tolist()
        if division.by == "group":
            owners = {}
            for group, name in zip(groups, division.split.tolist(), strict=True):
                owners.setdefault(group, set()).add(name)
            assert all(len(names) == 1 for names in owners.values())


def test_one_label_is_too_few():
    with pytest.raises(ValueError, match="at least 2 labelled structures.*got 1"):
        gather(node(oxides(1)), TARGET, {})


def test_missing_labels():
    atoms = oxides(6) | {"new": oxide("Sr", label=False)}
    with pytest.raises(
        ValueError, match="1 of 7 structures have no label 'formation_energy_per_atom': new; leave them"
    ):
        gather(node(atoms), TARGET, {})
    data = gather(node(atoms), TARGET, {"unlabelled": "skip", "test": 0.0})
    assert data.labels[-1] is None
    assert data.count("train") + data.count("val") == 6
    with pytest.raises(ValueError, match="no structure of test has a label"):
        gather(node(oxides(6)), TARGET, {"unlabelled": "skip"}, test=node({"new": atoms["new"]}))


def test_what_is_tested_is_not_learned():
    atoms = oxides(6)
    with pytest.raises(ValueError, match=r"ids that occur in two sets: NiO-1 \(structures and test\)"):
        gather(node(atoms), TARGET, {}, test=node({"NiO-1": oxide("Sr")}))
    with pytest.raises(ValueError, match="structure 'other' of test is the same as 'NiO-1' of structures"):
        gather(node(atoms), TARGET, {}, test=node({"other": atoms["NiO-1"]}))


def test_labels_of_several_kinds_are_not_mixed():
    other = SCHEME | {"functional": "PBEsol"}
    atoms = oxides(6) | {"new": oxide("Sr", scheme=other)}
    with pytest.raises(ValueError, match="functional is PBE for some and PBEsol for others"):
        gather(node(atoms), TARGET, {})
    with pytest.raises(ValueError, match="functional is PBE for some and PBEsol for others"):
        gather(node(oxides(6)), TARGET, {}, test=node({"new": atoms["new"]}))
    assert gather(node(atoms), TARGET, {"mixed_labels": True}).scheme is None
