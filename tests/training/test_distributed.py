"""Several processes that train together do what one does; averages of weights; the record for TensorBoard."""

import numpy as np
import pytest
import torch

from cgcnn_ase.training.callbacks import read_history
from cgcnn_ase.training.member import best_network, train_member
from cgcnn_ase.training.module import EpochSampler


def errors_in(folder):
    return [float(row["val_error"]) for row in read_history(folder / "history.csv")]


@pytest.mark.parametrize("n_val", [pytest.param(40, marks=pytest.mark.slow), pytest.param(13, marks=pytest.mark.long)])
def test_two_processes_learn_what_one_does(make_data, tiny, tmp_path, n_val):
    """Their batches of 8 are one of 16; all val errors count once, also where the val batches do not divide evenly."""
    data = make_data(n_train=64, n_val=n_val)
    config = {"epochs": 2, "norm": "layer", "accelerator": "cpu", "dropout": 0.0}
    train_member(data, tiny(batch_size=16, **config), tmp_path / "one", progress=False)
    train_member(data, tiny(batch_size=8, devices=2, **config), tmp_path / "two", progress=False)
    assert errors_in(tmp_path / "two") == pytest.approx(errors_in(tmp_path / "one"), rel=1e-4)
    losses = [
        [float(row["train_loss"]) for row in read_history(tmp_path / name / "history.csv")] for name in ("one", "two")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    states = [best_network(data, tiny(**config), tmp_path / name).state_dict() for name in ("one", "two")]
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, atol=2e-4, rtol=1e-2, msg=name)


def test_processes_share_the_batches(monkeypatch):
    rows = np.arange(23)
    for seed, n_each in ((0, [2, 2]), (None, [3, 3])):
        seen = []
        for rank in (0, 1):
            monkeypatch.setattr("cgcnn_ase.training.module.process", lambda rank=rank: (rank, 2))
            sampler = EpochSampler(rows, 4, seed)
            batches = list(sampler)
            assert len(batches) == len(sampler) == n_each[rank]
            seen += [i for batch in batches for i in batch]
        assert len(set(seen)) == len(seen) == (16 if seed is not None else 23)


def test_several_nodes_need_a_launcher(data, tiny, tmp_path, monkeypatch):
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=r"2 nodes: start one process a device, with `srun`.*`torchrun`"):
        train_member(data, tiny(nodes=2), tmp_path, progress=False)


def test_stochastic_weight_average_is_the_mean_of_the_last_epochs(data, tiny, tmp_path):
    """Of epochs 2 and 3 of 4, from checkpoints of a training without averaging, whose steps are the same."""
    config = {"norm": "layer", "learning_rate": 1e-3}
    weights = []
    for stop in (3, 4):
        train_member(data, tiny(**config), tmp_path / f"{stop}", stop_after=stop, progress=False)
        weights.append(torch.load(tmp_path / f"{stop}" / "last.ckpt", weights_only=False)["state_dict"])
    train_member(data, tiny(swa_start=0.5, **config), tmp_path / "swa", progress=False)
    result = torch.load(tmp_path / "swa" / "last.ckpt", weights_only=False)["state_dict"]
    for name, tensor in result.items():
        torch.testing.assert_close(tensor, (weights[0][name] + weights[1][name]) / 2, atol=1e-6, rtol=1e-4, msg=name)


def test_averages_exclude_each_other(tiny):
    with pytest.raises(ValueError, match="by ema_decay or by swa_start, not by both"):
        tiny(ema_decay=0.9, swa_start=0.5)
    with pytest.raises(ValueError, match=r"swa_start must be a part of the training.*not 1\.5"):
        tiny(swa_start=1.5)


def test_the_record_for_tensorboard(data, tiny, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train_member(data, tiny(epochs=3, tensorboard=True), tmp_path, progress=False)
    (file,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    record = EventAccumulator(str(file)).Reload()
    assert [event.value for event in record.Scalars("val_error")] == pytest.approx(errors_in(tmp_path), rel=1e-6)
