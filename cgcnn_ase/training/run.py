"""A whole training run: the members, the calibrated model, its metrics and pictures, in one folder."""

import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import yaml

from cgcnn_ase.core.arrays import Strings
from cgcnn_ase.core.environment import ENVIRONMENT, write_environment
from cgcnn_ase.core.files import atomic_write, check_replaceable, clear_folder
from cgcnn_ase.core.parallel import KEEP_MEMORY, available_cores
from cgcnn_ase.core.targets import TargetSpec
from cgcnn_ase.core.yaml_settings import CONFIG, check_run_folder
from cgcnn_ase.data.prepared import PreparedData, join
from cgcnn_ase.data.splits import write_run_split
from cgcnn_ase.nn.messages import resolved_engine
from cgcnn_ase.training.callbacks import check_devices, device_of
from cgcnn_ase.training.config import TrainConfig, check_targets
from cgcnn_ase.training.member import fold_config, fold_splits, network_config, train_member, train_scalers
from cgcnn_ase.training.start_model import Frozen, can_reuse_head, check_start, config_for_target, finetune_member

if TYPE_CHECKING:
    from cgcnn_ase.models.crystal_model import CrystalModel

# more of the same for training, whose tensors are larger
_MALLOC = KEEP_MEMORY | {
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}

# names in the folder of a run or of a cross-validation, and those that only it has
_RUN_FILES = (
    CONFIG, "split.csv", ENVIRONMENT, "metrics.json", "before_after.json", "cross_validation.json", "history.csv",
    "*_results.csv", "*.png", "*.ckpt", "finished", "best", "member-*", "fold-*", "tensorboard",
)  # fmt: skip
_RUN_MARKS = ("split.csv", "last.ckpt", "cross_validation.json", "fold-*")

# what assembling a model needs beyond what training needs, as it is imported and as it is installed
_TO_ASSEMBLE = {"pydantic": "pydantic", "safetensors": "safetensors", "scipy": "scipy", "sklearn": "scikit-learn"}


