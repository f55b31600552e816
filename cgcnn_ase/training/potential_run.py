"""A run that trains or tunes a potential: settings, training, calibration, metrics, all in one folder."""

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cgcnn_ase.core.environment import ENVIRONMENT, write_environment
from cgcnn_ase.core.files import atomic_write
from cgcnn_ase.core.settings import parse_settings
from cgcnn_ase.core.yaml_settings import CONFIG, check_run_folder
from cgcnn_ase.data.dataset import hash_of_samples
from cgcnn_ase.data.frames import (
    MAX_ENERGY,
    MAX_FORCE,
    SCALE,
    Frames,
    join,
    read_frames,
    with_splits,
    without_absurd,
)
from cgcnn_ase.models.checkpoint import save_model
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.nn.smooth import SmoothCGCNNConfig
from cgcnn_ase.potential.evaluation import calibrate_potential, evaluate_frames
from cgcnn_ase.training.callbacks import HISTORY, device_of
from cgcnn_ase.training.config import TrainConfig
from cgcnn_ase.training.finetune_recipe import FitResult
from cgcnn_ase.training.potential import TARGET, FrameLoss, train_potential
from cgcnn_ase.training.run import clear_run

# of a fine-tuning: epochs by the number of frames, so that about as many steps are made
_STEPS, _MIN_EPOCHS, _MAX_EPOCHS = 1500, 3, 60
_MIN_REPLAY = 200


def potential_config(network: SmoothCGCNNConfig, **settings: object) -> TrainConfig:
    """Settings of a training of a potential; by keyword those that differ from the defaults."""
    defaults: dict[str, object] = {
        "epochs": 50, "batch_size": 8, "learning_rate": 3e-3, "weight_decay": 1e-4, "ema_decay": 0.999,
        "checkpoint": "last", "engine": "torch", "accelerator": "cpu",
    }  # fmt: skip
    graph = {"rule": "radius", "cutoff": network.cutoff, "vectors": True}
    return parse_settings(TrainConfig, defaults | {"graph": graph, "network": asdict(network)} | settings)


def finetune_settings(n_frames: int, epochs_factor: float = 1.0) -> dict[str, object]:
    """The recipe of fine-tuning by the number of frames: about 1,500 steps, at a tenth of the learning rate."""
    epochs = np.clip(epochs_factor * _STEPS * 4 / max(n_frames, 1), _MIN_EPOCHS, _MAX_EPOCHS)
    steps = max(1.0, float(epochs) * n_frames / 4)
    return {
        "epochs": int(np.ceil(epochs)), "batch_size": 4, "learning_rate": 3e-4,
        "ema_decay": float(np.clip(1.0 - 10.0 / steps, 0.5, 0.999)),
    }  # fmt: skip


