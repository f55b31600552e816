"""The training job: real runs, what stands behind a model, going on, caching, and each way it can fail."""

import json
import stat
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from torch import nn

aiida = pytest.importorskip("aiida", reason="aiida-core is an optional extra")

from aiida import orm  # noqa: E402
from aiida.common.links import LinkType  # noqa: E402
from aiida.engine import run_get_node  # noqa: E402
from aiida.manage.caching import enable_caching  # noqa: E402
from aiida.plugins import CalculationFactory, DataFactory, ParserFactory  # noqa: E402

from cgcnn_ase import predict  # noqa: E402
from cgcnn_ase.core.targets import TargetSpec  # noqa: E402
from cgcnn_ase.models.checkpoint import save_model, save_models  # noqa: E402
from cgcnn_ase.models.crystal_model import CrystalModel  # noqa: E402
from cgcnn_ase.nn.network import Network  # noqa: E402

from ..potential.conftest import random_potential  # noqa: E402
from .labelled import SCHEME, TINY, oxide, oxides, small_formation_model  # noqa: E402

TARGET = "formation_energy_per_atom"
EXECUTABLE = str(Path(sys.executable).with_name("cgcnn-ase"))


@pytest.fixture
def code(aiida_code_installed, cgcnn_ase_command):
    return aiida_code_installed(default_calc_job_plugin="cgcnn.train", filepath_executable=cgcnn_ase_command)


@pytest.fixture
def model(tmp_path):
    return DataFactory("cgcnn.model").get_or_create(save_model(small_formation_model(), tmp_path / "old"))


def node(atoms):
    return DataFactory("cgcnn.structures").from_ase(atoms.values(), list(atoms))


def inputs(atoms, settings=None, **others):
    result = {"structures": node(atoms), "target": orm.Str(TARGET), **others}
    return result | ({} if settings is None else {"settings": orm.Dict(settings)})


def run(code, atoms, settings=TINY, **others):
    return run_get_node(CalculationFactory("cgcnn.train"), code=code, **inputs(atoms, settings, **others))


def test_a_new_model_and_what_stands_behind_it(code, tmp_path):
    atoms, test = oxides(24), {"t0": oxide("Fe", 1.08), "t1": oxide("Sr", 1.08)}
    results, calculation = run(code, atoms, TINY | {"val": 0.25}, test=node(test))
    assert calculation.is_finished_ok, calculation.exit_message
    trained = results["model"]
    assert (trained.names, trained.base.attributes.get("targets")) == ([TARGET.replace("_", "-")], [TARGET])
    assert trained.base.attributes.get("units") == ["eV/atom"]
    # by links alone to the labels
    behind = trained.creator.base.links.get_incoming(link_type=LinkType.INPUT_CALC).nested()
    assert list(behind["structures"].ids) == list(atoms)
    assert list(behind["test"].ids) == list(test)
    metrics = results["metrics"].get_dict()
    assert (metrics["n_train"], metrics["n_val"], metrics["n_test"]) == (18, 6, 2)
    assert metrics["label_scheme"] == SCHEME
    assert "Not converged" not in trained.base.repository.get_object_content("README.md", "r")
    assert metrics["trained_on"] == behind["structures"].uuid
    assert metrics["n_epochs"] == 2
    ran = results["environment"].get_dict()
    assert (ran["engine"], ran["device"], ran["seeds"]) == ("torch", "cpu", {"seed": 0})
    assert ran["versions"]["torch"] == torch.__version__
    # the results are those of the model that came out
    table = results["test_results"]
    assert table.get_array("id").tolist() == list(test)
    assert np.allclose(table.get_array("target"), [a.info[TARGET] for a in test.values()])
    path = trained.export(tmp_path / "exported")
    expected = predict(path, list(test.values())).to_frame()["value"]
    assert np.allclose(table.get_array("prediction"), expected, rtol=1e-4, atol=1e-5)
    mae = np.abs(table.get_array("prediction") - table.get_array("target")).mean()
    assert metrics["test"]["mae"] == pytest.approx(mae)
    retrieved = results["retrieved"].base.repository
    assert {"learning_curve.png", "parity.png", "history.csv", "config.yaml"} <= set(retrieved.list_object_names("run"))


