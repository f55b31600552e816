"""From data and settings to a model: settings -> data -> members -> model -> report; and k-fold cross-validation."""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, cast

import numpy as np

from cgcnn_ase.core.arrays import Strings
from cgcnn_ase.core.files import atomic_path, atomic_write, check_replaceable, clear_folder
from cgcnn_ase.data.prepare import TaskName
from cgcnn_ase.data.prepared import SAMPLES, PreparedData
from cgcnn_ase.data.splits import composition_groups
from cgcnn_ase.energies.scales import scale_name
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.models.registry import load_model
from cgcnn_ase.training.config import TrainConfig
from cgcnn_ase.training.finetune_recipe import FILE, FitResult, Row, recipe_of
from cgcnn_ase.training.potential_run import finetune_potential
from cgcnn_ase.training.run import clear_run, train
from cgcnn_ase.training.run_data import DataLike, DataSource, SettingsFile, layer_settings, with_old
from cgcnn_ase.training.start_model import Frozen, can_reuse_head, new_head_warning

# names in a folder of prepared data
_PREPARED = ("meta.json", "*.npy", SAMPLES, "shard-*")


def fit(
    data: DataLike,
    output: str | Path,
    *,
    start: str | Path | CrystalModel | None = None,
    target: str | Sequence[str] = (),
    task: TaskName = "regression",
    unit: str = "",
    scale: str | None = None,
    config: Path | None = None,
    preset: str | None = None,
    settings: Mapping[str, object] | None = None,
    freeze: Frozen | None = None,
    epochs_factor: float = 1.0,
    replay: DataLike | None = None,
    n_replay: int | None = None,
    val: float | None = None,
    test: float | None = None,
    k_fold: int | None = None,
    name: str = "",
    workers: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> FitResult:
    """Train a model on labelled structures, or tune the model ``start``.

    Beside the parameters of :func:`cgcnn_ase.training.finetune.finetune` there are ``preset``, the name of an
    architecture, and ``k_fold``, so many folds to cross-validate with; without ``start`` those of replay, ``freeze``
    and ``epochs_factor`` have no meaning. Errors are as there.
    """
    output, model = Path(output), load_model(start) if isinstance(start, str | Path) else start
    if model is not None and model.is_potential:
        vain = {
            "target": target, "unit": unit, "scale": scale, "config": config, "preset": preset, "freeze": freeze,
            "k_fold": k_fold, "workers": workers > 1,
        }  # fmt: skip
        return finetune_potential(
            model, data, output, vain=vain, settings=settings, epochs_factor=epochs_factor, replay=replay,
            n_replay=n_replay, val=val, test=test, name=name, resume=resume, overwrite=overwrite, progress=progress,
            tell=tell,
        )  # fmt: skip
    if replay is None and n_replay is not None:
        raise ValueError("--n-replay says how many of --replay; give its data, too")
    if replay is not None and k_fold is not None:
        raise ValueError("--replay and --k-fold do not go together: old data would be tested on")
    if replay is not None and model is None:
        raise ValueError("--replay is of fine-tuning; give the model with --from")
    file = SettingsFile.read(config, tell)
    parts = [option for option, value in (("val", val), ("test", test)) if value is not None]
    val, test = file.parts(val, test)
    source = DataSource(data, target, task, unit, val=val, test=test, model=model, parts=parts)
    layers = layer_settings(source, file, dict(settings or {}), model, preset=preset)
    run = layers.config()
    if workers > 1 and run.n_members == 1 and not run.cross_fit_folds:
        raise ValueError(
            f"--workers {workers} has no effect here: it belongs to several --members or cross_fit_folds, which can be "
            "trained at the same time; this is one network"
        )
    new = all_data = _on_scale(source.load(run.graph, progress=progress), scale)
    frozen: Frozen = freeze or "none"
    if model is not None:
        if not can_reuse_head(model, new.specs):
            warnings.warn(new_head_warning(model, new.specs), stacklevel=2)
        elif source.columns and source.columns[0].partition(":")[0] != model.target.name:
            tell(f"{source.columns[0]} is learned as {model.target.name} ({model.target.unit}), the model's target")
        if replay is not None:
            all_data = with_old(new, replay, source.columns, model, n=n_replay, seed=run.seed, progress=progress)
        n_replayed = len(all_data.rows("train")) - len(new.rows("train"))
        recipe = recipe_of(model, new, n_replayed=n_replayed, epochs_factor=epochs_factor)
        frozen, run = freeze or recipe.frozen, layers.config(recipe.settings)
    counts = {split: len(all_data.rows(split)) for split in ("train", "val", "test")}
    tell(f"{sum(counts.values())} structures: " + ", ".join(f"{n} {split}" for split, n in counts.items()))
    if k_fold is not None:
        summary = cross_validate(
            all_data, run, output, k_fold,
            resume=resume, overwrite=overwrite, start=model, frozen=frozen, workers=workers, progress=progress,
        )  # fmt: skip
        return FitResult(output, all_data.specs, summary, [])
    best = train(
        all_data, run, output,
        resume=resume, overwrite=overwrite, start=model, frozen=frozen, workers=workers, name=name, progress=progress,
    )  # fmt: skip
    return FitResult(best, all_data.specs, _read(output / "metrics.json", {}), _read(output / FILE, []))


def _on_scale(data: PreparedData, scale: str | None) -> PreparedData:
    """Data whose energies are stated to be on a scale; a ValueError where they say another, or there are none."""
    if scale is None:
        return data
    if data.scale not in (None, scale_name(scale)):
        raise ValueError(f"--scale {scale}: the labels say that they are on the scale {data.scale}")
    if not any(target.is_energy for target in data.specs):
        names = ", ".join(target.name for target in data.specs)
        raise ValueError(f"--scale {scale}: is of energies in eV or eV/atom, and the labels are {names}")
    return replace(data, scale=scale)


def prepare_parts(
    parts: Sequence[Path],
    output: Path,
    *,
    target: Sequence[str] = (),
    task: TaskName = "regression",
    unit: str = "",
    config: Path | None = None,
    preset: str | None = None,
    val: float | None = None,
    test: float | None = None,
    overwrite: bool = False,
    progress: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> None:
    """Build all graphs of a data set and write them; of several parts each is a shard, and one is in memory at a time.

    The options are those of :func:`fit`. A shard that is there already is kept; a folder with other files is an error.
    With ``overwrite`` prepared data in the folder are removed, once the first part is read.
    """
    several = len(parts) > 1
    paths = [output / f"shard-{k:04d}" for k in range(len(parts))] if several else [output]
    if overwrite:
        check_replaceable(output, _PREPARED, marks=["meta.json", "shard-*"], what="prepared data")
    elif output.exists() and any(path not in paths and path.name[0] != "." for path in output.iterdir()):
        raise ValueError(f"{output}: is not empty; name another folder, or add --overwrite")
    file = SettingsFile.read(config, tell)
    asked = [option for option, value in (("val", val), ("test", test)) if value is not None]
    val, test = file.parts(val, test)
    for part, path in zip(parts, paths, strict=True):
        if (path / "meta.json").exists() and not overwrite:
            continue
        source = DataSource(part, target, task, unit, val=val, test=test, is_part=several, parts=asked)
        data = source.load(layer_settings(source, file, {}, preset=preset).config().graph, progress=progress)
        if overwrite and path == paths[0]:
            clear_folder(output)
        with atomic_path(path) as tmp:
            data.save(tmp)
        tell(f"{len(data.ids)} structures in {path}")


J = TypeVar("J", dict[str, object], list[Row])


def _read(file: Path, default: J) -> J:
    """Read what a run has written; the default where its members are still to be assembled."""
    return cast("J", json.loads(file.read_text())) if file.exists() else default


# figures of the test splits that are averaged
_FIGURES = ("mae", "rmse", "r2", "auc", "accuracy", "f1", "coverage", "spearman")


def cross_validate(
    data: PreparedData,
    config: TrainConfig,
    output: Path,
    k: int,
    *,
    resume: bool = False,
    overwrite: bool = False,
    start: "CrystalModel | None" = None,
    frozen: Frozen = "none",
    workers: int = 1,
    progress: bool = True,
) -> dict[str, object]:
    """Train k models, each tested on the k-th part of the data that neither it nor its choice of epoch has seen.

    Structures of one composition are in one fold; fold i is the test split of run i, fold i + 1 its val. Options are as
    in :func:`cgcnn_ase.training.run.train`; ``output`` gets ``fold-0`` to ``fold-{k-1}``, a run each, and
    ``cross_validation.json``: mean and standard deviation over the folds of each figure, with several targets by
    target.
    """
    splits = k_splits(data, k, seed=config.seed)
    if overwrite:
        clear_run(output)
    result = []
    for i, split in enumerate(splits):
        train(
            replace(data, split=split), config, output / f"fold-{i}",
            resume=resume, start=start, frozen=frozen, workers=workers, progress=progress,
        )  # fmt: skip
        result.append(json.loads((output / f"fold-{i}" / "metrics.json").read_text()))
    summary: dict[str, object]
    names = [target.name for target in data.specs]
    if len(names) == 1:
        summary = _mean_over_folds([fold["test"] for fold in result])
    else:
        summary = {name: _mean_over_folds([fold[name]["test"] for fold in result]) for name in names}
    atomic_write(output / "cross_validation.json", json.dumps({"k": k, **summary}, indent=1) + "\n")
    return summary


def k_splits(data: PreparedData, k: int, *, seed: int) -> list[Strings]:
    """The split of each of k trainings; raises as :func:`cross_validate` does."""
    group = composition_groups(data.graphs, np.arange(len(data.ids)))
    n_groups = int(group.max()) + 1
    if not 3 <= k <= n_groups:
        raise ValueError(f"k must lie between 3 and the number of compositions, {n_groups}; got {k}")
    fold = (np.random.default_rng(seed).permutation(n_groups) % k)[group]
    return [np.where(fold == i, "test", np.where(fold == (i + 1) % k, "val", "train")) for i in range(k)]


def _mean_over_folds(folds: list[dict[str, float | None]]) -> dict[str, object]:
    result: dict[str, object] = {}
    for name in _FIGURES:
        values = [value for fold in folds if (value := fold.get(name)) is not None]
        if len(values) == len(folds):
            result[name] = {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)), "folds": values}
    return result
