"""One network: what decides its weights, what is kept, what is measured."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.prediction.evaluation import embeddings_of, outputs_of
from cgcnn_ase.training.callbacks import read_history
from cgcnn_ase.training.member import best_network, new_network, train_member, train_scalers
from cgcnn_ase.training.module import EpochSampler


@pytest.fixture(scope="module")
def run(data, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train_member(data, tiny(), folder, progress=False)
    return folder


def errors_in(folder):
    return [float(row["val_error"]) for row in read_history(folder / "history.csv")]


def test_same_seed_same_weights(data, tiny, run, tmp_path, differing):
    torch.rand(3)
    np.random.default_rng(1).random()
    train_member(data, tiny(), tmp_path, progress=False)
    assert not differing(run / "last.ckpt", tmp_path / "last.ckpt")


def test_other_seed_other_weights(data, tiny, run, tmp_path, differing):
    train_member(data, tiny(seed=1), tmp_path, progress=False)
    assert "network.head.out.weight" in differing(run / "last.ckpt", tmp_path / "last.ckpt")


def test_the_global_random_state_is_left_alone(data, tiny, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    train_member(data, tiny(epochs=1), tmp_path, progress=False)
    assert torch.equal(torch.rand(4), expected)


def test_batches_depend_on_seed_and_epoch_only():
    rows = np.arange(100, 150)

    def batches(seed, epoch, *, after=()):
        sampler = EpochSampler(rows, 8, seed)
        for k in after:
            sampler.set_epoch(k)
            list(sampler)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert batches(3, 2) == batches(3, 2, after=[0, 1])
    assert batches(3, 2) != batches(3, 1)
    assert batches(3, 2) != batches(4, 2)
    whole = batches(3, 2)
    assert {len(batch) for batch in whole} == {8}  # whole batches only
    assert len(whole) == 6
    drawn = [row for batch in whole for row in batch]
    assert len(set(drawn)) == 48
    assert set(drawn) <= set(rows.tolist())


def test_without_a_seed_batches_are_all_rows_in_order():
    assert list(EpochSampler(np.arange(5), 2, None)) == [[0, 1], [2, 3], [4]]


def test_fewer_rows_than_a_batch_make_one_batch():
    (batch,) = EpochSampler(np.arange(5), 64, 0)
    assert sorted(batch) == [0, 1, 2, 3, 4]


def test_each_epoch_of_a_training_is_shuffled_anew(data, tiny, tmp_path, monkeypatch):
    seen = []
    original = EpochSampler.__iter__

    def noting(self):
        for batch in original(self):
            if self.seed is not None:
                seen.append((self.epoch, tuple(batch)))
            yield batch

    monkeypatch.setattr(EpochSampler, "__iter__", noting)
    train_member(data, tiny(epochs=3), tmp_path, progress=False)
    epochs = {e: [batch for epoch, batch in seen if epoch == e] for e in range(3)}
    assert [len(batches) for batches in epochs.values()] == [6, 6, 6]
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_history(tiny, run):
    rows = read_history(run / "history.csv")
    assert [int(row["epoch"]) for row in rows] == list(range(tiny().epochs))
    for row in rows:
        assert all(np.isfinite(float(row[name])) for name in ("train_loss", "val_error", "learning_rate"))


def test_best_checkpoint_is_that_of_the_lowest_val_error(worse_every_epoch, tiny, tmp_path):
    data, config = worse_every_epoch, tiny(learning_rate=2e-2, norm="none")
    train_member(data, config, tmp_path, progress=False)
    errors = errors_in(tmp_path)
    best = torch.load(tmp_path / "best.ckpt", weights_only=False)
    assert best["epoch"] == int(np.argmin(errors)) < 3
    assert mae_of(data, config, tmp_path) == pytest.approx(min(errors), rel=1e-5)


def mae_of(data, config, folder):
    """By hand: one pass over the whole val split."""
    network = best_network(data, config, folder)
    model = CrystalModel([network], graph=data.graph_config, target=data.specs[0], scaler=train_scalers(data)[0])
    rows = data.rows("val")
    values = outputs_of(model, embeddings_of(model, data.graphs, rows, engine="torch")).values[0].double().numpy()
    return np.abs(values - data.targets[rows, 0]).mean()


def test_the_last_epoch_may_be_the_one_that_counts(worse_every_epoch, tiny, tmp_path):
    data, config = worse_every_epoch, tiny(learning_rate=2e-2, norm="none", checkpoint="last")
    train_member(data, config, tmp_path, progress=False)
    errors = errors_in(tmp_path)
    assert errors[-1] > min(errors)
    assert mae_of(data, config, tmp_path) == pytest.approx(errors[-1], rel=1e-5)


def test_val_error_is_that_of_the_whole_set(make_data, tiny, tmp_path):
    """Not a mean over batches: the last batch is smaller."""
    data = make_data(n_train=48, n_val=37)
    config = tiny(epochs=1, batch_size=16)
    train_member(data, config, tmp_path, progress=False)
    assert errors_in(tmp_path)[0] == pytest.approx(mae_of(data, config, tmp_path), rel=1e-5)


def test_scaler_and_weights_see_the_train_targets_only(data, tiny, run, tmp_path, differing):
    targets = np.where(data.split[:, None] == "train", data.targets, 100.0 - data.targets)
    other = replace(data, targets=targets)
    assert train_scalers(other) == train_scalers(data)
    assert train_scalers(data)[0].mean == pytest.approx(data.targets[data.rows("train")].mean())
    train_member(other, tiny(), tmp_path, progress=False)
    assert not differing(run / "last.ckpt", tmp_path / "last.ckpt")


def test_log10_targets_are_scaled_as_logarithms(data):
    moduli = replace(data, targets=10.0**data.targets, specs=(replace(data.specs[0], transform="log10"),))
    assert train_scalers(moduli)[0].mean == pytest.approx(train_scalers(data)[0].mean)
    assert train_scalers(moduli)[0].std == pytest.approx(train_scalers(data)[0].std)


def test_patience(worse_every_epoch, tiny, tmp_path):
    config = tiny(epochs=40, learning_rate=2e-2, norm="none", patience=2)
    train_member(worse_every_epoch, config, tmp_path, progress=False)
    errors = errors_in(tmp_path)
    assert len(errors) < 40
    assert len(errors) - 1 - int(np.argmin(errors)) == 2


def test_a_training_that_diverges_says_so(data, tiny, tmp_path):
    spoilt = replace(data, targets=np.where(data.split[:, None] == "train", 1e30 * data.targets, data.targets))
    with pytest.raises(ValueError, match=r"not a finite number.*lower learning_rate"):
        train_member(
            spoilt, tiny(norm="none", loss="mse", learning_rate=1e30, gradient_clip=None), tmp_path, progress=False
        )


@pytest.mark.parametrize("loss", ["l1", "huber", "mse"])
def test_losses(data, tiny, tmp_path, loss):
    train_member(data, tiny(loss=loss), tmp_path, progress=False)
    errors = errors_in(tmp_path)
    assert errors[-1] < errors[0]


@pytest.mark.parametrize("n_steps", [1, 2, 9, 10, 11, 20])
def test_the_schedule_of_few_steps(data, tiny, tmp_path, n_steps):
    train_member(data, tiny(epochs=n_steps, batch_size=96), tmp_path, progress=False)
    assert all(float(row["learning_rate"]) > 0 for row in read_history(tmp_path / "history.csv"))
    assert len(read_history(tmp_path / "history.csv")) == n_steps


def test_a_model_in_evaluation_is_trained_in_training(data, tiny, tmp_path):
    """Dropout and BatchNorm work, whatever state the network comes in."""
    network = new_network(data, tiny(dropout=0.5)).eval()
    before = network.state_dict()["architecture.convolutions.0.edge_norm.running_mean"].clone()
    train_member(data, tiny(epochs=1, dropout=0.5), tmp_path, network=network, progress=False)
    after = torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]
    assert not torch.equal(before, after["network.architecture.convolutions.0.edge_norm.running_mean"])