def test_few_labels_tune_a_model_that_stays_calibrated_and_the_same_again_is_cached(code, model):
    settings = {"epochs": 2, "freeze": "convolutions", "checkpoint": "last", "engine": "torch", "name": "tuned-on-six",
                "test": 0.0}  # fmt: skip
    labels = oxides(6, scheme=SCHEME | {"converged": False})
    results, calculation = run(code, labels, settings, model=model)
    assert calculation.is_finished_ok, calculation.exit_message
    # labels that are not converged are marked in the set, the model and its card
    assert calculation.inputs.structures.base.attributes.get("labels_converged") is False
    assert results["model"].base.attributes.get("labels_converged") is False
    assert results["metrics"]["labels_converged"] is False
    card = results["model"].base.repository.get_object_content("README.md", "r")
    assert "**Not converged:** the energies of its labels are not converged (protocol fast)" in card
    assert calculation.inputs.structures.uuid in card
    assert results["model"].names == ["tuned-on-six"]
    # the label tells it from others that were tuned under this name
    assert results["model"].label == f"tuned-on-six (6 labels of gpaw PBE, {results['model'].sha256[:8]})"
    assert calculation.res.n_train == 5  # `verdi calcjob res`
    # structures and labels stand in the inputs, and are not stored a second time with the job
    kept = {path.as_posix() for path in calculation.base.repository.glob()}
    assert not {name for name in kept if name.startswith("data")}
    metrics = results["metrics"].get_dict()
    assert (metrics["n_train"], metrics["n_val"], metrics["n_test"]) == (5, 1, 0)
    assert metrics["calibration"]["sha256"] == model.sha256
    assert metrics["calibration"]["std_factor"] >= 1.0
    assert "val.r2" in metrics["undefined"]
    assert (results["val_results"].get_array("std") > 0).all()
    assert "test_results" not in results

    # the same again is taken from the cache
    with enable_caching(identifier="aiida.calculations:cgcnn.train"):
        cached, again = run(code, labels, settings, model=model)
    assert again.base.caching.get_cache_source() == calculation.uuid
    assert cached["model"].sha256 == results["model"].sha256


def test_one_of_several_models_of_a_node(code, tmp_path):
    base = small_formation_model(calibration=False)
    torch.manual_seed(0)
    members = nn.ModuleList([Network(replace(base.networks[0].config, n_outputs=2))])
    several = [
        CrystalModel(
            members, graph=base.graph, scaler=base.scaler, first_output=k, name=name.replace("_", "-"),
            target=TargetSpec(name=name, unit="eV/atom", per_atom=True),
        )
        for k, name in enumerate((TARGET, "energy_per_atom"))
    ]  # fmt: skip
    both = DataFactory("cgcnn.model").get_or_create(save_models(several, tmp_path / "both", name="both"))
    settings = {"epochs": 1, "engine": "torch"}
    with pytest.raises(ValueError, match="set model_name to one of formation-energy-per-atom, energy-per-atom"):
        run(code, oxides(6), settings, model=both)
    results, calculation = run(code, oxides(6), settings, model=both, model_name=orm.Str("formation-energy-per-atom"))
    assert calculation.is_finished_ok, calculation.exit_message
    assert results["model"].names == ["formation-energy-per-atom-tuned"]


