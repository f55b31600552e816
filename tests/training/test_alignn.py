"""An ALIGNN through training, a model folder, and prediction."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from cgcnn_ase import load_model
from cgcnn_ase.core.targets import Scaler, TargetSpec
from cgcnn_ase.data.graph_store import build_store
from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.graphs.crystal_graph import geometry
from cgcnn_ase.models.checkpoint import load_folder, save_model
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.models.folder import CheckpointError
from cgcnn_ase.nn.alignn import ALIGNNConfig
from cgcnn_ase.nn.network import Network, NetworkConfig
from cgcnn_ase.prediction.inference import ModelInference
from cgcnn_ase.prediction.predictor import Predictor
from cgcnn_ase.structures import StructureRecord
from cgcnn_ase.training.callbacks import read_history
from cgcnn_ase.training.run import train

GRAPH = GraphConfig(cutoff=5.0, n_neighbors=6, merge=True, line_graph=True)
NETWORK = ALIGNNConfig(n_features=12, n_alignn=1, n_gcn=1, n_distances=16, n_cosines=8, n_embedding=8, cutoff=5.0)
SPEC = TargetSpec(name="ionicity", unit="eV", per_atom=True)


@pytest.fixture(scope="module")
def with_lines(data, make_crystals):
    shapes = [geometry(atoms) for atoms in make_crystals(len(data.ids))[0]]
    return replace(data, graphs=build_store(shapes, GRAPH, workers=1), graph_config=GRAPH)


@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("engine", ["torch", "auto"])
def test_trains_saves_and_predicts(with_lines, make_crystals, tiny, tmp_path, norm, engine):
    network = replace(NETWORK, norm=norm)
    config = replace(tiny(epochs=3, engine=engine, learning_rate=1e-2), graph=GRAPH, network=network)
    best = train(with_lines, config, tmp_path / "run", progress=False)
    losses = [float(row["train_loss"]) for row in read_history(tmp_path / "run" / "history.csv")]
    assert losses[-1] < 0.8 * losses[0]
    model = load_model(best)
    assert model.networks[0].config.architecture == network
    crystals = make_crystals(len(with_lines.ids))[0]
    rows = with_lines.rows("test")
    predicted = Predictor(model, workers=1)([crystals[i] for i in rows]).to_frame()["value"]
    with torch.inference_mode():
        expected = model(with_lines.graphs.batch(rows), "torch").values.mean(dim=0)
    np.testing.assert_allclose(predicted, expected, atol=1e-5)


def model_of(network=NETWORK, graph=GRAPH):
    return CrystalModel([Network(NetworkConfig(architecture=network))], graph=graph, target=SPEC, scaler=Scaler(0, 1))


def test_a_folder_gives_back_what_was_saved(tmp_path, make_crystals):
    model = model_of()
    loaded = load_folder(save_model(model, tmp_path / "m"))
    assert loaded.networks[0].config == model.networks[0].config
    assert loaded.graph == GRAPH
    records = [StructureRecord(str(k), "", atoms, None) for k, atoms in enumerate(make_crystals(3)[0])]
    values = [[p.value for p in ModelInference([m])(records)] for m in (model, loaded)]
    assert values[0] == values[1]


def test_an_unknown_architecture_in_a_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("cgcnn_ase.models.checkpoint.asdict", lambda config: _renamed(config))
    save_model(model_of(), tmp_path / "m")
    with pytest.raises(CheckpointError, match="unknown architecture 'schnet'; allowed: cgcnn, alignn"):
        load_folder(tmp_path / "m")


def _renamed(config):
    from dataclasses import asdict

    return json.loads(json.dumps(asdict(config)).replace('"alignn"', '"schnet"'))


def test_networks_and_graphs_that_do_not_fit(tiny):
    with pytest.raises(ValueError, match="alignn reads bond angles: its graph needs line_graph=True"):
        model_of(graph=GraphConfig())
    with pytest.raises(ValueError, match="cgcnn reads no bond angles: it needs line_graph=False"):
        model_of(network=tiny().network)
    with pytest.raises(ValueError, match="needs line_graph=True"):
        replace(tiny(), network=NETWORK)
