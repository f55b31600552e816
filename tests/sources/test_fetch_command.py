"""``cgcnn-ase fetch`` against a server on this machine: what it writes, says and refuses."""

import csv
import gzip
import json

import pytest

pytest.importorskip("mp_api")

from cgcnn_ase.data.dataset import load_dataset

from ..local_servers import server_module

mps = server_module("materials_project_server")


@pytest.fixture(scope="module")
def server():
    with mps.serve(44) as running:
        yield running


@pytest.fixture
def run(cgcnn_ase, server, tmp_path, monkeypatch):
    """The command on that server, with its key in the environment."""
    monkeypatch.setenv("MP_API_KEY", mps.KEY)
    monkeypatch.setenv("CGCNN_ASE_CACHE", str(tmp_path / "cache"))
    server.faults = mps.Faults()

    def start(*options, output="data", endpoint=None):
        return cgcnn_ase("fetch", "--output", tmp_path / output, "--endpoint", endpoint or server.url, *options)

    return start


def test_a_data_set_ready_for_training(run, server, tmp_path):
    done = run("--elements", "Li,O", "--range", "band_gap=0.5:", "--fields", "formation_energy_per_atom,band_gap")
    assert done.code == 0, done.err
    crystals = [server.database.crystal(name) for name in server.database.ids]
    expected = [c for c in crystals if {"Li", "O"} <= set(c.composition.chemical_system.split("-")) and c.gap >= 0.5]
    dataset = load_dataset(tmp_path / "data", target="formation_energy_per_atom")
    assert len(dataset) == len(expected) > 5
    assert f"{len(expected)} structures in {tmp_path / 'data'}" in done.err
    assert "licence CC BY 4.0" in done.err
    assert done.out == ""


def test_json_is_the_provenance(run, tmp_path):
    done = run("--formula", "NiO,MgO", "--json")
    assert done.code == 0
    result = json.loads(done.out)
    assert result == json.loads((tmp_path / "data" / "provenance.json").read_text())
    assert result["query"] == {"formula": ["MgO", "NiO"]}
    assert result["settings"] == {"thermo_type": "GGA_GGA+U"}


def test_options_that_take_a_list_take_it_in_both_ways(run, tmp_path):
    assert run("--chemsys", "Ni-O", "--chemsys", "Mg-O", output="one").code == 0
    assert run("--chemsys", "Mg-O,O-Ni", output="two").code == 0
    first, second = ((tmp_path / name / "properties.csv.gz").read_bytes() for name in ("one", "two"))
    assert first == second


def test_a_chemical_system_with_commas_is_asked_about(run):
    ran = run("--chemsys", "Li,Ni,O", output="commas")
    assert ran.code == 2
    assert "is it the system Li-Ni-O (then write it so)" in ran.err
    assert "--chemsys Li --chemsys Ni --chemsys O" in ran.err


def test_again_and_offline_from_the_cache(run, server):
    assert run("--stable").code == 0
    again = run("--stable", output="again")
    assert "all of it is in the cache" in again.err
    offline = run("--stable", "--offline", output="offline")
    assert offline.code == 0
    assert f"offline: database version {mps.DB_VERSION}" in offline.err
    nothing = run("--not-stable", "--offline", output="nothing")
    assert (nothing.code, "no complete answer" in nothing.err) == (2, True)


def test_an_earlier_fetch_is_replaced_as_a_whole(run, tmp_path):
    data = tmp_path / "data"
    assert run("--ids", "mp-7,mp-9").code == 1  # with refused.csv
    refused = run("--formula", "NiO")
    assert refused.code == 2
    assert "it is there already and not empty; choose another folder, or add --overwrite" in refused.err
    (data / "RUN").mkdir()
    assert "data: holds RUN beside an earlier fetch" in run("--formula", "NiO", "--overwrite").err
    (data / "RUN").rmdir()
    before = (data / "structures.npz").read_bytes()
    assert run("--formula", "Og", "--overwrite").code == 2  # nothing came: what was there stays
    assert (data / "structures.npz").read_bytes() == before
    done = run("--formula", "NiO", "--overwrite")
    assert done.code == 0, done.err
    assert not (data / "refused.csv").exists()
    assert json.loads((data / "provenance.json").read_text())["query"] == {"formula": ["NiO"]}


def test_records_that_cannot_be_used_are_named_and_the_rest_is_written(run, tmp_path):
    done = run("--ids", "mp-7,mp-9", "--ids", "mp-18")
    assert done.code == 1
    assert "mp-9: the database has no such record" in done.err
    assert "1 records could not be used" in done.err
    with gzip.open(tmp_path / "data" / "properties.csv.gz", "rt") as lines:
        assert [row["id"] for row in csv.DictReader(lines)] == ["mp-7", "mp-18"]