@pytest.mark.slow  # the default suite has the same of cgcnn.finetune
def test_a_job_out_of_time_is_gone_on_with(aiida_code_installed, tmp_path):
    """The weights are those of a run that was not interrupted."""
    script = tmp_path / "dies"
    script.write_text(
        f'#!/bin/bash\n{EXECUTABLE} "$@" &\n'
        "until [ -e run/last.ckpt ]; do kill -0 $! || exit 1; sleep 0.05; done\nkill -9 $! $PPID\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    atoms, settings = oxides(12), TINY | {"epochs": 40, "test": 0.0}
    mortal = aiida_code_installed(default_calc_job_plugin="cgcnn.train", filepath_executable=str(script))
    _, first = run(mortal, atoms, settings)
    assert first.exit_status == 321
    assert "of 40 epochs; to go on, submit it again with its remote_folder" in first.exit_message
    code = aiida_code_installed(default_calc_job_plugin="cgcnn.train", filepath_executable=EXECUTABLE, label="whole")
    resumed, second = run(code, atoms, settings, restart_folder=first.outputs.remote_folder)
    assert second.is_finished_ok, second.exit_message
    whole, _ = run(code, atoms, settings)
    assert resumed["model"].sha256 == whole["model"].sha256
    assert resumed["metrics"]["n_epochs"] == 40


# Input that is refused before anything runs


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"speed": 9}, "unknown settings speed; allowed: val, test, split_by"),
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"epochs": "many"}, "epochs: must be a whole number, not 'many'"),
        ({"freeze": "head"}, "freeze 'head'; allowed: none, embedding, convolutions"),
        ({"freeze": "embedding"}, "freeze needs a model to start from"),
        ({"unlabelled": "guess"}, "unlabelled 'guess'; allowed: error, skip"),
        ({"val": 1.5}, "val must be a part from 0 to less than 1, not 1.5"),
        ({"workers": 0}, "workers must be a whole number from 1, not 0"),
        ({"mixed_labels": "yes"}, "mixed_labels must be true or false, not 'yes'"),
    ],
)
def test_settings(code, settings, words):
    with pytest.raises(ValueError, match=words):
        run(code, oxides(4), settings)


def test_structures_that_cannot_be_learned(code):
    with pytest.raises(ValueError, match="1 of 5 structures have no label 'formation_energy_per_atom': new"):
        run(code, oxides(4) | {"new": oxide("Sr", label=False)})
    with pytest.raises(ValueError, match=r"ids that occur in two sets: NiO-1 \(structures and test\)"):
        run(code, oxides(4), test=node({"NiO-1": oxide("Sr")}))


def test_settings_that_the_network_does_not_take(code):
    """The command's own words come back with the exit code."""
    _, calculation = run(code, oxides(6), TINY | {"network": {"depth": 3}})
    assert calculation.exit_status == 310
    assert "unknown setting network.depth" in calculation.exit_message


# The parser, on what a job may leave


@pytest.fixture(scope="module")
def labelled():
    return oxides(12)


@pytest.fixture(scope="module")
def left(labelled, tmp_path_factory, cgcnn_ase):
    """The files that a good run leaves, by name."""
    path = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CGCNN_ASE_CACHE", str(path / "cache"))
        (path / "data").mkdir()
        lines = ["id," + TARGET + ",split"]
        for k, (name, atoms) in enumerate(labelled.items()):
            lines.append(f"{name},{atoms.info[TARGET]!r},{('test', 'val', 'train')[min(k // 2, 2)]}")
        (path / "data" / "properties.csv").write_text("\n".join(lines) + "\n")
        node(labelled).write_packed(path / "data" / "structures.npz")
        (path / "train.yaml").write_text(yaml.safe_dump(TINY))
        ran = cgcnn_ase("train", path / "data", "--output", path / "run", "--config", path / "train.yaml",
                        "--target", TARGET, "--unit", "eV/atom")  # fmt: skip
    assert ran.code == 0, ran.err
    result = {str(f.relative_to(path)): f.read_bytes() for f in (path / "run").rglob("*") if f.is_file()}
    return {name: content for name, content in result.items() if not name.endswith(".ckpt")} | {"exit_code": b"0\n"}


@pytest.fixture
def parsed(code, labelled):
    """Parse files by name, as a job would have left them."""

    def parse(files, **more):
        calculation = orm.CalcJobNode(computer=code.computer, process_type="aiida.calculations:cgcnn.train")
        calculation.set_option("resources", {"num_machines": 1})
        calculation.set_option("check_versions", True)
        linked = {"structures": node(labelled).store(), "target": orm.Str(TARGET).store(), "code": code,
                  "package_version": orm.Str(metadata.version("cgcnn-ase")).store()} | more  # fmt: skip
        for label, value in linked.items():
            calculation.base.links.add_incoming(value, link_type=LinkType.INPUT_CALC, link_label=label)
        calculation.store()
        retrieved = orm.FolderData()
        for name, content in files.items():
            retrieved.base.repository.put_object_from_bytes(content, name)
        retrieved.base.links.add_incoming(calculation, link_type=LinkType.CREATE, link_label="retrieved")
        retrieved.store()
        return ParserFactory("cgcnn.train").parse_from_node(calculation, store_provenance=False)

    return parse


