"""A run that was stopped and resumed is the run that was never stopped, bit for bit."""

import os
import shutil
import signal
import subprocess
import sys
import time

import lightning.pytorch as pl
import pytest
import torch

from cgcnn_ase.training import callbacks as trainer_module
from cgcnn_ase.training.callbacks import read_history
from cgcnn_ase.training.member import train_member


class PowerCutError(Exception):
    """What a power cut is to a process, as near as one test comes."""


@pytest.mark.parametrize(
    "changes",
    [
        {"norm": "batch"},
        {"dropout": 0.4},
        {"ema_decay": 0.9, "dropout": 0.2},
        {"norm": "layer", "convolution": "edge-gated", "mean_variance": True, "patience": 3},
    ],
    ids=["batchnorm", "dropout", "ema", "edge-gated"],
)
def test_stopped_between_epochs(data, tiny, tmp_path, differing, changes):
    config = tiny(**changes)
    train_member(data, config, tmp_path / "whole", progress=False)
    train_member(data, config, tmp_path / "parts", progress=False, stop_after=1)
    assert len(read_history(tmp_path / "parts" / "history.csv")) == 1
    torch.rand(7)  # whatever else draws from the global generator changes nothing
    train_member(data, config, tmp_path / "parts", progress=False, resume=True, stop_after=3)
    assert len(read_history(tmp_path / "parts" / "history.csv")) == 3
    train_member(data, config, tmp_path / "parts", progress=False, resume=True)
    for name in ("last.ckpt", "best.ckpt"):
        assert not differing(tmp_path / "whole" / name, tmp_path / "parts" / name)
    assert (tmp_path / "whole" / "history.csv").read_text() == (tmp_path / "parts" / "history.csv").read_text()


def test_the_averaged_weights_are_saved_with_those_in_training(data, tiny, tmp_path):
    train_member(data, tiny(ema_decay=0.9, epochs=2), tmp_path, progress=False)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=False)
    name = "network.head.out.weight"
    assert not torch.equal(saved["state_dict"][name], saved["current_model_state"][name])


def test_stopped_in_the_middle_of_an_epoch(data, tiny, tmp_path, differing, monkeypatch):
    config = tiny(dropout=0.3)
    train_member(data, config, tmp_path / "whole", progress=False)

    class Interrupting(trainer_module.History):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
            if trainer.current_epoch == 2 and trainer.global_step % 6 == 3:
                raise PowerCutError

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module, "History", Interrupting)
        with pytest.raises(PowerCutError):
            train_member(data, config, tmp_path / "parts", progress=False)
    assert len(read_history(tmp_path / "parts" / "history.csv")) == 2
    train_member(data, config, tmp_path / "parts", progress=False, resume=True)
    for name in ("last.ckpt", "best.ckpt"):
        assert not differing(tmp_path / "whole" / name, tmp_path / "parts" / name)
    assert (tmp_path / "whole" / "history.csv").read_text() == (tmp_path / "parts" / "history.csv").read_text()


def test_the_folder_may_move_between_stop_and_resume(worse_every_epoch, tiny, tmp_path, differing):
    """The lowest val error so far goes with it; a later, worse epoch does not become the best."""
    data, config = worse_every_epoch, tiny(learning_rate=2e-2, norm="none")
    train_member(data, config, tmp_path / "whole", progress=False)
    errors = [float(row["val_error"]) for row in read_history(tmp_path / "whole" / "history.csv")]
    best = errors.index(min(errors))
    assert best < 3
    train_member(data, config, tmp_path / "here", progress=False, stop_after=best + 1)
    shutil.move(tmp_path / "here", tmp_path / "there")
    train_member(data, config, tmp_path / "there", progress=False, resume=True)
    assert not differing(tmp_path / "whole" / "best.ckpt", tmp_path / "there" / "best.ckpt")
    assert not differing(tmp_path / "whole" / "last.ckpt", tmp_path / "there" / "last.ckpt")


def test_what_has_stopped_by_patience_stays_stopped(worse_every_epoch, tiny, tmp_path):
    data, config = worse_every_epoch, tiny(epochs=30, learning_rate=2e-2, norm="none", patience=2)
    train_member(data, config, tmp_path, progress=False)
    before, history = (tmp_path / "last.ckpt").read_bytes(), (tmp_path / "history.csv").read_text()
    assert len(read_history(tmp_path / "history.csv")) < 30
    train_member(data, config, tmp_path, progress=False, resume=True)
    assert (tmp_path / "history.csv").read_text() == history
    assert (tmp_path / "last.ckpt").read_bytes() == before


def test_a_finished_member_is_left_as_it_is(data, tiny, tmp_path):
    train_member(data, tiny(epochs=2), tmp_path, progress=False)
    before = (tmp_path / "last.ckpt").read_bytes()
    train_member(data, tiny(epochs=2), tmp_path, progress=False, resume=True)
    assert (tmp_path / "last.ckpt").read_bytes() == before


@pytest.mark.long
def test_killed_and_resumed_through_the_command_line(make_data, tmp_path, differing, cgcnn_ase):
    make_data(n_train=128).save(tmp_path / "prepared")
    (tmp_path / "config.yaml").write_text(
        "epochs: 6\nbatch_size: 8\nengine: torch\n"
        "network: {n_features: 8, n_convolutions: 2, n_hidden: 8, n_gaussians: 8, dropout: 0.2}\n"
    )
    command = [
        sys.executable, "-m", "cgcnn_ase.training", "prepared", "--config", "config.yaml", "--output", "killed",
    ]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.DEVNULL)
    history = tmp_path / "killed" / "history.csv"
    while len(read_history(history)) < 2:
        assert killed.poll() is None
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert 2 <= len(read_history(history)) < 6
    train = ["train", tmp_path / "prepared", "--config", tmp_path / "config.yaml", "--output"]
    for ran in (cgcnn_ase(*train, tmp_path / "killed", "--resume"), cgcnn_ase(*train, tmp_path / "whole")):
        assert ran.code == 0, ran.err
    assert not differing(tmp_path / "whole" / "last.ckpt", tmp_path / "killed" / "last.ckpt")
    assert history.read_text() == (tmp_path / "whole" / "history.csv").read_text()
    assert (tmp_path / "killed" / "metrics.json").read_text() == (tmp_path / "whole" / "metrics.json").read_text()
