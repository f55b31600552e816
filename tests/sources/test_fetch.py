"""From pages to a data set: nothing lost or doubled, resumed, offline, and refused in words."""

import csv
import gzip
import json

import numpy as np
import pytest
from ase.build import bulk, graphene

from cgcnn_ase.core.errors import DatasetError, FetchError
from cgcnn_ase.data.dataset import load_dataset
from cgcnn_ase.sources.client import Attribution, CursorError, FetchedRecord, Page, Query
from cgcnn_ase.sources.fetch import fetch
from cgcnn_ase.structures import read_structures

SIZE = 4


class Shelf:
    """A client over records in memory; it can break before a page and change what it has."""

    name, url = "shelf", "http://shelf"

    def __init__(self, records, *, state="1", breaks_before=None, refused=()):
        self.units = {"band_gap": "eV", "energy_per_atom": "eV/atom"}
        self.records, self.state, self.refused = records, state, list(refused)
        self.breaks_before, self.asked = breaks_before, []
        self.settings = {}

    def version(self, *, retry):  # noqa: ARG002
        return self.state

    def pages(self, query, fields, *, after=None, retry=None):  # noqa: ARG002
        start, _, state = (after or f"0:{self.state}").partition(":")
        if state != self.state:
            raise CursorError("another list")
        for begin in range(int(start), len(self.records) or 1, SIZE):
            if begin // SIZE == self.breaks_before:
                raise FetchError("the line is cut")
            self.asked.append(begin)
            some = tuple(self.records[begin : begin + SIZE])
            yield Page(some, tuple(self.refused), f"{begin + SIZE}:{self.state}", len(self.records))

    def credit(self, fields):  # noqa: ARG002
        return Attribution(provider="a shelf", licence="CC0", citations=("nobody",), client="test")


def records(n, scheme="PBE"):
    result = []
    for k in range(n):
        atoms = bulk("NaCl", "rocksalt", a=5.0 + 0.1 * k, cubic=k % 2 == 0)
        values = {"energy_per_atom": -3.0 - 0.01 * k} | ({"band_gap": 0.5 * k} if k % 3 else {})
        result.append(FetchedRecord(f"r-{k}", atoms, values, {"functional": scheme, "corrections": "none"}))
    return result


def get(client, tmp_path, name="out", **more):
    more = {"fields": ["energy_per_atom", "band_gap"], "cache": tmp_path / "cache"} | more
    return fetch(client, more.pop("query", Query()), tmp_path / name, **more)


def rows(folder):
    with gzip.open(folder / "properties.csv.gz", "rt") as lines:
        return list(csv.DictReader(lines))


def test_structures_and_values_come_back_as_they_were(tmp_path):
    made = records(10)
    provenance = get(Shelf(made), tmp_path)

    assert (provenance.n_records, provenance.n_refused, provenance.n_doubled) == (10, 0, 0)
    read = [record.unwrap() for record in read_structures([tmp_path / "out" / "structures.npz"])]
    for atoms, record in zip(read, made, strict=True):
        assert (atoms.numbers == record.atoms.numbers).all()
        assert atoms.positions == pytest.approx(record.atoms.positions, abs=1e-12)
        assert atoms.cell.array == pytest.approx(record.atoms.cell.array, abs=1e-12)
        assert atoms.pbc.all()
    table = rows(tmp_path / "out")
    assert list(table[0]) == [
        "id",
        "reduced_formula",
        "nsites",
        "energy_per_atom",
        "band_gap",
        "corrections",
        "functional",
    ]
    assert [row["band_gap"] for row in table[:3]] == ["", "0.5", "1.0"]  # absent is empty, neither zero nor NaN
    assert {row["reduced_formula"] for row in table} == {"NaCl"}
    assert [int(row["nsites"]) for row in table[:2]] == [8, 2]
    dataset = load_dataset(tmp_path / "out", target="energy_per_atom")
    assert dataset.ids == [record.id for record in made]
    assert dataset.targets.ravel().tolist() == [record.values["energy_per_atom"] for record in made]
    written = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert written == json.loads(json.dumps(provenance.as_dict()))
    text = (tmp_path / "out" / "README.md").read_text()
    assert all(word in text for word in ("CC0", "nobody", "10 structures", "`band_gap` (eV)"))


