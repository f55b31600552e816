"""Fine-tuning as a workflow: before and after, provenance, going on after the wall time, and each way it can fail."""

import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase.build import bulk

aiida = pytest.importorskip("aiida", reason="aiida-core is an optional extra")

from aiida import orm  # noqa: E402
from aiida.engine import run_get_node  # noqa: E402
from aiida.plugins import DataFactory, WorkflowFactory  # noqa: E402

from aiida_plugin.calculations.functions.finetune_steps import accuracy, calibrate, offset  # noqa: E402
from aiida_plugin.calculations.train import arguments  # noqa: E402
from aiida_plugin.data.predictions import PredictionsData  # noqa: E402
from aiida_plugin.workflows.finetune import protocol_inputs, protocol_names  # noqa: E402
from cgcnn_ase import predict  # noqa: E402
from cgcnn_ase.models.checkpoint import save_model  # noqa: E402
from cgcnn_ase.training import finetune  # noqa: E402
from cgcnn_ase.training.finetune_recipe import recipe_for  # noqa: E402

from .labelled import SCHEME, oxide, oxides, small_formation_model  # noqa: E402

TARGET = "formation_energy_per_atom"
EXECUTABLE = Path(sys.executable).with_name("cgcnn-ase")
#: a recipe of a second
QUICK = {"epochs": 2, "freeze": "convolutions", "checkpoint": "last", "engine": "torch", "test": 0.0}


@pytest.fixture
def code(aiida_code_installed, cgcnn_ase_command):
    return aiida_code_installed(default_calc_job_plugin="cgcnn.train", filepath_executable=cgcnn_ase_command)


@pytest.fixture
def model(tmp_path):
    return DataFactory("cgcnn.model").get_or_create(save_model(small_formation_model(), tmp_path / "old"))


def node(atoms):
    return DataFactory("cgcnn.structures").from_ase(atoms.values(), list(atoms))


def run(code, model, atoms, recipe=QUICK, **others):
    return run_get_node(
        WorkflowFactory("cgcnn.finetune"),
        code=code, model=model, structures=node(atoms), recipe=orm.Dict(recipe), **others,
    )  # fmt: skip


@pytest.mark.slow
def test_before_and_after_on_a_part_that_neither_model_has_seen(code, model):
    recipe = QUICK | {"test": 0.25, "epochs": 20, "learning_rate": 5e-2}
    results, workflow = run(code, model, oxides(24), recipe)
    assert workflow.is_finished_ok, workflow.exit_message
    report = results["report"].get_dict()
    tested = results["test"]
    assert report["n_test"] == report["before"]["n"] == report["after"]["n"] == len(tested) == 6
    assert report["n_train"] + report["n_val"] == 18
    assert report["label_scheme"] == SCHEME
    # no formula was both learned and tested
    learned = results["model"].creator.inputs.structures
    assert {i.split("-")[0] for i in tested.ids}.isdisjoint({i.split("-")[0] for i in learned.ids})
    # the figures are those of the two models
    for when, tested_model in (("before", model), ("after", results["model"])):
        labels = np.array([atoms.info[TARGET] for atoms in tested.iter_atoms()])
        frame = in_process(tested_model, tested)
        assert report[when]["mae"] == pytest.approx(np.abs(frame["value"] - labels).mean(), rel=1e-3)
    assert report["after"]["mae"] < report["before"]["mae"]
    # without the constant that the old model is off by on what was learned
    learned_from = results["model"].creator.inputs.structures
    label = {i: atoms.info[TARGET] for i, atoms in zip(learned_from.ids, learned_from.iter_atoms(), strict=True)}
    constant = np.mean([label[i] for i in learned_from.ids] - in_process(model, learned_from)["value"].to_numpy())
    tested_labels = np.array([atoms.info[TARGET] for atoms in tested.iter_atoms()])
    shifted = in_process(model, tested)["value"] + constant - tested_labels
    assert report["before"]["mae_without_offset"] == pytest.approx(np.abs(shifted).mean(), rel=1e-3)
    assert results["predictions"].creator.inputs.model.uuid == results["model"].uuid
    # and from the new model back to the old one by links alone
    assert results["model"].creator.inputs.model.uuid == model.uuid


def in_process(model, structures):
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as path:
        return predict(model.export(Path(path) / "model"), list(structures.iter_atoms())).to_frame()


