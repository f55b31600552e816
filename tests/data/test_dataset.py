"""Packed data sets and id_prop.csv folders as one kind of object."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ase.build import bulk
from ase.io import write

from cgcnn_ase.core.errors import DatasetError
from cgcnn_ase.core.targets import TargetSpec
from cgcnn_ase.data import dataset
from cgcnn_ase.data.dataset import Dataset, load_dataset, read_packed, read_table
from cgcnn_ase.data.prepare import prepare
from cgcnn_ase.data.prepared import PreparedData, is_prepared
from cgcnn_ase.graphs import GraphConfig, build_graph
from cgcnn_ase.graphs.crystal_graph import geometry
from cgcnn_ase.structures.packed import load_packed

from ..structures.damage import OF_FILE, OF_STRUCTURE, arrays, cut
from ..structures.damage import write as write_damaged

CRYSTALS = [
    bulk("NaCl", "rocksalt", a=5.6),
    bulk("Cu"),
    bulk("NaCl", "cesiumchloride", a=3.4),
    bulk("TiC", "rocksalt", a=4.3),
]


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """Four crystals; the second has no gap, the third is called NaN."""
    np.savez(
        tmp_path / "structures.npz",
        ids=np.array(["a", "b", "NaN", "d"]),
        lattice=np.array([atoms.cell.array for atoms in CRYSTALS]),
        offsets=np.cumsum([0, *map(len, CRYSTALS)]),
        numbers=np.concatenate([atoms.numbers for atoms in CRYSTALS]),
        frac=np.concatenate([atoms.get_scaled_positions(wrap=False) for atoms in CRYSTALS]),
    )
    table = {
        "id": ["a", "b", "NaN", "d"],
        "reduced_formula": ["NaCl", "Cu", "NaCl", "NaN"],
        "gap": [1.5, None, 2.5, 0.1],
        "energy": [1.0, 2.0, 3.0, 4.0],
        "split": ["train", "train", "val", "train"],
    }
    pd.DataFrame(table).to_csv(tmp_path / "properties.csv.gz", index=False)
    return tmp_path


def test_packed(packed: Path) -> None:
    data = load_dataset(packed, target="gap")
    assert data.ids == ["a", "NaN", "d"]  # b has no gap
    assert data.targets.tolist() == [[1.5], [2.5], [0.1]]
    assert data.groups == ["NaCl", "NaCl", "NaN"]
    assert data.split is not None
    assert data.split.tolist() == ["train", "val", "train"]
    for shape, atoms in zip(data.structures, [CRYSTALS[0], CRYSTALS[2], CRYSTALS[3]], strict=True):
        for one, other in zip(shape, geometry(atoms), strict=True):
            np.testing.assert_allclose(one.astype(float), other.astype(float), atol=1e-12)
    assert len(load_dataset(packed, target="energy")) == 4


def test_the_target_must_be_named_and_be_there(packed: Path) -> None:
    with pytest.raises(DatasetError, match="name the column to learn; there are gap, energy"):
        load_dataset(packed)
    with pytest.raises(DatasetError, match="no column 'Gap'; allowed: gap, energy"):
        load_dataset(packed, target="Gap")
    with pytest.raises(DatasetError, match="column 'split' holds text"):
        load_dataset(packed, target="split")


def test_tables_that_do_not_fit_the_structures(packed: Path) -> None:
    table = packed / "properties.csv.gz"
    pd.read_csv(table, keep_default_na=False).iloc[::-1].to_csv(table, index=False)
    with pytest.raises(DatasetError, match=r"rows are not the structures of structures\.npz"):
        load_dataset(packed, target="gap")
    table.unlink()
    with pytest.raises(DatasetError, match=r"has no properties\.csv"):
        load_dataset(packed, target="gap")


def test_places_where_there_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file or folder"):
        load_dataset(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"neither structures\.npz nor id_prop\.csv"):
        load_dataset(tmp_path)


def test_id_prop_folder_and_file(tmp_path: Path) -> None:
    for name, atoms in zip("abcd", CRYSTALS, strict=True):
        write(tmp_path / f"{name}.cif", atoms)
    (tmp_path / "id_prop.csv").write_text("a,1\nb,2\nc,3\nd,4\n")
    (tmp_path / "other.csv").write_text("cif_id,gap\nd,7\n")
    data = load_dataset(tmp_path)
    assert (data.ids, data.targets[:, 0].tolist(), data.split) == (["a", "b", "c", "d"], [1, 2, 3, 4], None)
    assert data.groups[0] == data.groups[2] != data.groups[3]  # both are NaCl
    assert load_dataset(tmp_path / "other.csv", target="gap").targets.tolist() == [[7]]


def test_the_hash_is_that_of_ids_and_targets(packed: Path) -> None:
    """Written out, as it must not depend on how a NumPy release prints its numbers."""
    data = load_dataset(packed, target="gap")
    assert data.hash_of("train") == hashlib.sha256(b"a,1.5\nd,0.1\n").hexdigest()
    assert data.hash_of("val") == hashlib.sha256(b"NaN,2.5\n").hexdigest()


def test_prepare_and_read_back(packed: Path, tmp_path: Path) -> None:
    data, spec, config = load_dataset(packed, target="gap"), TargetSpec(name="gap", unit="eV"), GraphConfig(merge=True)
    prepared = prepare(data, spec, config, cache=tmp_path / "cache")
    assert prepared.rows("train").tolist() == [0, 2]
    assert prepared.rows("test").tolist() == []
    prepared.save(tmp_path / "prepared")
    assert is_prepared(tmp_path / "prepared")
    assert not is_prepared(tmp_path / "cache")
    again = PreparedData.load(tmp_path / "prepared")
    for one in (prepared, again):
        assert one.ids == ["a", "NaN", "d"]
        assert one.targets.tolist() == [[1.5], [2.5], [0.1]]
        assert one.split.tolist() == ["train", "val", "train"]
        assert (one.graph_config, one.specs, one.train_hash) == (config, (spec,), data.hash_of("train"))
        assert one.graphs.batch([2]).distances.tolist() == build_graph(CRYSTALS[3], config).distances.tolist()


def test_prepare_splits_by_formula_where_there_is_no_split(tmp_path: Path) -> None:
    shapes = [geometry(atoms) for atoms in CRYSTALS] * 10
    formulas = [f"formula {k // 4}" for k in range(40)]
    data = Dataset(
        [str(k) for k in range(40)],
        shapes,
        np.arange(40.0)[:, None],
        columns=pd.DataFrame({"reduced_formula": formulas}),
    )
    prepared = prepare(data, TargetSpec(name="x", unit=""), GraphConfig(), val=0.2, test=0.2, seed=1, cache=tmp_path)
    counts = {name: len(prepared.rows(name)) for name in ("train", "val", "test")}
    assert counts == {"train": 24, "val": 8, "test": 8}
    names = {formula: {prepared.split[k] for k in range(40) if formulas[k] == formula} for formula in formulas}
    assert all(len(of_one) == 1 for of_one in names.values())
    assert prepared.train_hash != data.hash_of("train")  # the hash is of the training split, not of everything


def test_real_data(shared_data: Path) -> None:
    data = load_dataset(shared_data / "mp_elastic", target="K_VRH")
    assert data.split is not None
    assert set(data.split) == {"train", "val", "test"}
    assert 5000 < len(data) <= 5470
    assert np.isfinite(data.targets).all()
    train = set(np.array(data.groups)[data.split == "train"])
    assert not train & set(np.array(data.groups)[data.split == "test"])


@pytest.mark.parametrize("damage", [*OF_FILE, *OF_STRUCTURE])
def test_damaged_structures_are_refused_naming_file_array_and_structure(tmp_path: Path, damage: str) -> None:
    change, words, *_ = (OF_FILE | OF_STRUCTURE)[damage]
    ids = change(arrays())["ids"].tolist()
    pd.DataFrame({"id": ids, "gap": [1.0, 2.0, 3.0]}).to_csv(tmp_path / "properties.csv", index=False)
    file = write_damaged(tmp_path / "structures.npz", change)
    doors = [
        lambda: load_dataset(tmp_path, target="gap").structures[0],
        lambda: read_table(tmp_path),
        lambda: read_packed(tmp_path),
        lambda: prepare(load_dataset(tmp_path), TargetSpec(name="gap", unit=""), GraphConfig(), is_part=True),
    ]
    for door in doors:
        with pytest.raises(DatasetError, match=words) as caught:
            door()
        assert str(caught.value).startswith(f"{file}: ")


def test_structures_that_were_cut_off_are_refused(packed: Path) -> None:
    cut(packed / "structures.npz")
    for door in (lambda: load_dataset(packed, target="gap"), lambda: read_table(packed)):
        with pytest.raises(DatasetError, match=r"structures\.npz: is no .npz file or is cut off"):
            door()


def test_structures_are_read_when_asked_for_and_once(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels, splits and the stated formulas are there without them."""
    n_read = []
    monkeypatch.setattr(dataset, "load_packed", lambda path: n_read.append(path) or load_packed(path))
    data = load_dataset(packed, target="gap")
    assert (len(data), data.hash_of("val"), data.groups[0]) == (3, hashlib.sha256(b"NaN,2.5\n").hexdigest(), "NaCl")
    some = data.take(np.array([2, 0]))
    assert (some.ids, len(some.structures), n_read) == (["d", "a"], 2, [])
    assert some.structures[0].numbers.tolist() == CRYSTALS[3].numbers.tolist()
    assert [len(each) for each in (data.volumes, data.fractions, some.n_atoms)] == [3, 3, 2]
    assert data.formulas == ["NaCl", "NaCl", "TiC"]
    assert len(n_read) == 1
