"""The training job: real runs, what stands behind a model, going on, caching, and each way it can fail."""

import json
import stat
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

aiida = pytest.importorskip("aiida", reason="aiida-core is an optional extra")

from aiida import orm  # noqa: E402
from aiida.common.links import LinkType  # noqa: E402
from aiida.engine import run_get_node  # noqa: E402
from aiida.manage.caching import enable_caching  # noqa: E402
from aiida.plugins import CalculationFactory, DataFactory, ParserFactory  # noqa: E402

from aiida_plugin.calculations.training_data import gather  # noqa: E402
from cgcnn_ase import predict  # noqa: E402
from cgcnn_ase.checkpoint import save_model, save_models  # noqa: E402
from cgcnn_ase.nn.model import CrystalModel  # noqa: E402
from cgcnn_ase.nn.network import Network  # noqa: E402
from cgcnn_ase.targets import TargetSpec  # noqa: E402

from .labelled import SCHEME, TINY, oxide, oxides, small_formation_model  # noqa: E402

TARGET = "formation_energy_per_atom"
EXECUTABLE = str(Path(sys.executable).with_name("cgcnn-ase"))


@pytest.fixture(autouse=True)
def _profile(aiida_profile):
    return aiida_profile


@pytest.fixture
def code(aiida_code_installed):
    return aiida_code_installed(default_calc_job_plugin="cgcnn.train", filepath_executable=EXECUTABLE)


@pytest.fixture
def model(tmp_path):
    return DataFactory("cgcnn.model").get_or_create(save_model(small_formation_model(), tmp_path / "old"))


def node(atoms):
    return DataFactory("cgcnn.structures").from_ase(atoms.values(), list(atoms))


def inputs(atoms, settings=None, **others):
    found = {"structures": node(atoms), "target": orm.Str(TARGET), **others}
    return found | ({} if settings is None else {"settings": orm.Dict(settings)})


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
    assert metrics["trained_on"] == behind["structures"].uuid
    assert metrics["n_epochs"] == 2
    # the results are those of the model that came out
    table = results["test_results"]
    assert table.get_array("id").tolist() == list(test)
    assert np.allclose(table.get_array("target"), [a.info[TARGET] for a in test.values()])
    place = trained.export(tmp_path / "exported")
    expected = predict(place, list(test.values())).to_frame()["value"]
    assert np.allclose(table.get_array("prediction"), expected, rtol=1e-4, atol=1e-5)
    mae = np.abs(table.get_array("prediction") - table.get_array("target")).mean()
    assert metrics["test"]["mae"] == pytest.approx(mae)
    retrieved = results["retrieved"].base.repository
    assert {"learning_curve.png", "parity.png", "history.csv", "config.yaml"} <= set(retrieved.list_object_names("run"))


def test_few_labels_tune_a_model_and_it_stays_calibrated(code, model):
    settings = {"epochs": 2, "freeze": "convolutions", "select": "last", "engine": "torch", "name": "tuned-on-six",
                "test": 0.0}  # fmt: skip
    results, calculation = run(code, oxides(6), settings, model=model)
    assert calculation.is_finished_ok, calculation.exit_message
    assert results["model"].names == ["tuned-on-six"]
    metrics = results["metrics"].get_dict()
    assert (metrics["n_train"], metrics["n_val"], metrics["n_test"]) == (5, 1, 0)
    assert metrics["calibration"]["sha256"] == model.sha256
    assert metrics["calibration"]["std_factor"] >= 1.0
    assert "val.r2" in metrics["undefined"]
    assert (results["val_results"].get_array("std") > 0).all()
    assert "test_results" not in results


def test_one_of_several_models_of_a_node(code, tmp_path):
    base = small_formation_model(trust=False)
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


def test_the_same_again_is_taken_from_the_cache(code, model):
    settings = {"epochs": 1, "freeze": "convolutions", "engine": "torch"}
    _, first = run(code, oxides(6), settings, model=model)
    with enable_caching(identifier="aiida.calculations:cgcnn.train"):
        results, again = run(code, oxides(6), settings, model=model)
    assert again.base.caching.get_cache_source() == first.uuid
    assert results["model"].sha256 == first.outputs.model.sha256
