"""The report counts what is there, by columns, elements and splits, and reads every row that a data set has."""

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from ase.build import bulk
from ase.io import write

from cgcnn_ase.core.errors import DatasetError
from cgcnn_ase.data.dataset import load_dataset, read_table
from cgcnn_ase.inspection.report import Distribution, dataset_report

CRYSTALS = {
    "a": bulk("NaCl", "rocksalt", a=5.64, cubic=True),
    "b": bulk("Cu", a=3.61),
    "c": bulk("NaCl", "cesiumchloride", a=3.40),
    "d": bulk("TiC", "rocksalt", a=4.33),
    "e": bulk("Fe", a=2.87),
}


def write_packed(folder, crystals, table):
    """A packed data set."""
    folder.mkdir(exist_ok=True)
    atoms = list(crystals.values())
    np.savez(
        folder / "structures.npz",
        ids=np.array(list(crystals)),
        lattice=np.array([a.cell.array for a in atoms]),
        offsets=np.cumsum([0, *map(len, atoms)]),
        numbers=np.concatenate([a.numbers for a in atoms]),
        frac=np.concatenate([a.get_scaled_positions(wrap=False) for a in atoms]),
    )
    pd.DataFrame({"id": list(crystals), **table}).to_csv(folder / "properties.csv.gz", index=False)
    return folder


@pytest.fixture
def packed(tmp_path):
    columns = {
        "gap": [5.0, None, 4.0, None, np.inf],
        "energy": [1.0, 2.0, 3.0, 4.0, 5.0],
        "functional": ["PBE", "PBE", "r2SCAN", "PBE", None],
        "nothing": [None] * 5,
        "split": ["train", "train", "test", "val", "train"],
    }
    (tmp_path / "packed").mkdir()
    provenance = {"provider": "a provider", "database_version": "2026.1", "licence": "CC BY 4.0"}
    (tmp_path / "packed" / "provenance.json").write_text(json.dumps(provenance))
    return write_packed(tmp_path / "packed", CRYSTALS, columns)


@pytest.fixture
def id_prop(tmp_path):
    folder = tmp_path / "plain"
    folder.mkdir()
    for name, atoms in CRYSTALS.items():
        write(folder / f"{name}.cif", atoms)
    (folder / "id_prop.csv").write_text("cif_id,gap,energy,note\na,5,1,\nb,,2,metal\nc,4,3,\nd,,4,metal\ne,,5,NaN\n")
    return folder


def test_all_rows_and_columns_of_a_packed_set(packed):
    table = read_table(packed)
    assert table.ids == list("abcde")
    assert table.formulas == ["NaCl", "Cu", "NaCl", "TiC", "Fe"]
    assert table.numeric == ["gap", "energy", "nothing"]
    np.testing.assert_array_equal(table.values("gap"), [5, np.nan, 4, np.nan, np.nan])  # infinity is no label
    assert table.columns["functional"].tolist() == ["PBE", "PBE", "r2SCAN", "PBE", ""]
    assert table.volumes[0] == pytest.approx(5.64**3 / 8)
    np.testing.assert_allclose(table.fractions[0, [11, 17]], 0.5)
    learned = load_dataset(packed, target="gap")
    assert learned.targets[:, 0].tolist() == [v for v in table.values("gap") if np.isfinite(v)]


def test_an_id_prop_folder_with_gaps_and_text(id_prop):
    table = read_table(id_prop)
    assert table.numeric == ["gap", "energy"]
    np.testing.assert_array_equal(table.values("gap"), [5, np.nan, 4, np.nan, np.nan])
    assert table.columns["note"].tolist() == ["", "metal", "", "metal", "NaN"]
    assert read_table(id_prop / "id_prop.csv").ids == table.ids
    with pytest.raises(DatasetError, match="column 'note' holds text"):
        table.values("note")
    assert table.provenance is None


def test_counts(packed):
    report = dataset_report(read_table(packed))
    assert (report.n_structures, report.n_formulas, report.n_chemical_systems) == (5, 4, 4)
    assert report.n_atoms == sum(map(len, CRYSTALS.values()))
    assert report.elements == dict(Counter(s for a in CRYSTALS.values() for s in sorted(set(a.symbols))).items())
    assert list(report.elements) == ["C", "Na", "Cl", "Ti", "Fe", "Cu"]
    assert report.n_components == {1: 2, 2: 3}
    gap, text = report.columns["gap"], report.columns["functional"]
    assert (gap.kind, gap.n_missing, gap.distribution) == ("number", 3, Distribution.of([5.0, 4.0]))
    assert (text.kind, text.n_missing, text.n_distinct) == ("text", 1, 2)
    assert text.most_frequent == {"PBE": 3, "r2SCAN": 1}
    assert report.provenance["database_version"] == "2026.1"
    json.dumps(report.to_dict(), allow_nan=False)


