"""A distribution with one of each part that another package can add, used in Python, by commands and in AiiDA."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ase.build import bulk
from ase.io import write

from cgcnn_ase import load_model
from cgcnn_ase.models.folder import CheckpointError

HERE = Path(__file__).parent
TRAIN = {
    "epochs": 2, "batch_size": 32, "engine": "torch",
    "graph": {"cutoff": 5.0, "n_neighbors": 6, "merge": True},
    "network": {"architecture": "average", "n_features": 8, "n_layers": 2},
}  # fmt: skip
SEARCH = {
    "space": {"variables": {"x": {"low": 0.0, "high": 1.0, "sites": 20}}},
    "objectives": "value",
    "oracle": {"name": "parabola", "center": 0.3, "timeout_s": 60, "retries": 1},
    "surrogate": "nearest",
    "acquisition": {"name": "cautious", "kappa": 1.0},
    "budget": {"evaluations": 8, "initial": 4},
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that the distribution is installed in."""
    folder = tmp_path_factory.mktemp("site-packages")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    local = ["--no-deps", "--no-index", "--no-build-isolation", "--no-compile", "--target", str(folder)]
    subprocess.run([*pip, *local, str(HERE / "example_distribution")], check=True)
    return folder


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A folder with a data set of 100 crystals, and settings."""
    folder = tmp_path_factory.mktemp("extensions")
    (folder / "set").mkdir()
    lines = ["cif_id,ionicity"]
    for k, metal in enumerate(["Li", "Na", "Mg", "Al", "Ti", "Mn", "Fe", "Ni", "Cu", "Zn"]):
        for a, anion in enumerate(["O", "S", "F", "Cl", "N"]):
            for shape, length in (("rocksalt", 4.6), ("zincblende", 5.0)):
                name = f"{metal}{anion}-{shape}"
                write(folder / "set" / f"{name}.cif", bulk(f"{metal}{anion}", shape, a=length))
                lines.append(f"{name},{1 + 0.1 * a - 0.02 * k + 0.1 * length!r}")
    (folder / "set" / "id_prop.csv").write_text("\n".join(lines) + "\n")
    (folder / "train.yaml").write_text(yaml.safe_dump(TRAIN))
    (folder / "optimise.yaml").write_text(yaml.safe_dump(SEARCH))
    return folder


@pytest.fixture(scope="module")
def run(installed, path):
    """Run a script of this folder where the distribution is installed; the JSON that it prints."""
    here = os.pathsep.join([str(installed), *filter(None, sys.path)])
    env = os.environ | {"PYTHONPATH": here, "CGCNN_ASE_CACHE": str(path / "cache"), "OMP_NUM_THREADS": "1"}

    def call(script, *arguments, stdin=""):
        done = subprocess.run(
            [sys.executable, str(HERE / script), *map(str, arguments)],
            env=env, cwd=path, input=stdin, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return call


@pytest.fixture(scope="module")
def in_python(run, path):
    return run("use_in_python.py", path / "set", path, path / "python")


def test_each_is_registered(in_python):
    names = ["average", "cautious", "nearest", "parabola", "shelf"]
    assert in_python["registered"] == {name: f"cgcnn_ase_example.{name}" for name in names}


def test_the_architecture_in_python(in_python):
    assert in_python["architecture"] == "average"
    assert in_python["is_calibrated"]
    assert in_python["n_val"] >= 20
    assert in_python["same"]


def test_the_search_in_python(in_python):
    assert in_python["chosen_by"][4:] == ["cautious"] * 4
    assert in_python["best"] == {"x": pytest.approx(0.3, abs=0.06)}
    assert in_python["oracle"] == "a parabola about 0.3"
    assert in_python["acquired"] == [-2.0, -2.2]  # 1 + 2 * 0.5, 2 + 2 * 0.1


def test_the_source_in_python(in_python, path):
    assert (in_python["n_fetched"], in_python["provider"]) == (3, "the shelf")
    provenance = json.loads((path / "python" / "fetched" / "provenance.json").read_text())
    assert provenance["citations"] == ["A. Author, On shelves (2026)"]


def misspelt(settings, key, value):
    return yaml.safe_dump(settings | {key: value})


@pytest.fixture(scope="module")
def commands(run, path):
    """Exit code, stdout and stderr of commands by name."""
    wrong = {
        "oracle": misspelt(SEARCH, "oracle", "parabolla"),
        "surrogate": misspelt(SEARCH, "surrogate", "nearrest"),
        "acquisition": misspelt(SEARCH, "acquisition", "cautios"),
        "architecture": misspelt(TRAIN, "network", {"architecture": "avrage"}),
    }
    for name, text in wrong.items():
        (path / f"{name}.yaml").write_text(text)
    train = ["train", "set", "--target", "ionicity", "--unit", "eV", "--val", "0.25"]
    fetch = ["fetch", "--cache", "pages", "--fields", "band_gap"]
    lines = {
        "train": [*train, "--config", "train.yaml", "--output", "run", "--json"],
        "predict": ["predict", "set/MgO-rocksalt.cif", "--model", "run"],
        "optimise": ["optimize", "optimise.yaml", "--output", "search", "--json"],
        "fetch": [*fetch, "--provider", "shelf", "--output", "fetched", "--json"],
        "wrong source": [*fetch, "--provider", "shelv", "--output", "none"],
        "wrong architecture": [*train, "--config", "architecture.yaml", "--output", "none"],
        **{f"wrong {name}": ["optimize", f"{name}.yaml", "--output", "none"] for name in list(wrong)[:3]},
    }
    return dict(zip(lines, run("use_commands.py", stdin=json.dumps(list(lines.values()))), strict=True))


def test_train_and_predict_on_the_command_line(commands, path):
    code, out, err = commands["train"]
    assert code == 0, err
    assert json.loads(out)["model"] == "run/best"
    assert json.loads((path / "run" / "best" / "config.json").read_text())["network"]["architecture"]["n_layers"] == 2
    code, out, err = commands["predict"]
    assert code == 0, err
    (row,) = csv.DictReader(out.splitlines())
    assert float(row["std"]) > 0
    assert (row["id"], row["property"]) == ("MgO-rocksalt", "ionicity")


def test_optimize_on_the_command_line(commands):
    code, out, err = commands["optimise"]
    assert code == 0, err
    assert json.loads(out)["oracle"]["what"] == "a parabola about 0.3"


def test_fetch_on_the_command_line(commands, path):
    code, out, err = commands["fetch"]
    assert code == 0, err
    assert json.loads(out)["n_records"] == 3
    assert (path / "fetched" / "structures.npz").exists()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("source", "shelf"), ("architecture", "average"), ("oracle", "parabola"), ("surrogate", "nearest"),
        ("acquisition", "cautious"),
    ],
)  # fmt: skip
def test_messages_name_what_is_installed(commands, kind, name):
    code, _, err = commands[f"wrong {kind}"]
    assert code == 2
    assert name in err


def test_without_the_distribution_its_model_is_refused(commands, path, cgcnn_ase):
    del commands  # that train the model
    words = "the model's architecture 'average' is not installed: .*; installed are cgcnn, alignn, cgnn"
    with pytest.raises(CheckpointError, match=words):
        load_model(path / "run" / "best")
    ran = cgcnn_ase("predict", path / "set" / "MgO-rocksalt.cif", "--model", path / "run")
    assert ran.code == 2
    assert "architecture 'average' is not installed" in ran.err
    ran = cgcnn_ase("train", path / "set", "--config", path / "train.yaml", "--output", path / "none")
    assert ran.code == 2
    assert "network.architecture: must be cgcnn or alignn or cgnn, not 'average'" in ran.err


# ------------------------------------------------------------------------------------------------------------- AiiDA


@pytest.fixture
def in_aiida(installed, aiida_profile, monkeypatch, path):
    """The distribution is installed here, and AiiDA has a profile."""
    monkeypatch.syspath_prepend(str(installed))
    monkeypatch.setenv("CGCNN_ASE_CACHE", str(path / "cache"))
    yield aiida_profile
    for name in [name for name in sys.modules if name.startswith("cgcnn_ase_example")]:
        monkeypatch.delitem(sys.modules, name)


def test_the_model_as_a_node(in_aiida, commands, path):
    from aiida.plugins import CalculationFactory, DataFactory

    model = DataFactory("cgcnn.model").get_or_create(path / "run" / "best")
    assert model.base.attributes.get("architecture") == "average"
    crystals = DataFactory("cgcnn.structures").from_ase([bulk("MgO", "rocksalt", a=4.6)], ["MgO"])
    frame = CalculationFactory("cgcnn.predict_in_process")(model, crystals).to_frame()
    (row,) = csv.DictReader(commands["predict"][1].splitlines())
    assert frame["value"].tolist() == [pytest.approx(float(row["value"]), rel=1e-5)]
    assert frame["std"].tolist() == [pytest.approx(float(row["std"]), rel=1e-5)]