def train(
    data: PreparedData,
    config: TrainConfig,
    output: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    start: "CrystalModel | Sequence[CrystalModel] | None" = None,
    frozen: Frozen = "none",
    beside: PreparedData | None = None,
    folds_of: Path | None = None,
    workers: int = 1,
    name: str = "",
    suffix: str = "",
    progress: bool = True,
) -> Path:
    """Train ``config.n_members`` networks and assemble them; return the folder of the calibrated model.

    The training itself needs no more than torch, numpy, pandas and lightning. Where that is all there is, the members
    are left to be assembled elsewhere, with a warning that says how, and the run's folder is returned.

    Parameters
    ----------
    data
        With train and val rows; test rows are evaluated once, at the end.
    output
        The run's folder, empty but for a run to resume: ``config.yaml``, ``split.csv``, ``last.ckpt`` (of each member,
        in ``member-k`` if there are several), ``best/``, ``metrics.json``, ``test_results.csv``, ``parity.png``,
        ``learning_curve.png``, and of a fine-tuning ``before_after.json`` (see
        :func:`~cgcnn_ase.training.finetune_recipe.write_before_after`).
    resume
        Go on where an earlier call with the same arguments was stopped; start if there was none.
    overwrite
        Remove an earlier run in the folder; a ValueError if it holds anything else.
    start, frozen
        Fine-tune this model's members instead of new ones, with some layers fixed; of several models in turn, which
        makes an ensemble more diverse.
    beside
        More structures that the members learn, unlike those that the model is for: the domain, the error model, the
        calibration and the metrics know ``data`` alone. The weights of a model to tune are then left behind entirely
        (see :func:`~cgcnn_ase.training.assemble.blend`), as val does not tell what was learned.
    folds_of
        Folder of another run on the same data whose networks of the folds are taken, instead of training them.
    name, suffix
        Of the model; those of several targets have each its target's name, with the suffix.
    workers
        Members that train at the same time, each in a process of its own with its share of the cores.
    """
    starts = [] if start is None else list(start) if isinstance(start, Sequence) else [start]
    _check(data, config, starts, workers)
    if any(start.training_record.get("labels_converged") is False for start in starts):
        data = replace(data, labels_converged=False)  # the mark stays on what is tuned from a marked model
    goes_on = len(starts) == 1 and can_reuse_head(starts[0], data.specs)
    if goes_on and data.scale is None:
        data = replace(data, scale=starts[0].scale)  # labels that state no scale are on that of the model
    scalers = [starts[0].scaler] if goes_on else None if beside is None else train_scalers(data)
    members = [output] if config.n_members == 1 else [output / f"member-{k}" for k in range(config.n_members)]
    folds = [(folds_of or output) / f"fold-{k}" for k in range(config.cross_fit_folds)]
    splits = fold_splits(data, config.cross_fit_folds, seed=config.seed) if folds else []

    learned = data if beside is None else join([data, beside])

    def job(folder: Path, split: Strings, member: TrainConfig, k: int, other: str = "train") -> _Job:
        network = None
        if starts:
            turn, origin = divmod(k, len(starts))
            head = None if goes_on else network_config(data, config)
            network = finetune_member(starts[origin], turn, frozen, config=head, seed=member.seed)
        run = partial(train_member, config=member, folder=folder, network=network, scalers=scalers)
        split = np.concatenate([split, np.full(len(learned.ids) - len(data.ids), other)])
        return _Job(folder, split, resume, partial(run, resume=resume, progress=progress))

    jobs = [job(f, data.split, replace(config, seed=config.seed + k), k) for k, f in enumerate(members)]
    if folds_of is None:
        jobs += [job(f, splits[k], fold_config(config, k), k, "none") for k, f in enumerate(folds)]
    settings = _settings(data, config, starts, frozen, beside)
    if overwrite:
        clear_run(output)
    check_run_folder(output, yaml.safe_load(settings), run="a training run", resume=resume)
    output.mkdir(parents=True, exist_ok=True)
    atomic_write(output / CONFIG, settings)
    write_run_split(output, data.ids, data.split, data.graphs)
    device = device_of(config)
    engine = resolved_engine("torch" if config.compile else config.engine, "cpu" if device == "cpu" else "cuda")
    write_environment(output / ENVIRONMENT, engine=engine, device=device, seeds={"seed": config.seed})
    _run(jobs, learned, min(workers, len(jobs)))
    if missing := [package for module, package in _TO_ASSEMBLE.items() if find_spec(module) is None]:
        warnings.warn(
            f"the networks are trained, but {' and '.join(missing)} are not installed here, which assembling the model "
            f"needs: copy {output} to a machine with the whole package and run `cgcnn-ase train` there with the same "
            "data and settings and --resume",
            stacklevel=2,
        )
        return output
    from cgcnn_ase.training.assemble import assemble, write_card
    from cgcnn_ase.training.finetune_recipe import write_before_after

    best = assemble(
        data, config, output, members, folds,
        scalers=scalers, start=starts[0] if goes_on else None, beside=beside, name=name, suffix=suffix,
    )  # fmt: skip
    write_card(best, data, starts)
    if len(starts) == 1:
        write_before_after(data, starts[0], best.models, output, best.evaluations)
    return best.folder


def clear_run(folder: Path) -> None:
    """Remove a run or a cross-validation; a ValueError if the folder holds anything else."""
    check_replaceable(folder, _RUN_FILES, marks=_RUN_MARKS, what="a training run")
    clear_folder(folder)


def _check(data: PreparedData, config: TrainConfig, starts: "Sequence[CrystalModel]", workers: int) -> None:
    """See that data, settings and models fit together before a run begins."""
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    if workers > 1 and config.devices * config.nodes > 1:
        raise ValueError(f"{workers} members at the same time need one device each, the settings ask for several")
    check_devices(config)
    _check_data(data, config)
    for start in starts:
        _check_start(data, config, start)