BAD = {
    "element": (["--elements", "Li,Xx"], "elements: 'Xx' is no element"),
    "field": (["--fields", "band_gab"], "unknown field 'band_gab'; did you mean band_gap?"),
    "range name": (["--range", "gap=1:2"], "unknown range 'gap'"),
    "range form": (["--range", "band_gap=1-2"], "--range band_gap=1-2: give a property and its bounds"),
    "range order": (["--range", "band_gap=3:1"], "range of band_gap: 3.0 to 1.0 is empty"),
    "range number": (["--range", "band_gap=a:1"], "--range band_gap=a:1: give a property and its bounds"),
    "provider": (["--provider", "mq"], "unknown provider 'mq'; allowed: aflow, alexandria"),
    "thermo type": (["--thermo-type", "PBE"], "unknown thermo type 'PBE'; allowed: GGA_GGA+U, R2SCAN"),
    "empty": (["--chemsys", "Pu-Xe"], "has no record that can be used for this query"),
    "limit": (["--limit", "0"], "limit=0: at least 1 is needed"),
    "id": (["--ids", "7/8"], "'7/8' is no id of the Materials Project"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_in_words(run, name, tmp_path):
    options, words = BAD[name]
    done = run(*options)
    assert done.code == 2
    assert words in done.err
    assert not (tmp_path / "data").exists()


def test_an_output_that_is_not_empty(run, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "notes.txt").write_text("mine")
    done = run("--formula", "NiO")
    assert (done.code, "it is there already and not empty" in done.err) == (2, True)


def test_a_wrong_key_and_none(run, monkeypatch):
    monkeypatch.setenv("MP_API_KEY", "q" * 32)
    done = run("--formula", "NiO")
    assert (done.code, "the key is not accepted" in done.err) == (2, True)
    assert "q" * 32 not in done.err
    monkeypatch.delenv("MP_API_KEY")
    monkeypatch.setattr("cgcnn_ase.sources.materials_project.http._of_ase", lambda: None)
    monkeypatch.setattr("cgcnn_ase.sources.materials_project.http._of_pymatgen", lambda: None)
    done = run("--formula", "NiO")  # stdin is no terminal: nobody is asked
    assert (done.code, "needs a key: set MP_API_KEY" in done.err) == (2, True)


def test_a_person_is_asked_for_the_key_and_it_is_not_shown(run, monkeypatch):
    monkeypatch.delenv("MP_API_KEY")
    monkeypatch.setattr("cgcnn_ase.sources.materials_project.http._of_ase", lambda: None)
    monkeypatch.setattr("cgcnn_ase.sources.materials_project.http._of_pymatgen", lambda: None)
    hidden = []

    def answer(text, *, hide_input, err):
        hidden.append((text, hide_input, err))
        return mps.KEY

    monkeypatch.setattr("cgcnn_ase.cli.fetch._somebody_types", lambda: True)
    monkeypatch.setattr("typer.prompt", answer)
    done = run("--formula", "NiO")
    assert done.code == 0, done.err
    assert hidden == [("Key of the Materials Project", True, True)]
    assert mps.KEY not in done.out + done.err


def test_failures_on_the_way_are_told_and_passed_over(run, server, monkeypatch):
    monkeypatch.setattr("cgcnn_ase.sources.client.time", type("Clock", (), {"sleep": staticmethod(lambda _: None)}))
    server.faults.queue.extend([None, "500", "429"])
    done = run("--formula", "NiO")
    assert done.code == 0
    assert "the server failed (HTTP 500); attempt 2 of 6" in done.err
    assert "too many requests (HTTP 429); attempt 3 of 6" in done.err


@pytest.mark.slow
def test_a_killed_fetch_goes_on_after_the_last_page(run, server, tmp_path, monkeypatch):
    """Killed from outside between two pages, as by a batch system: the next one asks for the rest alone."""
    import os
    import signal
    import subprocess
    import sys
    import time

    command = [sys.executable, "-c", "import cgcnn_ase.sources.materials_project.client as m; m.AT_ONCE = 4\n"
               "from cgcnn_ase.cli.app import app; app()"]  # fmt: skip
    command += ["fetch", "--endpoint", server.url, "--output", str(tmp_path / "data"), "--elements", "O"]
    server.faults.queue.extend([None] * 4 + ["slow"])
    server.faults.delay = 30.0
    with subprocess.Popen(command, env=dict(os.environ), stderr=subprocess.DEVNULL) as process:
        started = time.monotonic()
        while len(list((tmp_path / "cache").glob("**/page-*.npz"))) < 1 and time.monotonic() - started < 100:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    kept = len(list((tmp_path / "cache").glob("**/page-*.npz")))
    assert kept >= 1
    assert not (tmp_path / "data").exists()
    server.faults.queue.clear()
    monkeypatch.setattr("cgcnn_ase.sources.materials_project.client.AT_ONCE", 4)
    server.log.clear()
    done = run("--elements", "O")
    assert done.code == 0, done.err
    assert f"{4 * kept} records are in the cache already; going on" in done.err
    expected = [n for n in server.database.ids if "O" in server.database.crystal(n).composition]
    assert sorted(load_dataset(tmp_path / "data", target="band_gap").ids) == expected
    pages = [asked["material_ids"] for path, asked in server.log if path == "materials/thermo"]
    assert sum(len(ids.split(",")) for ids in pages) == len(expected) - 4 * kept


def test_help_imports_nothing_heavy():
    import subprocess
    import sys

    code = "import sys; from cgcnn_ase.cli.app import app\ntry: app(['fetch', '--help'])\nexcept SystemExit: pass\n"
    code += "print('HEAVY', sorted({'numpy', 'ase', 'torch', 'mp_api', 'pymatgen', 'requests'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rpartition("HEAVY")[2].strip() == "[]"
