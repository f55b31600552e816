"""Fine-tuning: what is copied, what stays, what is refitted, and that it pays."""

from dataclasses import replace

import pytest
import torch

from cgcnn_ase import load_model
from cgcnn_ase.data.graph_store import build_store
from cgcnn_ase.graphs.crystal_graph import geometry
from cgcnn_ase.training.callbacks import read_history
from cgcnn_ase.training.member import train_member, train_scalers
from cgcnn_ase.training.run import train
from cgcnn_ase.training.start_model import finetune_member

FIXED = {
    "none": (),
    "embedding": ("architecture.embedding.", "architecture.edge_embedding."),
    "convolutions": ("architecture.embedding.", "architecture.edge_embedding.", "architecture.convolutions."),
}


@pytest.fixture(scope="module")
def trained(make_data, tiny, tmp_path_factory):
    """A model of much data, with BatchNorm."""
    folder = tmp_path_factory.mktemp("trained") / "base"
    train(make_data(n_train=256, seed=5), tiny(epochs=12, learning_rate=1e-2), folder, progress=False)
    return load_model(folder)


@pytest.mark.parametrize("frozen", FIXED)
def test_frozen_layers_stay_bit_for_bit_and_the_others_change(data, tiny, trained, tmp_path, frozen):
    """Weights and running statistics, also where the training was resumed."""
    network = finetune_member(trained, 0, frozen)
    train_member(data, tiny(epochs=2), tmp_path, network=network, progress=False, stop_after=1)
    network = finetune_member(trained, 0, frozen)
    train_member(data, tiny(epochs=2), tmp_path, network=network, progress=False, resume=True)
    before = trained.networks[0].state_dict()
    after = torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]
    for name, old in before.items():
        same = torch.equal(old, after[f"network.{name}"])
        assert same == name.startswith(FIXED[frozen] or "nothing"), name


def test_the_model_itself_is_left_alone(data, tiny, trained, tmp_path):
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    train(data, tiny(epochs=1), tmp_path / "run", start=trained, frozen="embedding", progress=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.state_dict().items())
    assert all(parameter.requires_grad for parameter in trained.parameters())


@pytest.mark.slow
def test_frozen_layers_stay_in_worker_processes_too(data, tiny, trained, tmp_path):
    config = tiny(epochs=1, n_members=2)
    train(data, config, tmp_path / "run", start=trained, frozen="convolutions", workers=2, progress=False)
    before = trained.networks[0].state_dict()
    for network in load_model(tmp_path / "run").networks:
        for name, tensor in network.state_dict().items():
            if name.startswith(FIXED["convolutions"]):
                assert torch.equal(tensor, before[name]), name


@pytest.mark.slow
def test_same_target_keeps_the_scaler_and_another_refits_it(data, tiny, trained, tmp_path):
    train(data, tiny(epochs=1), tmp_path / "same", start=trained, progress=False)
    assert load_model(tmp_path / "same").scaler == trained.scaler
    other = replace(data, specs=(replace(data.specs[0], name="something_else"),))
    train(other, tiny(epochs=1), tmp_path / "other", start=trained, progress=False)
    assert load_model(tmp_path / "other").scaler == train_scalers(data)[0] != trained.scaler


def test_unknown_layers(trained):
    with pytest.raises(ValueError, match="unknown layers 'head' to freeze; allowed: none, embedding, convolutions"):
        finetune_member(trained, 0, "head")


def test_settings_that_do_not_fit_the_model_are_refused(data, tiny, trained, tmp_path):
    with pytest.raises(ValueError, match=r"the model to tune has .*n_features=8.*ask for .*n_features=12"):
        train(data, tiny(n_features=12), tmp_path / "run", start=trained)
    assert not (tmp_path / "run").exists()


def test_resuming_from_another_model_is_refused(data, tiny, trained, tmp_path):
    train(data, tiny(epochs=1), tmp_path / "run", start=trained, progress=False)
    with pytest.raises(ValueError, match="other settings"):
        train(data, tiny(epochs=1), tmp_path / "run", resume=True)
    with pytest.raises(ValueError, match="other settings"):
        train(data, tiny(epochs=1), tmp_path / "run", start=trained, frozen="embedding", resume=True)


def test_it_pays_where_data_are_few(make_data, tiny, trained, tmp_path):
    few = make_data(n_train=16, n_val=48, seed=9)
    config = tiny(epochs=10, batch_size=8)
    errors = {}
    for name, network in {"scratch": None, "tuned": finetune_member(trained, 0)}.items():
        scalers = [trained.scaler] if network is not None else None
        train_member(few, config, tmp_path / name, network=network, scalers=scalers, progress=False)
        errors[name] = min(float(row["val_error"]) for row in read_history(tmp_path / name / "history.csv"))
    assert errors["tuned"] < 0.6 * errors["scratch"]


def test_an_original_checkpoint(make_data, make_crystals, original_weights, tiny, tmp_path):
    """With the original graph; its BatchNorm statistics stay where they are frozen."""
    model = load_model(original_weights / "formation-energy-per-atom.pth.tar")
    structures, _ = make_crystals(40)
    data = replace(
        make_data(n_train=16, n_val=20, n_test=4),
        graphs=build_store([geometry(atoms) for atoms in structures], model.graph, workers=1),
        graph_config=model.graph,
        specs=(model.target,),
    )
    config = replace(tiny(epochs=1), graph=model.graph, network=model.networks[0].config.architecture)
    train(data, config, tmp_path / "run", start=model, frozen="convolutions", progress=False)
    tuned = load_model(tmp_path / "run")
    assert tuned.scaler == model.scaler
    after = tuned.networks[0].state_dict()
    for name, old in model.networks[0].state_dict().items():
        assert torch.equal(old, after[name]) == name.startswith(FIXED["convolutions"]), name
