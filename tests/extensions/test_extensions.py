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
from ase.calculators.emt import EMT
from ase.io import write

from cgcnn_ase import load_model
from cgcnn_ase.models.folder import CheckpointError
from cgcnn_ase.nn.architecture import ARCHITECTURES
from cgcnn_ase.optimization.acquisition import ACQUISITIONS
from cgcnn_ase.optimization.loop import optimise
from cgcnn_ase.optimization.oracles.base import ORACLES
from cgcnn_ase.optimization.surrogates.base import SURROGATES
from cgcnn_ase.sources.client import Query
from cgcnn_ase.sources.fetch import SOURCES, open_client

from ..aiida_plugin.conftest import aiida_localhost as aiida_localhost

HERE = Path(__file__).parent
TRAIN = {
    "epochs": 2, "batch_size": 32, "engine": "torch",
    "graph": {"cutoff": 5.0, "n_neighbors": 6, "merge": True},
    "network": {"architecture": "average", "n_features": 8, "n_layers": 2},
}  # fmt: skip
SEARCH = {
    "space": {"variables": {"x": {"low": 0.0, "high": 1.0, "sites": 20}}},
    "objectives": "value",
    "oracle": {"name": "parabola", "center": 0.3},
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
    files = {
        "train": TRAIN,
        "optimise": SEARCH,
        "patient": SEARCH | {"oracle": SEARCH["oracle"] | {"timeout_s": 60, "retries": 1}},
        "architecture": TRAIN | {"network": {"architecture": "avrage"}},
        "oracle": SEARCH | {"oracle": "parabolla"},
        "surrogate": SEARCH | {"surrogate": "nearrest"},
        "acquisition": SEARCH | {"acquisition": "cautios"},
    }
    for name, settings in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    return folder


TRAIN_IT = ["train", "set", "--target", "ionicity", "--unit", "eV", "--val", "0.25"]
FETCH = ["fetch", "--cache", "pages", "--fields", "band_gap"]
COMMANDS = {
    "train": [*TRAIN_IT, "--config", "train.yaml", "--output", "run", "--json"],
    "predict": ["predict", "set/MgO-rocksalt.cif", "--model", "run"],
    "optimize": ["optimize", "patient.yaml", "--output", "search", "--json"],
    "fetch": [*FETCH, "--provider", "shelf", "--output", "fetched", "--json"],
    "condition": [*FETCH, "--provider", "shelf", "--elements", "O", "--output", "none"],
    # misspelt
    "source": [*FETCH, "--provider", "shelv", "--output", "none"],
    "architecture": [*TRAIN_IT, "--config", "architecture.yaml", "--output", "none"],
    "oracle": ["optimize", "oracle.yaml", "--output", "none"],
    "surrogate": ["optimize", "surrogate.yaml", "--output", "none"],
    "acquisition": ["optimize", "acquisition.yaml", "--output", "none"],
}


@pytest.fixture(scope="module")
def in_python(installed, path, cgcnn_ase_command):
    """The outcome of use_parts.py where the distribution is installed."""
    env = os.environ | {"PYTHONPATH": str(installed), "CGCNN_ASE_CACHE": str(path / "cache"), "OMP_NUM_THREADS": "1"}
    python = str(Path(cgcnn_ase_command).with_name("python"))
    done = subprocess.run(
        [python, str(HERE / "use_parts.py"), json.dumps(COMMANDS)],
        env=env, cwd=path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def commands(in_python):
    """Exit code, stdout and stderr of each command."""
    return in_python["commands"]


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
    code, out, err = commands["optimize"]
    assert code == 0, err
    assert json.loads(out)["oracle"]["what"] == "a parabola about 0.3"


def test_fetch_on_the_command_line(commands, path):
    code, out, err = commands["fetch"]
    assert code == 0, err
    assert json.loads(out)["n_records"] == 3
    assert (path / "fetched" / "structures.npz").exists()
    code, _, err = commands["condition"]
    assert (code, err) == (2, "cgcnn-ase: the shelf can be asked for formulas only, not by elements\n")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("source", "shelf"), ("architecture", "average"), ("oracle", "parabola"), ("surrogate", "nearest"),
        ("acquisition", "cautious"),
    ],
)  # fmt: skip
def test_messages_name_what_is_installed(commands, kind, name):
    code, _, err = commands[kind]
    assert code == 2
    assert name in err


def test_without_the_distribution_its_model_is_refused(commands, path, cgcnn_ase):
    del commands  # that train the model
    words = "unknown architecture 'average'.* allowed: cgcnn, alignn, cgnn"
    with pytest.raises(CheckpointError, match=words):
        load_model(path / "run" / "best")
    ran = cgcnn_ase("predict", path / "set" / "MgO-rocksalt.cif", "--model", path / "run")
    assert ran.code == 2
    assert "unknown architecture 'average'" in ran.err
    ran = cgcnn_ase("train", path / "set", "--config", path / "train.yaml", "--output", path / "none")
    assert ran.code == 2
    assert "network.architecture: must be cgcnn or alignn or cgnn or smooth-cgcnn, not 'average'" in ran.err


# ------------------------------------------------------------------------------------------------------------- AiiDA


@pytest.fixture(scope="module")
def in_aiida(installed, path, request):
    """The distribution is installed here, and AiiDA has a profile; for all of the tests below."""
    pytest.importorskip("aiida", reason="aiida-core is an optional extra")
    from aiida_plugin.engines.base import ENGINES

    request.getfixturevalue("aiida_profile")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(installed))
        patch.setenv("CGCNN_ASE_CACHE", str(path / "cache"))
        for registry in (ARCHITECTURES, ACQUISITIONS, SURROGATES, ORACLES, SOURCES, ENGINES):
            patch.setattr(registry, "_loaded", {})
        yield
    for name in [name for name in sys.modules if name.startswith("cgcnn_ase_example")]:
        del sys.modules[name]