def test_a_distribution_is_that_of_pandas():
    values = np.random.default_rng(0).gamma(2.0, size=501)
    result, series = Distribution.of([*values, np.nan]), pd.Series(values)
    assert (result.n, result.mean, result.std) == (501, pytest.approx(series.mean()), pytest.approx(series.std(ddof=0)))
    assert [result.minimum, result.q05, result.median, result.q95, result.maximum] == pytest.approx(
        series.quantile([0, 0.05, 0.5, 0.95, 1]).tolist()
    )
    assert Distribution.of([np.nan]) is None


def test_what_to_look_at(packed):
    report = dataset_report(read_table(packed))
    assert report.splits.sizes == {"train": 3, "test": 1, "val": 1}
    assert (report.splits.leaked_formulas, report.splits.n_leaked_structures) == (["NaCl"], 2)
    assert report.schemes == {"functional": {"PBE": 3, "": 1, "r2SCAN": 1}}
    mixed, leaked, empty = report.warnings()
    assert mixed.startswith("column functional mixes PBE (3), not said (1), r2SCAN (1)")
    assert leaked.startswith("1 formulas, of 2 structures, are in more than one split, such as NaCl")
    assert empty == "column nothing is empty"


def test_nothing_to_look_at(id_prop):
    report = dataset_report(read_table(id_prop))
    assert (report.warnings(), report.splits, report.schemes) == ([], None, {})


def test_places_that_are_no_data_set(tmp_path, packed):
    with pytest.raises(DatasetError, match="no such file or folder"):
        read_table(tmp_path / "nowhere")
    write(tmp_path / "one.cif", CRYSTALS["a"])
    with pytest.raises(DatasetError, match="is a file of structures; a data set is a folder with"):
        read_table(tmp_path / "one.cif")
    write(tmp_path / "one.extxyz", CRYSTALS["a"])
    with (
        pytest.warns(UserWarning, match="holds no energy"),
        pytest.raises(DatasetError, match="none of its 1 calculations can be used"),
    ):
        read_table(tmp_path / "one.extxyz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"neither structures\.npz nor id_prop\.csv"):
        read_table(tmp_path / "empty")
    (tmp_path / "empty" / "id_prop.csv").write_text("")
    with pytest.raises(DatasetError, match="the file is empty"):
        read_table(tmp_path / "empty")
    (packed / "provenance.json").write_text("{")
    with pytest.raises(DatasetError, match=r"provenance\.json: not JSON"):
        read_table(packed)
    (packed / "structures.npz").write_bytes(b"nothing of the kind")
    with pytest.raises(DatasetError, match="is not a packed set of structures"):
        read_table(packed)
    (packed / "properties.csv.gz").write_bytes(b"nothing of the kind")
    with pytest.raises(DatasetError, match="its properties are not a table"):
        read_table(packed)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"frac": np.nan}, "structure a has a coordinate or a cell vector that is not a finite number"),
        ({"lattice": 0.0}, "structure a is periodic but its cell has no volume"),
        ({"numbers": 0}, "structure a has an atomic number that is not from 1 to 100"),
        ({"offsets": 0}, "structure a has no atoms"),
    ],
)
def test_packed_structures_that_are_none(packed, change, words):
    with np.load(packed / "structures.npz") as saved:
        arrays = dict(saved)
    for name, value in change.items():
        arrays[name][:] = value
    np.savez(packed / "structures.npz", **arrays)
    with pytest.raises(DatasetError, match=words):
        read_table(packed)


def test_ids_that_are_there_twice(tmp_path):
    folder = write_packed(tmp_path, CRYSTALS, {"gap": range(5)})
    table = read_table(folder)
    table.ids[1] = "a"
    assert dataset_report(table).warnings() == ["1 rows have the id of an earlier one"]


def test_graphs_are_no_structures(tmp_path):
    for name in ("targets.csv", "graph_data.npz", "config.json"):
        (tmp_path / name).write_text("")
    with pytest.raises(DatasetError, match="holds graphs; to be inspected, a data set must hold structures"):
        read_table(tmp_path)


def test_a_packed_set_without_structures(tmp_path):
    np.savez(
        tmp_path / "structures.npz", ids=np.zeros(0, dtype=str), lattice=np.zeros((0, 3, 3)), offsets=np.zeros(1, int),
        numbers=np.zeros(0, int), frac=np.zeros((0, 3)),
    )  # fmt: skip
    (tmp_path / "properties.csv").write_text("id,gap\n")
    with pytest.raises(DatasetError, match="holds no structures"):
        read_table(tmp_path)
