"""``cgcnn-ase fetch --provider ...`` against the reference OPTIMADE server on loopback."""

import csv
import gzip
import json

import pytest

from ..optimade_reference import crystals, document, serve

#: of the reference server, about itself
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_fields' attribute:DeprecationWarning")

CRYSTALS = crystals()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    documents = [
        document(name, atoms, delta_e=-0.1 * k, stability=0.1 * k, band_gap=0.5 * k)
        for k, (name, atoms) in enumerate(CRYSTALS.items())
    ]
    half = [{"name": "Cu", "chemical_symbols": ["Cu", "vacancy"], "concentration": [0.5, 0.5]}]
    documents.append(document("half", CRYSTALS["Cu"], species=half, structure_features=["disorder"]))
    with serve(
        documents, tmp_path_factory.mktemp("server"), prefix="oqmd", fields=["delta_e", "stability", "band_gap"]
    ) as it:
        yield it


@pytest.fixture
def fetch(cgcnn_ase, server, tmp_path):
    def run(*more, provider="oqmd", endpoint=True):
        where = ("--endpoint", server.url) if endpoint else ()
        return cgcnn_ase(
            "fetch", "--provider", provider, *where, "--cache", tmp_path / "cache", "--output", tmp_path / "out", *more
        )  # fmt: skip

    return run


def rows(folder):
    with gzip.open(folder / "properties.csv.gz", "rt") as lines:
        return list(csv.DictReader(lines))


def test_a_provider_by_name(fetch, tmp_path):
    ran = fetch("--elements", "O", "--range", "band_gap=1:", "--json")
    assert ran.code == 0, ran.err
    expected = {name for k, (name, atoms) in enumerate(CRYSTALS.items()) if "O" in atoms.symbols and 0.5 * k >= 1}
    result = rows(tmp_path / "out")
    assert {row["id"] for row in result} == expected
    assert set(result[0]) >= {"formation_energy_per_atom", "energy_above_hull", "band_gap", "functional"}
    assert json.loads(ran.out)["licence"] == "CC BY 4.0"
    assert "Saal et al." in (tmp_path / "out/README.md").read_text()


def test_the_folder_is_one_to_train_on(fetch, tmp_path):
    from cgcnn_ase.data.dataset import load_dataset

    assert fetch("--exclude-elements", "Cu").code == 0
    data = load_dataset(tmp_path / "out", target="formation_energy_per_atom")
    assert sorted(data.ids) == sorted(set(CRYSTALS) - {"Cu"})


def test_a_refused_record_is_named(fetch, tmp_path):
    ran = fetch("--elements", "Cu")
    assert ran.code == 1
    assert "half: has partially occupied sites" in ran.err
    assert [row["id"] for row in rows(tmp_path / "out")] == ["Cu"]


def test_any_server_with_own_properties(fetch, server, tmp_path):
    ran = fetch(
        "--property", "energy_per_atom=_oqmd_delta_e:meV/atom", "--limit", "3", provider=server.url, endpoint=False
    )
    assert ran.code == 0, ran.err
    result = rows(tmp_path / "out")
    assert [float(row["energy_per_atom"]) for row in result] == pytest.approx([0, -0.0001, -0.0002])
    assert "licence not known" in ran.err


def test_again_without_network(fetch, server, tmp_path):
    assert fetch("--elements", "Ni").code == 0
    server.faults.asked.clear()
    ran = fetch("--elements", "Ni", "--offline", "--output", tmp_path / "again")
    assert ran.code == 0, ran.err
    assert "offline: database version" in ran.err
    assert rows(tmp_path / "again") == rows(tmp_path / "out")
    assert not server.faults.asked


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--provider", "oqdm"], "did you mean oqmd"),
        (["--provider", "https://x.org/?key=1"], "needed is the base URL"),
        (["--provider", "https://x.org"], "no property is known; give --property"),
        (["--provider", "oqmd", "--thermo-type", "R2SCAN"], "take mp-optimade, mp-optimade-r2scan"),
        (["--provider", "oqmd", "--fields", "K_VRH"], "unknown field 'K_VRH'"),
        (["--provider", "mc3d", "--stable"], "energy_above_hull"),
        (["--provider", "https://x.org", "--property", "band_gap"], "as band_gap=_prefix_gap:eV"),
        (["--provider", "https://x.org", "--property", "gap=_x:eV"], "unknown property 'gap'; allowed:"),
        (["--provider", "https://x.org", "--property", "band_gap=_x:GPa"], "cannot be converted exactly"),
        (["--property", "band_gap=_x:eV"], "--property is for OPTIMADE servers"),
    ],
)
def test_bad_input(cgcnn_ase, tmp_path, monkeypatch, arguments, words):
    monkeypatch.setattr("requests.Session.request", None)  # a request would be an error
    ran = cgcnn_ase("fetch", "--output", tmp_path / "out", *arguments)
    assert ran.code == 2
    assert words in ran.err
    assert not (tmp_path / "out").exists()


def test_what_the_server_says_of_bad_questions(fetch):
    ran = fetch("--property", "band_gap=_oqmd_no_such:eV", "--range", "band_gap=1:2")
    assert ran.code == 2
    assert "400, Bad Request" in ran.err


def test_an_empty_answer_is_told(fetch, tmp_path):
    ran = fetch("--elements", "Fm")
    assert ran.code == 2
    assert "has no record that can be used" in ran.err
    assert not (tmp_path / "out").exists()