@pytest.fixture
def code(in_aiida, request):
    """The Python that runs this, under the label of the default code of engines that are ASE calculators."""
    return request.getfixturevalue("aiida_code_installed")(
        label="python", default_calc_job_plugin="cgcnn.ase_dft", filepath_executable=sys.executable
    )


@pytest.mark.usefixtures("in_aiida")
def test_the_model_as_a_node(commands, path):
    """It predicts what the command predicted; the acquisition chooses."""
    from aiida.orm import Dict
    from aiida.plugins import CalculationFactory, DataFactory

    from aiida_plugin.calculations.functions.predictions import select

    model = DataFactory("cgcnn.model").get_or_create(path / "run" / "best")
    assert model.base.attributes.get("architecture") == "average"
    crystals = [bulk(name, "rocksalt", a=4.6) for name in ("MgO", "NiO", "LiF")]
    structures = DataFactory("cgcnn.structures").from_ase(crystals, ["MgO", "NiO", "LiF"])
    predictions = CalculationFactory("cgcnn.predict_in_process")(model, structures)
    frame = predictions.to_frame()
    (row,) = csv.DictReader(commands["predict"][1].splitlines())
    for column in ("value", "std"):
        assert frame[column][0] == pytest.approx(float(row[column]), rel=1e-5)
    chosen = select(predictions, Dict({"take": {"cautious": 1}, "kappa": 1.0}))
    assert chosen["indices"].get_list() == [frame["id"][(frame["value"] + frame["std"].astype(float)).idxmin()]]
    assert chosen["chosen"]["rows"][0]["why"] == "cautious"


@pytest.mark.usefixtures("in_aiida")
def test_the_source_as_a_node(tmp_path):
    from aiida_plugin.calculations.functions.fetch import fetch_into_aiida

    node = fetch_into_aiida(open_client("shelf"), Query(formula=("Si", "Ge")), fields=["band_gap"], cache=tmp_path)
    assert {name: node.atoms(name).info["band_gap"] for name in node.ids} == {"Si": 1.1, "Ge": 0.7}
    assert node.creator.inputs.provenance["client"] == "cgcnn-ase-example 1.0"


@pytest.mark.usefixtures("in_aiida")
def test_a_search_as_nodes(tmp_path):
    """Surrogate, acquisition and oracle of the distribution; each round is a node."""
    from aiida_plugin.calculations.functions.optimisation_step import record_steps

    steps = []
    run = {"config": SEARCH, "oracle": {"what": "a parabola"}, "folder": str(tmp_path / "run")}
    keep = record_steps(run | {"objectives": [{"name": "value", "wanted": "min"}]})
    optimise(SEARCH, tmp_path / "run", on_step=lambda step: steps.append(keep(step)))
    assert steps[-1]["n_evaluated"] == 8
    assert [row["chosen_by"] for log in steps for row in log["evaluations"]][4:] == ["cautious"] * 4
    assert steps[-1].creator.process_type == "aiida.calculations:cgcnn.optimisation_step"


@pytest.mark.integration
def test_labels_of_the_engine(code):
    from aiida.engine import run_get_node
    from aiida.plugins import DataFactory, WorkflowFactory

    from aiida_plugin.engines.base import engine

    assert code.default_calc_job_plugin == engine("emt").code_plugin
    copper = bulk("Cu", a=3.7)
    structures = DataFactory("cgcnn.structures").from_ase([copper], ["copper"])
    _, chain = run_get_node(
        WorkflowFactory("cgcnn.label").get_builder_from_protocol(code, structures, "emt", "stringent")
    )
    assert chain.is_finished_ok, chain.exit_message
    copper.calc = EMT(asap_cutoff=True)
    labelled = chain.outputs.labelled.atoms("copper")
    assert labelled.get_potential_energy() == pytest.approx(copper.get_potential_energy(), abs=1e-9)
    assert labelled.info["label_scheme"]["parameters"] == {"asap_cutoff": True}


@pytest.mark.integration
@pytest.mark.usefixtures("code")
def test_the_engine_is_an_oracle_of_the_command(cgcnn_ase, tmp_path):
    """The command runs it through AiiDA."""
    (tmp_path / "copper.py").write_text(
        "from ase.build import bulk\n\ndef cell(point):\n    return bulk('Cu', a=point['a'])\n"
    )
    config = SEARCH | {
        "space": {"variables": {"a": {"low": 3.4, "high": 3.9}}, "structure": "copper.py:cell"},
        "objectives": "energy_per_atom",
        "oracle": {"name": "emt", "protocol": "fast"},
        "budget": {"evaluations": 1, "initial": 1},
    }
    (tmp_path / "emt.yaml").write_text(yaml.safe_dump(config))
    ran = cgcnn_ase("optimize", tmp_path / "emt.yaml", "--output", tmp_path / "run", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["oracle"]["what"] == "EMT (ASE's cutoff, protocol fast) through AiiDA"
    rows = [json.loads(line) for line in (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()]
    for row in rows:
        copper = bulk("Cu", a=row["point"]["a"])
        copper.calc = EMT()
        assert row["values"]["energy_per_atom"] == pytest.approx(copper.get_potential_energy(), abs=1e-6)