@pytest.mark.slow
def test_two_labels_and_a_test_set(code, model):
    """As an active-learning loop begins; the recipe is that of few labels."""
    builder = WorkflowFactory("cgcnn.finetune").get_builder_from_protocol(
        code, model, node(oxides(2)), "balanced", {"recipe": {"epochs": 1, "engine": "torch"}},
        test=node({"t": oxide("Sr", 1.1)}),
    )  # fmt: skip
    results, workflow = run_get_node(builder)
    assert workflow.is_finished_ok, workflow.exit_message
    report = results["report"].get_dict()
    assert (report["n_train"], report["n_val"], report["n_test"]) == (1, 1, 1)
    assert report["calibration"]["std_factor"] >= 1
    assert "coverage" in report["after"]
    assert report["offset"]["n"] == 2


def dies(tmp_path, times, quick):
    """A cgcnn-ase whose job is killed, script and all, after the first epoch of the first so many trainings."""
    script = tmp_path / "cgcnn-ase"
    script.write_text(
        f"""#!/bin/bash
if [ "$1" != train ]; then exec {quick} "$@"; fi
n=$(cat {tmp_path}/count 2>/dev/null || echo 0); echo $((n + 1)) > {tmp_path}/count
if [ "$n" -ge {times} ]; then exec {quick} "$@"; fi
{EXECUTABLE} "$@" &
until [ -e run/last.ckpt ] || [ -e run/member-0/last.ckpt ]; do kill -0 $! || exit 1; sleep 0.1; done
kill -9 $! $PPID
"""
    )
    script.chmod(0o755)
    return str(script)


@pytest.mark.slow
def test_out_of_wall_time_it_goes_on(aiida_code_installed, model, tmp_path, cgcnn_ase_command):
    executable = dies(tmp_path, 1, cgcnn_ase_command)
    code = aiida_code_installed(default_calc_job_plugin="cgcnn.train", filepath_executable=executable)
    results, workflow = run(code, model, oxides(6), QUICK | {"epochs": 30})
    assert workflow.is_finished_ok, workflow.exit_message
    first, second = sorted(
        (job for job in workflow.called if "cgcnn.train" in job.process_type), key=lambda job: job.pk
    )
    assert first.exit_status == 321
    assert "of 60 epochs" in first.exit_message
    assert second.inputs.restart_folder.uuid == first.outputs.remote_folder.uuid
    assert (results["metrics"]["n_epochs"], results["metrics"]["n_members"]) == (30, 2)


@pytest.mark.slow
def test_it_does_not_go_on_for_ever(aiida_code_installed, model, tmp_path, cgcnn_ase_command):
    executable = dies(tmp_path, 9, cgcnn_ase_command)
    code = aiida_code_installed(default_calc_job_plugin="cgcnn.train", filepath_executable=executable)
    _, workflow = run(code, model, oxides(6), QUICK | {"epochs": 200}, max_restarts=orm.Int(0))
    assert workflow.exit_status == 421
    assert "ran out of time after 0 restarts" in workflow.exit_message


def test_labels_that_cannot_be_learned(code, model):
    atoms = oxides(4) | {"new": oxide("Sr", label=False)}
    _, workflow = run(code, model, atoms)
    assert workflow.exit_status == 401
    assert "have no label 'formation_energy_per_atom': new" in workflow.exit_message
    _, workflow = run(code, model, oxides(4), QUICK | {"test": 0.1})
    assert workflow.exit_status == 401
    assert "4 structures are too few to keep a part of 0.1" in workflow.exit_message


def test_another_name_of_the_target_is_the_target(model):
    """The docs' own name must not train a new head; the command gets no kind, so that it finds the model's target."""
    facts = {"target": TARGET, "unit": "eV/atom", "task": "regression", "name": "m", "potential": ""}
    assert arguments({}, "formation_energy", facts)[:4] == ["--target", "formation_energy", "--task", "regression"]
    assert arguments({}, "energy", facts)[:2] == ["--target", "energy:regression"]
    with pytest.raises(ValueError, match="unit 'meV': the model to tune has formation_energy with the unit 'eV/atom'"):
        arguments({"unit": "meV"}, "formation_energy", facts)


def test_a_recipe_that_is_none(code, model):
    with pytest.raises(ValueError, match="recipe: unknown settings speed"):
        run(code, model, oxides(4), {"speed": 9})
    with pytest.raises(ValueError, match="unit 'meV': the model to tune has formation_energy_per_atom with the unit"):
        run(code, model, oxides(4), {"unit": "meV"})


def fails(tmp_path, command, text, quick):
    """A cgcnn-ase one of whose commands fails with a message; of ``predict`` the last of so many."""
    script = tmp_path / "cgcnn-ase"
    script.write_text(
        f"""#!/bin/bash
if {command}; then echo "{text}" >&2; exit 2; fi
exec {quick} "$@"
"""
    )
    script.chmod(0o755)
    return str(script)


