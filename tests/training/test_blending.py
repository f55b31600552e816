"""Weights between a model and one tuned from it, as far as the held-out labels ask for."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from cgcnn_ase.core.targets import Scaler
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.nn.network import Network, NetworkConfig
from cgcnn_ase.prediction.evaluation import evaluate_model
from cgcnn_ase.training.assemble import STEPS, blend
from cgcnn_ase.training.run import train


@pytest.fixture
def start(data, tiny):
    torch.manual_seed(0)
    members = [Network(NetworkConfig(architecture=tiny().network)).eval() for _ in range(2)]
    return CrystalModel(members, graph=data.graph_config, target=data.specs[0], scaler=Scaler(-1.0, 2.0), name="old")


def moved(start, seed):
    """Members with other weights."""
    torch.manual_seed(seed)
    networks = [copy.deepcopy(network) for network in start.networks]
    with torch.no_grad():
        for network in networks:
            for parameter in network.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
    return networks


def between(start, networks, part):
    members = [copy.deepcopy(network) for network in networks]
    with torch.no_grad():
        for member, old in zip(members, start.networks, strict=True):
            for parameter, before in zip(member.parameters(), old.parameters(), strict=True):
                parameter.copy_((1 - part) * before + part * parameter)
    return CrystalModel(members, graph=start.graph, target=start.target, scaler=start.scaler)


def labelled_by(model, data):
    """The data with the predictions of a model for labels."""
    rows = np.arange(len(data.ids))
    evaluation = evaluate_model(model, data.graphs, rows, data.ids, data.targets[:, 0])
    return replace(data, targets=evaluation.mean[:, None])


@pytest.mark.parametrize("part", STEPS)
def test_it_finds_where_the_labels_are_from(data, start, part):
    """Labels made by a model part of the way there."""
    networks = moved(start, 1)
    wanted = between(start, networks, part)
    result, report = blend(networks, start, labelled_by(wanted, data))
    assert report.part == part
    assert report.val_errors[part] == min(report.val_errors.values()) < 1e-5
    for network, expected in zip(result, wanted.networks, strict=True):
        for a, b in zip(network.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(a, b)


def test_the_errors_are_those_of_the_models_between(data, start):
    networks = moved(start, 2)
    models = {part: between(start, networks, part) for part in STEPS}
    _, report = blend(networks, start, data)
    rows = data.rows("val")
    for part, model in models.items():
        result = evaluate_model(model, data.graphs, rows, [data.ids[i] for i in rows], data.labels("val")[:, 0])
        assert report.val_errors[part] == pytest.approx(result.metrics()["mae"], rel=1e-5)


def test_too_few_labels_take_all_of_the_way(data, start):
    networks = moved(start, 3)
    expected = copy.deepcopy(networks[0].state_dict())
    rows = data.rows("val")[:9]
    few = replace(data, split=np.where(np.isin(np.arange(len(data.ids)), rows), "val", "train"))
    result, report = blend(networks, start, few)
    assert report is None
    assert all(torch.equal(w, expected[name]) for name, w in result[0].state_dict().items())


def test_a_tuning_that_brings_nothing_leaves_the_model_as_it_was(data, start, tiny, tmp_path):
    """The old model is right, and a learning rate that is far too high spoils it."""
    labels = labelled_by(start, data)
    config = replace(tiny(), n_members=2, learning_rate=1.0, mean_variance=False, checkpoint="last", epochs=1)
    best = train(labels, config, tmp_path / "run", start=start, progress=False)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["blend"]["part"] == 0.0
    (row,) = json.loads((tmp_path / "run" / "before_after.json").read_text())
    assert row["after"]["mae"] == pytest.approx(row["before"]["mae"], abs=1e-5)
    assert best.is_dir()
