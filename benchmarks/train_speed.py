"""Training: steady-state epochs of our trainer against cgcnn2's, and the time to build all graphs.

Epochs after the first are timed, the loop over the training batches alone (validation and checkpoints are given
apart). Every row runs in a process of its own. cgcnn2 trains on fewer crystals of the same set, with the same network
and batch size, and is compared per structure.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from _report import Table, cgcnn2_folder, finish, parser
from _structures import TARGET, cache_folder, echo_stderr, linked, structures, write_cifs

from cgcnn_ase.core.targets import TargetSpec
from cgcnn_ase.data.dataset import Dataset, load_dataset
from cgcnn_ase.data.graph_store import build_store, cached_graphs
from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.nn.cgcnn import CGCNNConfig
from cgcnn_ase.training.config import TrainConfig

SPEC = TargetSpec(name=TARGET, unit="eV/atom", per_atom=True)
N_VAL = 256
#: what the package sets for members that train side by side, each on its share of the cores
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    config: TrainConfig
    processes: int = 1  #: members that train at the same time


def options() -> argparse.Namespace:
    made = parser(__doc__ or "")
    made.add_argument("--limit", type=int, help="training crystals; all by default")
    made.add_argument("--epochs", type=int, default=3, help="the first is not counted")
    made.add_argument("--batch-size", type=int, default=256, help="of the 2018 network, here and in cgcnn2")
    made.add_argument("--peer-n", type=int, default=2_000, help="crystals that cgcnn2 trains on")
    made.add_argument("--rows", help="only rows whose name contains this")
    made.add_argument("--no-peers", action="store_true", help="only this package")
    made.add_argument("--one", help=argparse.SUPPRESS)  # JSON: the work of one process
    return made.parse_args()


def main() -> None:
    chosen = options()
    if chosen.one:
        train_once(json.loads(chosen.one))
        return
    dataset = crystals(chosen.data, chosen.limit)
    n = int((np.asarray(dataset.split) == "train").sum())
    atoms = sum(len(s.numbers) for s in dataset.structures)
    echo_stderr(f"{n:,} training crystals")
    graphs = graph_table(dataset)
    peer = None if chosen.no_peers else cgcnn2_epoch(chosen.peer_n, chosen)
    table = Table(
        f"Steady-state epoch, {n:,} crystals ({atoms:,} atoms with the {N_VAL} for validation)",
        ["what", "batch", "s/epoch", "ms/crystal", "val and checkpoint s", "times faster than cgcnn2"],
        notes=[f"median of epochs 2 to {chosen.epochs}"],
    )
    for row in rows(chosen.batch_size):
        if chosen.rows and chosen.rows not in row.name:
            continue
        seconds, rest = epoch(row, dataset, chosen)
        echo_stderr(f"{row.name}: {seconds:.1f} s")
        faster = None if peer is None else peer / (seconds / n)
        table.rows.append([row.name, row.config.batch_size, seconds, 1000 * seconds / n, rest, faster])
    if peer is not None:
        table.rows.append(["cgcnn2 (cgcnn-tr)", chosen.batch_size, peer * n, 1000 * peer, None, 1.0])
        table.notes.append(
            f"cgcnn2: measured on {chosen.peer_n:,} crystals, its graphs in memory; s/epoch is scaled up"
        )
    table.notes.append("with two members at the same time: the wall time of an epoch of both, divided by two")
    table.notes.append("merged: equivalent atoms are computed once and count in BatchNorm as often as they are")
    finish([table, graphs], chosen.output, vars(chosen))


def rows(batch_size: int) -> list[Row]:
    """The 2018 network, and the recipe of the pretrained model."""
    from cgcnn_ase.zoo.train import load_recipe

    knn = GraphConfig(rule="knn", cutoff=8.0, n_neighbors=12)
    of_2018 = TrainConfig(
        graph=knn, network=CGCNNConfig(n_features=64, n_convolutions=4), loss="mse", batch_size=batch_size
    )
    merged = replace(of_2018, graph=replace(knn, rule="shell", merge=True))  # ties do not set atoms apart
    recipe = load_recipe("formation-energy-per-atom").config
    eager = replace(recipe, compile=False, n_members=1)
    compiled = replace(recipe, compile=True, n_members=1)
    return [
        Row("2018 CGCNN, DGL", of_2018),
        Row("2018 CGCNN, torch", replace(of_2018, engine="torch")),
        Row("2018 CGCNN, compiled", replace(of_2018, compile=True)),
        Row("2018 CGCNN, shell, merged, DGL", merged),
        Row("2018 CGCNN, shell, merged, torch", replace(merged, engine="torch")),
        Row("2018 CGCNN, shell, merged, compiled", replace(merged, compile=True)),
        Row("pretrained recipe, eager", eager),
        Row("pretrained recipe, compiled", compiled),
        Row("pretrained recipe, compiled, two members at the same time", compiled, processes=2),
    ]


def crystals(data: Path, limit: int | None) -> Dataset:
    """The training split (or ``limit`` of it) and a few of val."""
    if (data / "structures.npz").exists():
        whole = load_dataset(data, target=TARGET)
        split = np.asarray(whole.split)
        rng = np.random.default_rng(0)
        train = rng.permutation(np.flatnonzero(split == "train"))[:limit]
        picked = np.concatenate([np.sort(train), np.flatnonzero(split == "val")[:N_VAL]])
        return whole.take(picked)
    n = limit or 2_000
    named, _ = structures(n + N_VAL, None)
    targets = np.random.default_rng(0).normal(size=(n + N_VAL, 1))
    words = np.array(["train"] * n + ["val"] * N_VAL)
    return Dataset([i for i, _ in named], [s for _, s in named], targets, words)


def graph_table(dataset: Dataset) -> Table:
    """Seconds to build all graphs with two processes."""
    configs = {
        "knn": GraphConfig(rule="knn"),
        "shell": GraphConfig(rule="shell"),
        "shell, angular": GraphConfig(rule="shell", angular=True),
        "shell, angular, merged": GraphConfig(rule="shell", angular=True, merge=True),
    }
    table = Table(
        f"Graphs of {len(dataset):,} crystals, two processes",
        ["graph", "s", "ms/crystal", "nodes", "edges"],
        notes=["in memory, without the cache on disk"],
    )
    for name, config in configs.items():
        start = time.perf_counter()
        store = build_store(dataset.structures, config, workers=2)
        taken = time.perf_counter() - start
        echo_stderr(f"graphs, {name}: {taken:.1f} s")
        sizes = int(store.n_nodes.sum()), int(store.n_edges.sum())
        table.rows.append([name, taken, 1000 * taken / len(dataset), *sizes])
    return table


# ----------------------------------------------------------------------------------------------------------------- ours


def epoch(row: Row, dataset: Dataset, chosen: argparse.Namespace) -> tuple[float, float]:
    """Seconds of one member's epoch, and those of its validation and checkpoint."""
    cached_graphs(dataset.structures, row.config.graph, folder=cache_folder(), workers=2)  # so that the child finds it
    environment = dict(os.environ)
    if row.processes > 1:
        from cgcnn_ase.training.run import _MALLOC

        environment |= _MALLOC | dict.fromkeys(_THREADS, "1")
    config = replace(row.config, epochs=chosen.epochs)
    work = {"data": str(chosen.data), "limit": chosen.limit, "config": asdict(config)}
    command = [sys.executable, __file__, "--one"]
    running = []
    for k in range(row.processes):
        folder = cache_folder() / f"train-{k}"
        shutil.rmtree(folder, ignore_errors=True)
        text = json.dumps(work | {"folder": str(folder)})
        running.append(subprocess.Popen([*command, text], env=environment, stdout=subprocess.PIPE, text=True))
    result = []
    for process in running:
        out, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"{row.name}: failed")
        result.append(json.loads(out.splitlines()[-1]))
    slowest = max(result, key=lambda times: float(times["train"]))
    return slowest["train"] / row.processes, slowest["rest"] / row.processes