def fit_potential(
    frames: Frames,
    output: Path,
    *,
    start: CrystalModel | None = None,
    config: TrainConfig | None = None,
    settings: Mapping[str, object] | None = None,
    loss: FrameLoss | None = None,
    replay: Frames | None = None,
    n_replay: int | None = None,
    epochs_factor: float = 1.0,
    val: float = 0.1,
    test: float = 0.1,
    max_force: float = MAX_FORCE,
    max_energy: float = MAX_ENERGY,
    name: str = "",
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> FitResult:
    """Train a potential on frames, or tune ``start`` on them, and write ``output/best`` with its calibration.

    Parameters
    ----------
    frames
        See :func:`cgcnn_ase.data.frames.read_frames`. Where they have no splits, they are divided by formula.
    start
        A potential whose weights, element energies and sizes training begins with.
    config, settings
        All settings, or those by name that differ from the recipe's.
    replay, n_replay
        Frames that ``start`` has learned, and how many of them to learn beside, at random; by default as many as there
        are new ones, at least 200.
    val, test
        Parts of frames that come without splits.
    max_force, max_energy
        See :func:`cgcnn_ase.data.frames.without_absurd`.

    Raises
    ------
    ValueError
        If the frames are on another scale than ``start``, or a split is empty.
    """
    if start is not None and (scale := start.training_record.get("scale", SCALE)) != frames.scale:
        raise ValueError(f"the frames are on the scale {frames.scale}, {start.name} is on {scale}: they never mix")
    frames, dropped = without_absurd(
        with_splits(frames, val=val, test=test), max_force=max_force, max_energy=max_energy
    )
    for reason, n in dropped.items():
        tell(f"{n} frames are left out: {reason}")
    together = frames if replay is None else join(frames, _replayed(replay, frames, n_replay))
    counts = {split: len(together.of_split(split)) for split in ("train", "val", "test")}
    tell(f"{len(together)} frames: " + ", ".join(f"{n} {split}" for split, n in counts.items()))
    if config is None:
        network = SmoothCGCNNConfig() if start is None else start.networks[0].config.architecture
        assert isinstance(network, SmoothCGCNNConfig)
        recipe = {} if start is None else finetune_settings(counts["train"], epochs_factor)
        config = potential_config(network, **(recipe | dict(settings or {})))
    loss = loss or FrameLoss()
    if overwrite:
        clear_run(output)
    record = {"train": asdict(config), "loss": asdict(loss), "frames": _hash(together.of_split("train"))} | (
        {} if start is None else {"from": {"model": start.name, "sha256": start.sha256}}
    )
    check_run_folder(output, record, run="a training run", resume=resume)
    output.mkdir(parents=True, exist_ok=True)
    atomic_write(output / CONFIG, yaml.safe_dump(record, sort_keys=False))
    write_environment(output / ENVIRONMENT, engine="torch", device=device_of(config), seeds={"seed": config.seed})
    before = None if start is None or not counts["val"] else evaluate_frames(start, frames.of_split("val")).metrics()
    model = train_potential(together, config, output, loss=loss, start=start, resume=resume, progress=progress)
    run: dict[str, object] = {"recipe": asdict(config), "loss": asdict(loss), "dropped": dropped}
    run |= {} if start is None else {"from": record["from"]}
    metrics = assemble_potential(model, frames, output, train=together, name=name, record=run)
    if before is not None:
        metrics["before"] = {"val": before}
    atomic_write(output / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    tell(f"val: {_in_words(metrics['val'])}; {output / HISTORY} has every epoch")
    return FitResult(output / "best", (TARGET,), metrics, [])


def assemble_potential(
    model: CrystalModel,
    frames: Frames,
    output: Path,
    *,
    train: Frames | None = None,
    name: str = "",
    record: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """Calibrate a trained potential on val, measure it, and write ``output/best``; return the metrics by split.

    ``train`` are the frames that it has learned, where they are more than the train split of ``frames``; ``record``
    goes into the model's own.
    """
    learned = (train or frames).of_split("train")
    try:
        calibrate_potential(model, learned, frames.of_split("val"))
    except ValueError as error:
        warnings.warn(f"the energy is not calibrated: {error}; it has no interval and no domain", stacklevel=3)
    metrics: dict[str, object] = {
        split: evaluate_frames(model, part).metrics()
        for split in ("val", "test")
        if len(part := frames.of_split(split))
    }
    model.name = name or output.resolve().name
    model.training_record = {
        "train_hash": _hash(learned),
        "scale": frames.scale,
        "n_train": len(learned),
        **{f"n_{split}": len(frames.of_split(split)) for split in ("val", "test")},
        **(record or {}),
        **metrics,
    }
    save_model(model, output / "best")
    return metrics


def finetune_potential(
    model: CrystalModel,
    data: object,
    output: str | Path,
    *,
    vain: Mapping[str, object],
    replay: object = None,
    val: float | None = None,
    test: float | None = None,
    **options: Any,
) -> FitResult:
    """As :func:`cgcnn_ase.training.finetune.finetune`, of a potential; ``vain`` are options that have no effect here.

    ``data`` and ``replay`` are what :func:`cgcnn_ase.data.frames.read_frames` reads.
    """
    if useless := [name for name, value in vain.items() if value]:
        raise ValueError(f"{', '.join(useless)}: of no effect for a potential, which learns energy, forces and stress")
    return fit_potential(
        read_frames(data),  # type: ignore[arg-type]
        Path(output),
        start=model,
        replay=None if replay is None else read_frames(replay),  # type: ignore[arg-type]
        val=0.1 if val is None else val,
        test=0.1 if test is None else test,
        **options,
    )


def _replayed(old: Frames, new: Frames, n: int | None) -> Frames:
    """Frames of the training split of earlier data, at random, all to train on."""
    known = old.of_split("train") if (old.split == "train").any() else old
    n = max(len(new.of_split("train")), _MIN_REPLAY) if n is None else n
    rows = np.random.default_rng(0).permutation(len(known))[:n]
    part = known.take(np.sort(rows))
    return replace(part, split=np.full(len(part), "train"))


def _hash(frames: Frames) -> str:
    """sha256 of the ids and energies of frames."""
    return hash_of_samples([str(each) for each in frames.ids], frames.energies[:, None])


def _in_words(metrics: object) -> str:
    assert isinstance(metrics, dict)
    stress = "" if metrics["stress_mae"] is None else f", {metrics['stress_mae']:.2g} GPa"
    return f"{1000 * metrics['mae']:.1f} meV/atom, {metrics['forces_mae']:.3f} eV/Å{stress} (mean errors)"