@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        ('[ "$1" = predict ]', 410, "the model to tune could not predict: cgcnn-ase could not start: no disk"),
        ('[ "$1" = train ]', 420, "failed: cgcnn-ase could not start: no disk"),
        pytest.param(
            '[ "$1" = predict ] && grep -q -- -tuned model/config.json',
            430,
            "the tuned model could not predict",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_each_failure_has_its_number(aiida_code_installed, cgcnn_ase_command, model, tmp_path, command, status, words):
    executable = fails(tmp_path, command, "cgcnn-ase: no disk", cgcnn_ase_command)
    code = aiida_code_installed(default_calc_job_plugin="cgcnn.train", filepath_executable=executable)
    test = {"test": node({"t": oxide("Sr", 1.1)})} if status == 430 else {}
    _, workflow = run(code, model, oxides(4), QUICK | {"epochs": 1}, **test)
    assert workflow.exit_status == status, workflow.exit_message
    assert words in workflow.exit_message


@pytest.mark.slow
def test_the_same_labels_train_alike_by_every_door(code, model, cgcnn_ase, tmp_path, monkeypatch):
    """From Python, from the command line and from AiiDA: one recipe, by the number of labels."""
    monkeypatch.setenv("CGCNN_ASE_CACHE", str(tmp_path / "cache"))
    atoms = oxides(40)
    old = save_model(small_formation_model(), tmp_path / "base")
    finetune(old, list(atoms.values()), tmp_path / "python", test=0.0, epochs_factor=0.04)
    (tmp_path / "set").mkdir()
    node(atoms).write_packed(tmp_path / "set" / "structures.npz")
    lines = [f"id,{TARGET}", *(f"{name},{each.info[TARGET]!r}" for name, each in atoms.items())]
    (tmp_path / "set" / "properties.csv").write_text("\n".join(lines) + "\n")
    for command, output in (
        (["finetune", old, tmp_path / "set"], "finetune"),
        (["train", tmp_path / "set", "--from", old], "train"),
    ):
        ran = cgcnn_ase(*command, "--output", tmp_path / output, "--test", 0, "--epochs-factor", 0.04)
        assert ran.code == 0, ran.err
    recipe, _ = protocol_inputs("balanced", len(atoms), {"recipe": {"epochs_factor": 0.04}})
    results, workflow = run(code, model, atoms, recipe)
    assert workflow.is_finished_ok, workflow.exit_message
    retrieved = results["model"].creator.outputs.retrieved.base.repository
    written = [(tmp_path / name / "config.yaml").read_text() for name in ("python", "finetune", "train")]
    settings = [yaml.safe_load(text) for text in (*written, retrieved.get_object_content("run/config.yaml"))]
    for each in settings:
        assert each["from"] | {"model": ""} == {"model": "", "sha256": model.sha256, "frozen": "convolutions"}
        assert {"from", "train_hash"} <= each.keys()
    alike = [{k: v for k, v in each.items() if k not in ("from", "train_hash")} for each in settings]
    assert alike == [alike[0]] * 4
    decided = recipe_for(results["metrics"]["n_train"], same_target=True, epochs_factor=0.04)
    assert alike[0] | decided.settings == alike[0]


# The report


def predictions(values, *, unit="eV/atom", width=0.1):
    n = len(values)
    return PredictionsData(
        {
            "id": list(values), "formula": ["X"] * n, "n_atoms": [2] * n, "value": list(values.values()),
            "std": [width / 2] * n, "lower": [v - width for v in values.values()],
            "upper": [v + width for v in values.values()], "epistemic": [None] * n, "aleatoric": [None] * n,
            "in_domain": [True] * n, "reason": [""] * n,
        },
        unit=unit, property=TARGET, model="m", model_sha256="0",
    )  # fmt: skip


def test_figures_of_known_errors():
    atoms = oxides(4)
    errors = dict(zip(atoms, (0.05, -0.05, 0.3, 0.0), strict=True))
    result = accuracy(node(atoms), TARGET, predictions({k: a.info[TARGET] + errors[k] for k, a in atoms.items()}))
    assert result["mae"] == pytest.approx(0.1)
    assert result["rmse"] == pytest.approx(np.sqrt((0.05**2 * 2 + 0.09) / 4))
    assert (result["coverage"], result["largest_error"]) == (0.75, pytest.approx(0.3))
    less = predictions({k: a.info[TARGET] for k, a in list(atoms.items())[:3]})
    assert (accuracy(node(atoms), TARGET, less)["n"], accuracy(node(atoms), TARGET, less)["n_failed"]) == (3, 1)
    with pytest.raises(ValueError, match="no structure has both a label and a prediction"):
        accuracy(node(atoms), TARGET, predictions({"other": 1.0}))


def test_a_shift_of_the_references_is_found_element_by_element():
    """Labels of another functional: 0.4 eV for each Ni, -0.1 for each O and 0.2 for each Mg atom."""
    shift = {"Ni": 0.4, "O": -0.1, "Mg": 0.2}
    atoms = {
        "a": bulk("NiO", "rocksalt", a=4.2), "b": bulk("MgO", "rocksalt", a=4.2), "c": bulk("Ni", cubic=True),
        "d": bulk("Mg"), "e": bulk("NiO", "rocksalt", a=4.4),
    }  # fmt: skip
    for cell in atoms.values():
        cell.info[TARGET] = -1.0 + float(np.mean([shift[s] for s in cell.get_chemical_symbols()]))
    result = offset(node(atoms), TARGET, predictions(dict.fromkeys(atoms, -1.0)))
    assert result["determined"]
    assert result["per_element"] == pytest.approx(shift)
    assert result["mae_without"] == pytest.approx(0.0, abs=1e-9)
    only = {key: atoms[key] for key in "ae"}
    undecided = offset(node(only), TARGET, predictions(dict.fromkeys(only, -1.0)))
    assert not undecided["determined"]
    assert undecided["mean"] == pytest.approx(0.15)
    assert "per_element" not in offset(node(only), TARGET, predictions(dict.fromkeys(only, -1.0), unit="eV"))


# Protocols


def settings_of_recipe(recipe, n):
    """What the command trains with: the one recipe by the number of labels, with what is given over it."""
    decided = recipe_for(n, same_target=True, epochs_factor=recipe["epochs_factor"])
    return {"freeze": decided.frozen, **decided.settings, **recipe}


def test_every_protocol_is_a_recipe_for_few_and_for_many():
    from aiida_plugin.calculations.train import validation_error

    assert list(protocol_names()) == ["fast", "balanced", "stringent"]
    for name in protocol_names():
        for n in (2, 50, 10_000):
            recipe, _ = protocol_inputs(name, n)
            assert validation_error(recipe, tunes=True) is None
            settings = settings_of_recipe(recipe, n)
            assert (settings["freeze"], settings.get("checkpoint"), settings["test"]) == (
                "convolutions",
                "last",
                0.0,
            ) or n >= 50
    fast, stringent = (settings_of_recipe(protocol_inputs(name, 100)[0], 100) for name in ("fast", "stringent"))
    assert fast["epochs"] < stringent["epochs"]
    recipe, restarts = protocol_inputs(None, 100, {"recipe": {"epochs": 3}, "max_restarts": 1})
    settings = settings_of_recipe(recipe, 100)
    assert (settings["epochs"], settings["freeze"], restarts) == (3, "convolutions", 1)
    with pytest.raises(ValueError, match="unknown protocol 'slow'; allowed: fast, balanced, stringent"):
        protocol_inputs("slow", 100)
    with pytest.raises(ValueError, match="overrides of epochs; allowed: max_restarts, recipe"):
        protocol_inputs("fast", 100, {"epochs": 3})


def test_a_model_on_labels_of_ones_own_is_a_node_made_of_both(model):
    atoms = oxides(26)
    del atoms["MgO-0"].info[TARGET]
    labelled = node(atoms)
    new = calibrate(model, labelled, orm.Dict({"accept_shift": True}))
    assert set(new.creator.inputs) >= {"model", "structures", "settings", "package_version"}
    assert new.creator.inputs.model.pk == model.pk
    assert new.sha256 != model.sha256
    assert "calibrated on 25 labels" in new.contents()["README.md"].decode()
    del atoms["MgO-0"]
    labels = np.array([each.info[TARGET] for each in atoms.values()])
    errors = [np.abs(predict(m.load(), atoms).to_frame()["value"] - labels).mean() for m in (model, new)]
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shift": 1.0}, "settings shift: allowed are name, target, element_offsets"),
        ({"max_shift": 1e-3}, "applied without asking"),
        ({"target": "band_gap"}, "at least 20 labels, there are 0"),
    ],
)
def test_what_a_calibration_refuses(model, settings, message):
    with pytest.raises(ValueError, match=message):
        calibrate(model, node(oxides(24)), orm.Dict(settings))