def train_once(work: dict[str, Any]) -> None:
    """Train a few epochs and print the median times of all but the first, as JSON."""
    import lightning.pytorch as pl
    from pydantic import TypeAdapter

    from cgcnn_ase.training import callbacks as trainer_module
    from cgcnn_ase.training import member

    class Clock(trainer_module.History):
        """Note the times of each epoch; otherwise as it is."""

        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            del trainer, pl_module
            marks.append([time.perf_counter()])

        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            del trainer
            marks[-1][1:] = [time.perf_counter()]

    marks: list[list[float]] = []
    config = TypeAdapter(TrainConfig).validate_python(work["config"])
    dataset = crystals(Path(work["data"]), work["limit"])
    data = PreparedData(
        ids=dataset.ids,
        targets=dataset.targets,
        split=np.asarray(dataset.split),
        graphs=cached_graphs(dataset.structures, config.graph, folder=cache_folder()),
        graph_config=config.graph,
        specs=(SPEC,),
        train_hash="",
    )
    with mock.patch.object(trainer_module, "History", Clock):
        member.train_member(data, config, Path(work["folder"]), progress=False)
    ends = [following[0] for following in marks[1:]] + [time.perf_counter()]
    times = [(last - first, end - last) for (first, last), end in zip(marks, ends, strict=True)]
    train, rest = ([pair[k] for pair in times[1:] or times] for k in range(2))
    print(json.dumps({"train": statistics.median(train), "rest": statistics.median(rest), "all": times}))