def test_parsing_a_good_run(parsed, left, labelled):
    results, ended = parsed(left)
    assert ended.is_finished_ok, ended.exit_message
    assert results["test_results"].get_array("id").tolist() == list(labelled)[:2]
    assert results["metrics"]["test"]["mae"] == json.loads(left["run/metrics.json"])["test"]["mae"]


def test_what_is_tuned_from_a_marked_model_has_its_mark(parsed, left, tmp_path):
    """The labels of this job are converged, those of the model before are not."""
    old = small_formation_model()
    old.training_record = {"labels_converged": False}
    marked = DataFactory("cgcnn.model").get_or_create(save_model(old, tmp_path / "marked"))
    results, ended = parsed(left, model=marked)
    assert ended.is_finished_ok, ended.exit_message
    assert results["model"].base.attributes.get("labels_converged") is False
    assert results["metrics"]["labels_converged"] is False
    card = results["model"].base.repository.get_object_content("README.md", "r")
    assert "**Not converged:**" in card
    results, _ = parsed(left)
    assert "labels_converged" not in results["metrics"].get_dict()


def test_epochs_of_an_ensemble_are_counted_once(parsed, left):
    history = left["run/history.csv"]
    several = without(left, "history.csv") | {f"run/member-{k}/history.csv": history for k in range(3)}
    results, ended = parsed(several)
    assert ended.is_finished_ok, ended.exit_message
    assert (results["metrics"]["n_epochs"], results["metrics"]["n_members"]) == (2, 3)


def test_figures_that_are_no_numbers_are_named_not_stored(parsed, left):
    metrics = json.loads(left["run/metrics.json"])
    metrics["test"] |= {"r2": float("nan"), "nll": float("inf"), "spearman": None}
    results, ended = parsed(left | {"run/metrics.json": json.dumps(metrics).encode()})
    assert ended.is_finished_ok, ended.exit_message
    assert {"test.r2", "test.nll", "test.spearman"} <= set(results["metrics"]["undefined"])
    results["metrics"].store()


OTHER = json.dumps({"versions": {}, "package_version": "0.0", "engine": "torch"}).encode()


def without(files, *parts):
    return {name: content for name, content in files.items() if not any(part in name for part in parts)}


def says(files, code, words):
    return files | {"exit_code": code.encode(), "cgcnn-ase.err": words.encode()}


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        (lambda f: says(f, "2", "cgcnn-ase: the val split is empty"), 310, "could not start: the val split is empty"),
        (lambda f: says(f, "1", "Traceback\nKeyError: 'x'"), 311, "an error that it does not know: KeyError: 'x'"),
        (lambda f: says(f, "137", ""), 320, "was killed (exit code 137)"),
        (lambda f: without(f, "exit_code", "best"), 321, "after 2 of 2 epochs; to go on"),
        (lambda f: without(f, "exit_code", "run/"), 322, "before cgcnn-ase began to train"),
        (lambda f: says(f, "1", "torch.OutOfMemoryError: CUDA out of memory."), 323, "make batch_size smaller"),
        (lambda f: without(f, "metrics.json"), 330, "left no run/metrics.json"),
        (lambda f: without(f, "best/config.json"), 330, "left no run/best/config.json"),
        (lambda f: without(f, "test_results.csv"), 330, "left no run/test_results.csv"),
        (lambda f: without(f, "environment.json"), 330, "left no run/environment.json: it tells what ran"),
        (lambda f: f | {"run/environment.json": OTHER}, 334, "cgcnn-ase 0.0, asked was"),
        (lambda f: f | {"run/metrics.json": b"{"}, 331, "run/metrics.json cannot be read"),
        (lambda f: f | {"run/metrics.json": b"{}"}, 331, "holds no figures of val or test"),
        (lambda f: f | {"run/best/model.safetensors": b"0"}, 331, "run/best cannot be read"),
        (lambda f: f | {"run/test_results.csv": b"id,target\na"}, 331, "another number of fields than the header"),
        (lambda f: f | {"run/test_results.csv": b"id,target\na,deep\n"}, 331, "run/test_results.csv cannot be read"),
        (lambda f: says(f, "2", "cgcnn-ase: run: the val error is not a finite number: the training diverged; lower "
                                "learning_rate"), 340, "the training diverged: make learning_rate smaller"),
    ],
)  # fmt: skip
def test_each_failure_has_its_number(parsed, left, change, status, words):
    results, ended = parsed(change(dict(left)))
    assert ended.exit_status == status, ended.exit_message
    assert words in ended.exit_message
    assert "model" not in results