def test_a_slab_is_read_back_periodic_in_two_directions(tmp_path):
    sheet = graphene()
    get(Shelf([FetchedRecord("g", sheet, {"band_gap": 0.0}, {})]), tmp_path, fields=["band_gap"])
    (read,) = [record.unwrap() for record in read_structures([tmp_path / "out" / "structures.npz"])]
    assert read.pbc.tolist() == sheet.pbc.tolist()
    assert read.positions == pytest.approx(sheet.positions)


@pytest.mark.parametrize("breaks_before", [1, 2, 4])
def test_a_broken_fetch_goes_on_and_gives_the_same_bytes(tmp_path, breaks_before):
    get(Shelf(records(19)), tmp_path, "whole", cache=tmp_path / "other")
    broken = Shelf(records(19), breaks_before=breaks_before)
    with pytest.raises(FetchError, match="the line is cut"):
        get(broken, tmp_path)
    assert not (tmp_path / "out").exists()
    again, told = Shelf(records(19)), []
    get(again, tmp_path, say=told.append)
    assert again.asked == [SIZE * k for k in range(breaks_before, 5)]
    assert told == [f"{SIZE * breaks_before} records are in the cache already; going on"]
    for name in ("structures.npz", "properties.csv.gz"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_complete_answer_is_not_asked_for_again(tmp_path):
    get(Shelf(records(9)), tmp_path)
    again = Shelf(records(9))
    get(again, tmp_path, "second")
    assert again.asked == []
    newer = Shelf(records(9), state="2")
    get(newer, tmp_path, "third")
    assert len(newer.asked) == 3


def test_another_question_is_asked(tmp_path):
    get(Shelf(records(9)), tmp_path)
    for k, more in enumerate(({"fields": ["band_gap"]}, {"query": Query(elements=("Na",))})):
        other = Shelf(records(9))
        get(other, tmp_path, f"other-{k}", **more)
        assert len(other.asked) == 3


def test_offline_takes_the_newest_complete_answer(tmp_path):
    with pytest.raises(FetchError, match="offline: the cache has no complete answer"):
        get(Shelf([]), tmp_path, offline=True)
    with pytest.raises(FetchError, match="line is cut"):
        get(Shelf(records(9), breaks_before=1), tmp_path)
    with pytest.raises(FetchError, match="offline: the cache has no complete answer"):
        get(Shelf([]), tmp_path, offline=True)
    get(Shelf(records(9)), tmp_path, "first")
    told = []
    silent = Shelf([], state="not asked for")
    result = get(silent, tmp_path, "second", offline=True, say=told.append)
    assert silent.asked == []
    assert (result.n_records, result.database_version) == (9, "1")
    assert "offline: database version 1" in told[0]


def test_a_list_that_changed_is_read_from_the_start(tmp_path):
    with pytest.raises(FetchError, match="line is cut"):
        get(Shelf(records(9), breaks_before=2), tmp_path)

    class Changed(Shelf):
        def pages(self, query, fields, *, after=None, retry=None):
            return super().pages(query, fields, after=after and after.replace(":1", ":0"), retry=retry)

    changed, told = Changed(records(6)), []
    assert get(changed, tmp_path, say=told.append).n_records == 6
    assert told[-1] == "another list; reading from the start"


def test_a_database_that_changes_while_it_is_read_is_not_believed(tmp_path):
    class Moving(Shelf):
        def version(self, *, retry):  # noqa: ARG002
            return "2" if self.asked else "1"

    with pytest.raises(FetchError, match="the database changed from version 1 to 2 while it was read; start again"):
        get(Moving(records(9)), tmp_path)
    again = Shelf(records(9))
    get(again, tmp_path)
    assert len(again.asked) == 3


def test_doubled_records_are_kept_once_and_counted(tmp_path):
    made = records(6)
    result = get(Shelf([*made, made[0], made[5], made[3]]), tmp_path)
    assert (result.n_records, result.n_doubled) == (6, 3)
    assert [row["id"] for row in rows(tmp_path / "out")] == [record.id for record in made]
    read = [record.unwrap() for record in read_structures([tmp_path / "out" / "structures.npz"])]
    assert [len(atoms) for atoms in read] == [len(record.atoms) for record in made]


def test_refused_records_are_named(tmp_path):
    result = get(Shelf(records(5), refused=[("bad", "has no atoms")]), tmp_path)
    assert result.n_refused == 1
    assert (tmp_path / "out" / "refused.csv").read_text() == "id,why\nbad,has no atoms\n"


def test_energies_of_two_schemes_are_refused(tmp_path):
    mixed = [*records(6), FetchedRecord("other", bulk("Cu"), {"energy_per_atom": -4.0}, {"functional": "r2SCAN"})]
    with pytest.raises(DatasetError, match="two schemes .* PBE with corrections none, and r2SCAN .* --thermo-type"):
        get(Shelf(mixed), tmp_path)
    assert not (tmp_path / "out").exists()
    with pytest.raises(DatasetError, match="two schemes"):  # nor are they from the cache
        get(Shelf(mixed), tmp_path)
    result = get(Shelf(mixed), tmp_path, fields=["band_gap"])  # a gap is no energy that hulls are made of
    assert result.n_records == 7


def test_an_empty_result_says_why_and_is_not_kept(tmp_path):
    with pytest.raises(FetchError, match="no record that can be used for this query; one was refused: bad: no atoms"):
        get(Shelf([], refused=[("bad", "no atoms")]), tmp_path)
    with pytest.raises(FetchError, match=r"no record that can be used for this query$"):
        get(Shelf([]), tmp_path)
    assert get(Shelf(records(3)), tmp_path).n_records == 3


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="unknown field 'bandgap'; did you mean band_gap"):
        get(Shelf(records(3)), tmp_path, fields=["bandgap"])
    with pytest.raises(ValueError, match="no field is asked for; allowed are band_gap, energy_per_atom"):
        get(Shelf(records(3)), tmp_path, fields=[])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("")
    with pytest.raises(DatasetError, match="full: it is there already and not empty"):
        get(Shelf(records(3)), tmp_path, "full")
    (tmp_path / "empty").mkdir()
    assert get(Shelf(records(3)), tmp_path, "empty").n_records == 3