def _check_data(data: PreparedData, config: TrainConfig) -> None:
    for split in ("train", "val"):
        if not len(data.rows(split)):
            raise ValueError(
                f"the {split} split is empty; {len(data.ids)} structures are too few or the split is wrong"
            )
    if config.graph != data.graph_config:
        raise ValueError(f"the data was prepared with {data.graph_config}, the settings ask for {config.graph}")
    check_targets(data.specs, config)
    data.check_distances(config.network)
    for t, target in enumerate(data.specs):
        _check_target(data, t, target)
    if config.cross_fit_folds and data.of_sites:
        raise ValueError("cross_fit_folds must be 0 for targets of sites")


def _check_target(data: PreparedData, t: int, target: TargetSpec) -> None:
    """Every label must be possible; there must be some in train and val, and all classes in train."""
    owner = data.graphs.node_owner() if data.of_sites else np.arange(len(data.ids))
    for k, value in enumerate(data.targets[:, t].tolist()):
        missing_is_fine = data.of_sites or len(data.specs) > 1
        if problem := None if math.isnan(value) and missing_is_fine else target.validation_error(value):
            raise ValueError(f"the target of {data.ids[owner[k]]}, {target.name} = {value:g}, {problem}")
    for split in ("train", "val"):
        labels = data.labels(split)[:, t]
        if not np.isfinite(labels).any():
            raise ValueError(f"no structure of the {split} split has a label for {target.name}")
        missing = sorted(set(range(target.n_classes)) - set(labels.tolist()))
        if target.task == "classification" and split == "train" and missing:
            raise ValueError(f"{target.name}: class {missing[0]} is never seen in the train split")


def _check_start(data: PreparedData, config: TrainConfig, start: "CrystalModel") -> None:
    if start.graph != data.graph_config:
        raise ValueError(f"the model to tune reads {start.graph}, the data was prepared with {data.graph_config}")
    asked = network_config(data, config)
    check_start(start, asked)
    has = config_for_target(start)
    if can_reuse_head(start, data.specs) and has != asked:
        raise ValueError(f"the model to tune has {has}, the settings ask for {asked}")


def _settings(
    data: PreparedData,
    config: TrainConfig,
    starts: "Sequence[CrystalModel]",
    frozen: Frozen,
    beside: PreparedData | None,
) -> str:
    """All that decides the run, as it stands in ``config.yaml``."""
    settings = asdict(config) | {"train_hash": data.train_hash}
    if beside is not None:
        settings["beside"] = beside.train_hash
    if starts:
        origins = [{"model": start.name, "sha256": start.sha256, "frozen": frozen} for start in starts]
        settings["from"] = origins[0] if len(origins) == 1 else origins
    return yaml.safe_dump(settings, sort_keys=False)


class _Job(NamedTuple):
    """One network to train."""

    folder: Path
    split: Strings
    resume: bool
    train: Callable[[PreparedData], Path]


def _run(jobs: Sequence[_Job], data: PreparedData, workers: int) -> None:
    """Train all networks, so many at the same time, each in a process of its own with its share of the cores."""
    if workers == 1:
        for job in jobs:
            _train_one(data, job)
        return
    threads = str(max(1, available_cores() // workers))
    with (
        _environment(_MALLOC | {"OMP_NUM_THREADS": threads}),
        ProcessPoolExecutor(workers, get_context("spawn"), initializer=_receive, initargs=(data,)) as pool,
    ):
        for future in [pool.submit(_train_received, job) for job in jobs]:
            future.result()


def _train_one(data: PreparedData, job: _Job) -> None:
    if job.resume and (job.folder / "finished").exists():
        return
    job.train(replace(data, split=job.split))
    (job.folder / "finished").touch()


_received: PreparedData | None = None


def _receive(data: PreparedData) -> None:
    global _received
    _received = data


def _train_received(job: _Job) -> None:
    assert _received is not None
    _train_one(_received, job)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables for the processes started within, unless the user has set them."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name)
