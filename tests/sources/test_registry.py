"""Sources by name: those of the package, and one that another registers."""

import json

import pytest
from ase.build import bulk

from cgcnn_ase.sources.client import Attribution, FetchedRecord, Page
from cgcnn_ase.sources.fetch import SOURCES, open_client
from cgcnn_ase.sources.optimade.server import PROVIDERS


def test_all_names_are_there_and_open_without_a_network():
    assert {"mp", *PROVIDERS} <= set(SOURCES.names())
    for name in ("mp", *PROVIDERS):
        assert open_client(name).name == name
    assert open_client("https://x.org/optimade", properties={"band_gap": ("_x_gap", "eV")}).name == "x.org/optimade"
    with pytest.raises(ValueError, match="unknown provider 'oqdm'; did you mean oqmd"):
        open_client("oqdm")


class Shelf:
    """A database of one crystal."""

    name, url, settings = "shelf", "http://shelf", {}

    def __init__(self, options):
        self.units = {"band_gap": "eV"}
        self.options = options

    def version(self, *, retry):  # noqa: ARG002
        return "1"

    def pages(self, query, fields, *, after=None, retry=None):  # noqa: ARG002
        yield Page((FetchedRecord("salt", bulk("NaCl", "rocksalt", a=5.64), {"band_gap": 5.0}, {}),), (), "end", 1)

    def credit(self, fields):  # noqa: ARG002
        return Attribution(provider="a shelf", licence="CC0", citations=(), client="test")


def test_a_source_of_ones_own_on_the_command_line(cgcnn_ase, tmp_path, monkeypatch):
    monkeypatch.setitem(SOURCES._objects, "shelf", Shelf)
    done = cgcnn_ase("fetch", "--provider", "shelf", "--output", tmp_path / "data", "--cache", tmp_path / "c", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["n_records"] == 1
    assert (tmp_path / "data" / "structures.npz").exists()
