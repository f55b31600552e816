"""A whole training run: the members, the calibrated model, its metrics and pictures, in one folder."""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import yaml

from cgcnn_ase.data.graph_cache import available_cores
from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.nn.network import Network
from cgcnn_ase.targets import Scaler
from cgcnn_ase.training.config import TrainConfig
from cgcnn_ase.training.finetune import Frozen, member_to_tune
from cgcnn_ase.training.member import train_member

if TYPE_CHECKING:
    from cgcnn_ase.nn.model import CrystalModel

#: glibc settings of worker processes: keep freed memory for the next step instead of giving it back to the system
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


def train(
    data: PreparedData,
    config: TrainConfig,
    output: Path,
    *,
    resume: bool = False,
    start: "CrystalModel | None" = None,
    frozen: Frozen = "none",
    workers: int = 1,
    name: str = "",
    progress: bool = True,
) -> Path:
    """Train ``config.n_members`` networks and assemble them; return the folder of the calibrated model.

    Parameters
    ----------
    data : PreparedData
        With train and val rows; test rows are evaluated once, at the end.
    output : path
        The run's folder: ``config.yaml``, ``last.ckpt`` (of each member, in ``member-k`` if there are several),
        ``best/``, ``metrics.json``, ``test_results.csv``, ``parity.png``, ``learning_curve.png``.
    resume : bool
        Go on where an earlier call with the same arguments was stopped.
    start, frozen
        Fine-tune this model's members instead of new ones, with some layers fixed.
    workers : int
        Members that train at the same time, each in a process of its own with its share of the cores.

    Raises
    ------
    ValueError
        If ``output`` holds another run, or a split is empty.
    """
    from cgcnn_ase.training.finish import finish_run

    _check(data, config, output, resume)
    scaler = start.scaler if start is not None and start.target.name == data.target.name else None
    jobs = []
    for k in range(config.n_members):
        network = None if start is None else member_to_tune(start, k, frozen)
        folder = output if config.n_members == 1 else output / f"member-{k}"
        jobs.append((replace(config, seed=config.seed + k), folder, network, scaler, resume, progress))
    if workers == 1 or len(jobs) == 1:
        for job in jobs:
            _train_one(data, *job)
    else:
        with _environment(_MALLOC | {"OMP_NUM_THREADS": str(max(1, available_cores() // workers))}):
            pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_receive, initargs=(data,))
            with pool:
                for future in [pool.submit(_train_received, *job) for job in jobs]:
                    future.result()
    return finish_run(data, config, output, [job[1] for job in jobs], scaler=scaler, name=name)


def _check(data: PreparedData, config: TrainConfig, output: Path, resume: bool) -> None:
    for split in ("train", "val"):
        if not len(data.rows(split)):
            raise ValueError(
                f"the {split} split is empty; {len(data.ids)} structures are too few or the split is wrong"
            )
    settings = yaml.safe_dump(config.to_dict() | {"train_hash": data.train_hash}, sort_keys=False)
    file = output / "config.yaml"
    if file.exists() and not resume:
        raise ValueError(f"{output}: holds a training run already; resume it or name another folder")
    if file.exists() and file.read_text() != settings:
        raise ValueError(f"{file}: the run was started with other settings or data; resume with the same")
    output.mkdir(parents=True, exist_ok=True)
    file.write_text(settings)


def _train_one(
    data: PreparedData,
    config: TrainConfig,
    folder: Path,
    network: Network | None,
    scaler: Scaler | None,
    resume: bool,
    progress: bool,
) -> None:
    if resume and (folder / "finished").exists():
        return
    train_member(data, config, folder, network=network, scaler=scaler, resume=resume, progress=progress)
    (folder / "finished").touch()


_received: PreparedData | None = None


def _receive(data: PreparedData) -> None:
    global _received
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    _received = data


def _train_received(*job: object) -> None:
    assert _received is not None
    _train_one(_received, *job)  # type: ignore[arg-type]


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