# --------------------------------------------------------------------------------------------------------------- cgcnn2


def cgcnn2_epoch(n: int, chosen: argparse.Namespace) -> float:
    """Seconds per crystal of a steady-state epoch of cgcnn2's own command."""
    echo_stderr(f"cgcnn2 trains on {n:,} crystals")
    dataset = crystals(chosen.data, n)
    named = list(zip(dataset.ids, dataset.structures, strict=True))[:n]
    path = cache_folder() / "cgcnn2-train"
    shutil.rmtree(path, ignore_errors=True)
    write_cifs(path / "all", named)
    files = [path / "all" / f"{name}.cif" for name, _ in named]
    sets = {"train": files, "valid": files[:8], "test": files[:8]}  # so that an epoch is its training loop
    target = dict(zip(dataset.ids, dataset.targets[:, 0].tolist(), strict=True))
    command = [str(Path(sys.executable).with_name("cgcnn-tr")), "--disable-cuda", "--job-id", "bench"]
    for name, members in sets.items():
        folder = linked(members, path / name)
        rows_ = [f"{file.stem},{target[file.stem]!r}\n" for file in members]
        (folder / "id_prop.csv").write_text("".join(rows_))
        shutil.copy(cgcnn2_folder() / "asset" / "atom_init.json", folder)
        command += [f"--{name}-set", str(folder)]
    command += ["--epoch", str(chosen.epochs), "--batch-size", str(chosen.batch_size)]
    command += ["--atom-fea-len", "64", "--n-conv", "4", "--h-fea-len", "128"]
    times = epoch_marks(command, path)
    gaps = np.diff(times)
    if not len(gaps):
        raise SystemExit(f"{' '.join(command)}: too few epochs")
    echo_stderr(f"cgcnn2: {', '.join(f'{gap:.1f}' for gap in gaps)} s an epoch")
    return float(np.median(gaps)) / len(files)


def epoch_marks(command: list[str], folder: Path) -> list[float]:
    """When each epoch's line appeared."""
    marks, tail = [], []
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            tail = [*tail[-15:], line]
            if re.search(r"Epoch \[\d+/", line):
                marks.append(time.perf_counter())
    if process.returncode:
        raise SystemExit(f"{command[0]}: exit code {process.returncode}\n{''.join(tail)}")
    return marks


if __name__ == "__main__":
    main()
