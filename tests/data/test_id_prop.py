"""id_prop.csv: with and without a header, and what is said of every row that cannot be used."""

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from ase.build import bulk
from ase.io import write

from cgcnn_ase.core.errors import DatasetError
from cgcnn_ase.data import id_prop
from cgcnn_ase.graphs.crystal_graph import Geometry


class Row(NamedTuple):
    id: str
    structure: Geometry
    targets: list[float]


def read_id_prop(csv: Path, target: str | None = None) -> list[Row]:
    """Everything in the file, structures too."""
    samples = id_prop.read_id_prop(csv, target)
    rows = zip(samples.ids, samples.structures, samples.labels.tolist(), strict=True)
    return [Row(*row) for row in rows]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Structures a to d (CIF, POSCAR, extxyz) and the element table of the older projects."""
    write(tmp_path / "a.cif", bulk("Cu"))
    write(tmp_path / "b.vasp", bulk("NaCl", "rocksalt", a=5.6))
    write(tmp_path / "c.extxyz", bulk("Si"))
    write(tmp_path / "d.cif", bulk("Al"))
    (tmp_path / "atom_init.json").write_text("{}")
    return tmp_path


def table(folder: Path, text: str) -> Path:
    path = folder / "id_prop.csv"
    path.write_text(text)
    return path


def message(folder: Path, text: str, target: str | None = None) -> str:
    with pytest.raises(DatasetError) as caught:
        read_id_prop(table(folder, text), target)
    assert str(folder / "id_prop.csv") in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "a,1.5\nb,-2\nc,3e-1\n",
        "cif_id,formation_energy\na,1.5\nb,-2\nc,3e-1\n",
        "cif_id,formation_energy,defect_label\na,1.5,0\nb,-2,1\nc,3e-1,0\n",
        "a,1.5,0\nb,-2,1\nc,3e-1,1\n",
        "\ufeffid, y\r\na, 1.5\r\n\r\nb ,-2\r\nc,0.3",
        '"a","1.5"\n"b","-2"\n"c","0.3"\n',
    ],
    ids=["no header", "header", "header and label", "label", "spaces, blank lines, BOM, CRLF", "quotes"],
)
def test_with_and_without_a_header(folder: Path, text: str) -> None:
    rows = read_id_prop(table(folder, text))
    assert [row.id for row in rows] == ["a", "b", "c"]
    assert [row.targets[0] for row in rows] == [1.5, -2.0, 0.3]
    assert [row.structure.numbers.tolist() for row in rows] == [[29], [11, 17], [14, 14]]
    np.testing.assert_allclose(np.linalg.det(rows[1].structure.cell), 5.6**3 / 4)


def test_columns_by_name(folder: Path) -> None:
    text = "cif_id,formation_energy,defect_label\na,1.5,0\nb,-2,1\n"
    assert [row.targets[0] for row in read_id_prop(table(folder, text), "defect_label")] == [0, 1]
    assert [row.targets[0] for row in read_id_prop(table(folder, "a,1.5,0\nb,-2,1\n"), "label")] == [0, 1]
    assert "no column 'gap'; allowed: formation_energy, defect_label" in message(folder, text, "gap")
    assert "there is no header, so no column 'gap'; allowed: target" in message(folder, "a,1\n", "gap")
    assert "name the column to learn; there are x, y, z" in message(folder, "id,x,y,z\na,1,2,3\n")
    assert "two columns of the header have the same name" in message(folder, "id,x,x\na,1,2\n")


def test_names_with_a_suffix(folder: Path) -> None:
    rows = read_id_prop(table(folder, "a.cif,1\nc.extxyz,2\n"))
    assert [(row.id, row.structure.numbers[0]) for row in rows] == [("a.cif", 29), ("c.extxyz", 14)]
    write(folder / "a.xyz", bulk("Cu"), format="extxyz")
    assert [row.targets[0] for row in read_id_prop(table(folder, "a.xyz,1\na.cif,2\n"))] == [1, 2]
    assert "row 1: id 'a' names 2 files: a.cif, a.xyz; give the suffix" in message(folder, "a,1\n")


def test_a_header_is_never_taken_silently(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        read_id_prop(table(folder, "a,1\n"))
        assert not caplog.records
        read_id_prop(table(folder, "name,y\na,1\n"))
    assert "row 1 is taken as the header: name, y" in caplog.text
    assert message(folder, "a,abc\nb,2\n").endswith("row 1: target 'abc' is not a number")
    assert "row 1: target is empty" in message(folder, "a,\nb,2\n")
    assert "no structure 'x'" in message(folder, "x,1\nb,2\n")
    assert "no structure 'x'" in message(folder, "x,abc,1\nb,2,0\n")  # a header holds no number


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("b,abc", "row 3: y 'abc' is not a number"),
        ("b,1_0", "row 3: y '1_0' is not a number"),
        ("b,nan", "row 3: y 'nan' is not finite"),
        ("b,-inf", "row 3: y '-inf' is not finite"),
        ("b,", "row 3: y is empty"),
        ("b", "row 3: has 1 columns, not 2"),
        ("b,1,5", "row 3: has 3 columns, not 2"),
        (",1", "row 3: the id is empty"),
        ("a,2", "row 3: id 'a' repeats that of row 2"),
        ("a.cif,2", "row 3: id 'a.cif' repeats that of row 2"),
        ("gone,1", "row 3: no structure 'gone' in"),
        ("atom_init,1", "row 3: no structure 'atom_init' in"),
    ],
)
def test_rows_that_cannot_be_used(folder: Path, row: str, expected: str) -> None:
    assert expected in message(folder, f"id,y\na,1\n{row}\n")


def test_unreadable_structures_with_their_reason(folder: Path) -> None:
    (folder / "cut.cif").write_text((folder / "a.cif").read_text()[:150])
    (folder / "empty.cif").write_text("")
    write(folder / "movie.extxyz", [bulk("Cu"), bulk("Al")])
    text = message(folder, "a,1\ncut,2\nempty,3\nmovie,4\n")
    assert "3 rows cannot be used" in text
    assert "row 2: structure cut.cif " in text
    assert "row 3: structure empty.cif is empty" in text
    assert "row 4: structure movie.extxyz holds 2 structures" in text


def test_all_bad_rows_in_one_message(folder: Path) -> None:
    text = message(folder, "a,1\n" + "".join(f"gone{k},{k}\n" for k in range(25)) + "b,x\n")
    assert "26 rows cannot be used" in text
    assert text.count("row ") == 10
    assert text.endswith("and 16 more")


def test_files_that_are_no_tables(folder: Path) -> None:
    assert "the file is empty" in message(folder, "")
    assert "the file is empty" in message(folder, "\n \n")
    assert "a header and no row below it" in message(folder, "id,y\n")
    assert "is one column; a row is: id, target" in message(folder, "a;1\nb;2\n")
    (folder / "id_prop.csv").write_bytes(b"a,1\nb\xff\xfe,2\n")
    with pytest.raises(DatasetError, match="is not text in UTF-8"):
        read_id_prop(folder / "id_prop.csv")


def test_parallel_reading_gives_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table(folder, "d,1\na,2\nc,3\nb,4\n")
    serial = read_id_prop(path)
    monkeypatch.setattr(id_prop, "PARALLEL_ABOVE", 1)
    parallel = read_id_prop(path)
    assert [(row.id, row.targets) for row in parallel] == [(row.id, row.targets) for row in serial]
    for one, other in zip(parallel, serial, strict=True):
        for a, b in zip(one.structure, other.structure, strict=True):
            np.testing.assert_array_equal(a, b)


def test_columns_that_are_not_learned_are_mentioned(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    csv = table(folder, "name,energy,gap,note\na,1.5,0.2,x\nb,2,0,y\n")
    for _ in range(2):  # once
        assert [row.targets for row in read_id_prop(csv, "gap")] == [[0.2], [0.0]]
    assert [record.getMessage() for record in caplog.records].count(
        f"{csv}: gap is learned; not looked at: energy, note (name another column to learn that)"
    ) == 1