# A potential


def frames(n=6, results=("energy", "forces", "stress")):
    """Rattled copper with results of EMT."""
    made = {}
    for k in range(n):
        atoms = bulk("Cu", cubic=True, a=3.65)
        atoms.rattle(0.05, seed=k)
        atoms.calc = EMT()
        values = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}
        atoms.calc = SinglePointCalculator(atoms, **{name: values[name] for name in results})
        atoms.info["label_scheme"] = SCHEME | {"converged": False}
        made[f"c{k}"] = atoms
    return made


@pytest.fixture
def potential(tmp_path):
    return DataFactory("cgcnn.model").get_or_create(save_model(random_potential(), tmp_path / "random"))


def test_a_potential_learns_energy_forces_and_stress(code, potential):
    """On the frames of the set, beside some that it has learned; what comes out is a potential again."""
    settings = {"epochs": 2, "val": 0.2, "test": 0.0, "n_replay": 2, "name": "again"}
    atoms = frames()
    results, calculation = run(
        code, atoms, settings, model=potential, target=orm.Str("energy_per_atom"), replay=node(frames(3))
    )
    assert calculation.is_finished_ok, calculation.exit_message
    metrics = results["metrics"].get_dict()
    assert (metrics["n_train"], metrics["n_val"], metrics["n_test"], metrics["n_epochs"]) == (5, 1, 0, 2)
    assert metrics["before"]["val"]["forces_mae"] > metrics["val"]["forces_mae"] > 0
    assert "val_results" not in results
    tuned = results["model"].load()
    assert tuned.is_potential
    assert tuned.name == "again"
    assert tuned.training_record["n_train"] == 5 + 2
    assert tuned.training_record["from"]["sha256"] == potential.base.attributes.get("sha256")
    assert results["model"].base.attributes.get("labels_converged") is False
    card = results["model"].base.repository.get_object_content("README.md", "r")
    assert card.startswith("# energy_per_atom, tuned from random")
    assert "**Not converged:**" in card


@pytest.mark.parametrize(
    ("others", "words"),
    [
        (
            {"target": "band_gap"},
            "is a potential, which learns energy, forces and stress; give energy_per_atom",
        ),
        ({"settings": {"freeze": "embedding"}}, "unknown settings of a potential freeze; allowed: val, test, split_by"),
        ({"settings": {"n_replay": 0}}, "n_replay must be a whole number from 1, not 0"),
        ({"structures": ("energy",)}, "structure 'c0' has no forces; a potential learns from both"),
    ],
)
def test_what_a_potential_cannot_learn(code, potential, others, words):
    if "structures" in others:
        others = {"structures": node(frames(results=others["structures"]))}
    if "settings" in others:
        others = {"settings": orm.Dict(others["settings"])}
    if "target" in others:
        others = {"target": orm.Str(others["target"])}
    options = {"structures": node(frames()), "target": orm.Str("energy_per_atom"), "model": potential} | others
    with pytest.raises(ValueError, match=words):
        run_get_node(CalculationFactory("cgcnn.train"), code=code, **options)


def test_frames_to_replay_are_of_a_potential(code, model):
    with pytest.raises(ValueError, match="replay is of a potential"):
        run(code, oxides(24), model=model, replay=node(frames(3)))