def test_a_damaged_page_is_named(tmp_path):
    get(Shelf(records(9)), tmp_path)
    (page,) = (tmp_path / "cache").glob("**/page-000001.npz")
    page.write_bytes(page.read_bytes()[:100])
    with pytest.raises(DatasetError, match=r"page-000001.npz: this page of the cache is damaged"):
        get(Shelf(records(9)), tmp_path, "second")


def test_parts_of_a_packed_file_are_joined_as_numpy_would(tmp_path):
    made = records(11)
    get(Shelf(made), tmp_path)
    with np.load(tmp_path / "out" / "structures.npz", allow_pickle=False) as packed:
        assert set(packed.files) == {"ids", "lattice", "offsets", "numbers", "frac", "pbc"}
        assert packed["offsets"].tolist() == np.cumsum([0, *(len(record.atoms) for record in made)]).tolist()
        assert packed["ids"].tolist() == [record.id for record in made]


@pytest.mark.slow
def test_the_benchmark_counts_and_compares(tmp_path):
    """At a tiny size: nothing lost or doubled while requests fail."""
    import os
    import subprocess
    import sys
    from pathlib import Path

    pytest.importorskip("mp_api")
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "fetch.py"
    output = tmp_path / "figures.json"
    command = [sys.executable, str(script), "--n", "40", "90", "--output", str(output)]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    (table,) = json.loads(output.read_text())["tables"].values()
    assert [row["records"] for row in table["rows"]] == [40, 40, 40, 90]
    assert [(row["lost"], row["doubled"]) for row in table["rows"][1:]] == [(0, 0)] * 3
