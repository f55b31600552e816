"""Fetched records as a node: values as labels, provenance by links, and what is refused."""

import csv
import gzip
import json

import numpy as np
import pytest

aiida = pytest.importorskip("aiida", reason="aiida-core is an optional extra")

from aiida import orm  # noqa: E402
from aiida.plugins import CalculationFactory  # noqa: E402
from ase.build import bulk  # noqa: E402
from click.testing import CliRunner  # noqa: E402

from aiida_plugin.calculations.functions.fetch import fetch_into_aiida, store_fetched  # noqa: E402
from aiida_plugin.calculations.training_data import gather  # noqa: E402
from aiida_plugin.cli.data import structures  # noqa: E402
from aiida_plugin.data.structures import StructureSetData  # noqa: E402
from cgcnn_ase.sources.client import (  # noqa: E402
    Attribution,
    FetchedRecord,
    Page,
    Query,
)
from cgcnn_ase.sources.fetch import fetch  # noqa: E402
from cgcnn_ase.structures import StructureError  # noqa: E402
from cgcnn_ase.structures.packed import load_packed  # noqa: E402

from ..structures.damage import OF_FILE, OF_STRUCTURE, cut, write  # noqa: E402

FIELDS = ("energy_per_atom", "band_gap")


class Shelf:
    """A database in memory: seven salts, of which every third has no gap."""

    name, url, settings = "shelf", "http://shelf", {"thermo_type": "GGA"}

    def __init__(self):
        self.units = {"energy_per_atom": "eV/atom", "band_gap": "eV"}
        self.records = [
            FetchedRecord(
                f"s-{k}",
                bulk(salt, "rocksalt", a=5.0 + 0.1 * k),
                {"energy_per_atom": -3.0 - 0.1 * k} | ({"band_gap": 0.5 * k} if k % 3 else {}),
                {"functional": "PBE", "corrections": "none", "symmetry": "Fm-3m"},
            )
            for k, salt in enumerate(["NaCl", "KCl", "LiF", "MgO", "CaO", "NiO", "LiH"])
        ]

    def version(self, *, retry):  # noqa: ARG002
        return "7"

    def pages(self, query, fields, *, after=None, retry=None):  # noqa: ARG002
        yield Page(tuple(self.records), (), "end", len(self.records))

    def credit(self, fields):  # noqa: ARG002
        return Attribution(provider="a shelf", licence="CC0", citations=("nobody",), client="test")


@pytest.fixture
def folder(tmp_path):
    fetch(Shelf(), Query(elements=("O",)), tmp_path / "data", fields=FIELDS, cache=tmp_path / "cache")
    return tmp_path / "data"


def test_values_are_labels_and_structures_are_those_of_the_files(folder):
    node = store_fetched(folder)
    assert node.ids == tuple(f"s-{k}" for k in range(7))
    for ours, (name, theirs), record in zip(
        node.iter_atoms(), load_packed(folder / "structures.npz").atoms(), Shelf().records, strict=True
    ):
        assert name == record.id
        assert np.array_equal(ours.numbers, record.atoms.numbers)
        assert np.allclose(ours.positions, theirs.positions, atol=1e-9)
        assert {key: ours.info[key] for key in FIELDS if key in ours.info} == record.values
        assert ours.info["symmetry"] == "Fm-3m"
    data = gather(node, "energy_per_atom", {"split_by": "structure", "val": 0.2, "test": 0.2})
    assert data.labels == [record.values["energy_per_atom"] for record in Shelf().records]
    assert data.scheme == {"engine": "a shelf", "functional": "PBE", "corrections": "none"}
    gaps = gather(node, "band_gap", {"split_by": "structure", "val": 0.2, "test": 0.2, "unlabelled": "skip"})
    assert gaps.labels == [None, 0.5, 1.0, None, 2.0, 2.5, None]


def test_where_it_came_from_is_an_input(folder):
    node = store_fetched(folder)
    made = node.creator
    assert made.process_type == "aiida.calculations:cgcnn.fetch"
    assert made.inputs.provenance.get_dict() == json.loads((folder / "provenance.json").read_text())
    assert (made.inputs.provenance["database_version"], made.inputs.provenance["licence"]) == ("7", "CC0")
    assert sorted(made.inputs.files.list_object_names()) == ["properties.csv.gz", "structures.npz"]
    with made.inputs.files.open("structures.npz", "rb") as stored:
        assert stored.read() == (folder / "structures.npz").read_bytes()


def test_from_a_database_at_once(folder, tmp_path):
    node = fetch_into_aiida(Shelf(), Query(elements=("O",)), fields=FIELDS, cache=tmp_path / "cache")
    assert node.base.caching.compute_hash() == store_fetched(folder).base.caching.compute_hash()
    assert node.creator.inputs.provenance["query"] == {"elements": ["O"]}


def test_the_command(folder, tmp_path):
    done = CliRunner().invoke(structures, ["import-fetched", str(folder), "--label", "salts"])
    assert done.exit_code == 0, done.output
    node = orm.load_node(int(done.output.split("node ")[-1]))
    assert (node.label, len(node), node.creator.process_label) == ("salts", 7, "fetch")
    done = CliRunner().invoke(structures, ["import-fetched", str(tmp_path)])
    assert done.exit_code == 2
    assert "needed is a folder that `cgcnn-ase fetch` wrote" in " ".join(done.output.split())


@pytest.mark.parametrize("change", ["swap", "drop", "add"])
def test_files_that_do_not_belong_together(folder, change):
    with gzip.open(folder / "properties.csv.gz", "rt") as lines:
        head, *rows = list(csv.reader(lines))
    rows = {"swap": [rows[1], rows[0], *rows[2:]], "drop": rows[:-1], "add": [*rows, rows[-1]]}[change]
    with gzip.open(folder / "properties.csv.gz", "wt", newline="") as lines:
        csv.writer(lines).writerows([head, *rows])
    words = {
        "swap": "has 's-1' where .* has 's-0'",
        "drop": "has nothing where .* 's-6'",
        "add": "has 's-6', .* has not",
    }
    with pytest.raises(ValueError, match=words[change]):
        store_fetched(folder)


def test_a_file_that_is_missing():
    empty = orm.FolderData()
    with pytest.raises(ValueError, match="lack structures.npz, properties.csv.gz"):
        CalculationFactory("cgcnn.fetch")(orm.Dict({"fields": [], "provider": "none"}), empty)


def test_labels_of_a_database_are_not_mixed_with_those_of_dft(folder):
    node = store_fetched(folder)
    other = bulk("NaCl", "rocksalt", a=5.7)
    other.info = {"energy_per_atom": -3.0, "label_scheme": {"engine": "gpaw", "functional": "PBE"}}
    mine = StructureSetData.from_ase([other], ["mine"])
    with pytest.raises(ValueError, match="engine is a shelf for some and gpaw for others"):
        gather(node, "energy_per_atom", {"split_by": "structure"}, test=mine)


@pytest.mark.parametrize("damage", [*OF_FILE, *OF_STRUCTURE])
def test_damaged_structures_are_refused(folder, damage):
    change, words, *_ = (OF_FILE | OF_STRUCTURE)[damage]
    write(folder / "structures.npz", change)
    with pytest.raises(StructureError, match=rf"structures\.npz: .*{words}"):
        store_fetched(folder)


def test_structures_that_were_cut_off_are_refused(folder):
    cut(folder / "structures.npz")
    with pytest.raises(StructureError, match=r"structures\.npz: is no .npz file or is cut off"):
        store_fetched(folder)
