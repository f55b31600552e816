"""What each change of the recipe brings on val, from the 2018 network to that of the pretrained model.

    python benchmarks/recipe.py --output docs/data/recipe.json

Every row is one network trained on the same seeded part of the train split and judged on the whole of val; two rows
train at the same time, on one thread each. Rows that the output file holds already are not trained again.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from _report import Table, machine, parser
from _structures import TARGET, require

from cgcnn_ase.core.targets import TargetSpec
from cgcnn_ase.data.dataset import load_dataset
from cgcnn_ase.data.graph_store import cached_graphs
from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.nn.cgcnn import CGCNNConfig
from cgcnn_ase.training.config import TrainConfig

#: one change after the other, each on top of those above it
STEPS: dict[str, dict[str, Any]] = {
    "2018 CGCNN: 12 nearest, eq. 5, descriptor, 41 Gaussians, softplus, BatchNorm, F 64, 4 convolutions": {},
    "+ shell graph: all neighbours tied with the 12th": {"rule": "shell"},
    "+ SiLU": {"activation": "silu"},
    "+ LayerNorm": {"norm": "layer"},
    "+ edge-gated convolution of ALIGNN, edges updated": {"convolution": "edge-gated"},
    "+ edge vectors in the messages": {"convolution": "edge-message"},
    "+ 64 Gaussians": {"n_gaussians": 64},
    "+ descriptor and learned embedding": {"embedding": "both"},
    "+ atom layer before pooling": {"atom_layer": True},
    "+ angular moments of the bonds": {"angular": True},
    "+ F 96": {"n_features": 96},
}
#: the recipe that the variations start from: all steps but the last, which costs most
REFERENCE = list(STEPS)[-2]
#: one change each
VARIATIONS: dict[str, dict[str, Any]] = {
    "another seed": {"seed": 1},
    "no norm": {"norm": "none"},
    "Huber loss": {"loss": "huber"},
    "MSE loss": {"loss": "mse"},
    "EMA of the weights, 0.995": {"ema_decay": 0.995},
    "learning rate 1e-3": {"learning_rate": 1e-3},
    "learning rate 5e-3": {"learning_rate": 5e-3},
    "16 neighbours": {"n_neighbors": 16},
    "6 convolutions": {"n_convolutions": 6},
}
BASE = TrainConfig(
    graph=GraphConfig(rule="knn", cutoff=8.0, n_neighbors=12, merge=True),
    network=CGCNNConfig(n_features=64, n_convolutions=4, n_hidden=128),
    batch_size=64,
    learning_rate=3e-3,
    loss="l1",
)


@dataclass(frozen=True)
class Row:
    """One training."""

    name: str
    config: TrainConfig
    against: str | None  #: the row that it is compared with


def rows(epochs: int, seed: int) -> Iterator[Row]:
    """The steps, then the variations."""
    config, above = replace(BASE, epochs=epochs, seed=seed), None
    reference = config
    for name, change in STEPS.items():
        config = changed(config, change)
        yield Row(name, config, above)
        above = name
        if name == REFERENCE:
            reference = config
    for name, change in VARIATIONS.items():
        moved = {"seed": seed + 1} if "seed" in change else change
        yield Row(name, changed(reference, moved), REFERENCE)


def changed(config: TrainConfig, change: dict[str, Any]) -> TrainConfig:
    """The configuration with these settings, of the graph and of the network too."""

    def settings_of_row(part: object) -> dict[str, Any]:
        return {name: value for name, value in change.items() if hasattr(part, name)}

    top = {name: value for name, value in settings_of_row(config).items() if name not in ("graph", "network")}
    graph, network = (
        replace(config.graph, **settings_of_row(config.graph)),
        replace(config.network, **settings_of_row(config.network)),
    )
    return replace(config, graph=graph, network=network, **top)


def prepare(data: Path, n: int, graph: GraphConfig, seed: int, folder: Path) -> None:
    """Write a seeded part of train and all of val, with this graph."""
    whole = load_dataset(data, target=TARGET)
    assert whole.split is not None
    train = np.random.default_rng(seed).permutation(np.flatnonzero(whole.split == "train"))[:n]
    picked = np.concatenate([np.sort(train), np.flatnonzero(whole.split == "val")])
    PreparedData(
        ids=[whole.ids[i] for i in picked],
        targets=whole.targets[picked],
        split=whole.split[picked],
        graphs=cached_graphs([whole.structures[i] for i in picked], graph),
        graph_config=graph,
        specs=(TargetSpec(name=TARGET, unit="eV/atom", per_atom=True),),
        train_hash="",
    ).save(folder)


def train_row(config: TrainConfig, prepared: Path) -> dict[str, Any]:
    """Train one network: lowest val MAE, seconds an epoch, number of weights."""
    import torch

    from cgcnn_ase.training.callbacks import read_history
    from cgcnn_ase.training.member import new_network, train_member

    torch.set_num_threads(1)
    data = PreparedData.load(prepared)
    with tempfile.TemporaryDirectory() as path:
        start = time.perf_counter()
        train_member(data, config, Path(path), progress=False)
        seconds = (time.perf_counter() - start) / config.epochs
        mae = [float(row["val_error"]) for row in read_history(Path(path) / "history.csv")]
    weights = sum(p.numel() for p in new_network(data, config).parameters())
    return {"val_mae": min(mae), "history": mae, "seconds_per_epoch": seconds, "weights": weights}


def main() -> None:
    """Command line."""
    made = parser(__doc__ or "")
    made.add_argument("--n", type=int, default=6000, help="crystals of the train split")
    made.add_argument("--epochs", type=int, default=10)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--processes", type=int, default=2, help="rows at the same time, one thread each")
    made.add_argument("--rows", nargs="+", type=int, metavar="K", help="only these, counted from 1 as in --list")
    made.add_argument("--list", action="store_true", help="name the rows and stop")
    chosen = made.parse_args()
    table = list(rows(chosen.epochs, chosen.seed))
    if chosen.list:
        print("\n".join(f"{k:3d}  {row.name}" for k, row in enumerate(table, 1)))
        return
    require(chosen.data.parent, chosen.data.name)
    settings = {"n": chosen.n, "epochs": chosen.epochs, "seed": chosen.seed, "data": chosen.data.name}
    result = read(chosen.output, settings)
    wanted = [row for k, row in enumerate(table, 1) if chosen.rows is None or k in chosen.rows]
    train_all([row for row in wanted if row.name not in result], result, settings, chosen)
    report = markdown(table, result, chosen.n, chosen.epochs)
    print(f"_{machine()}_\n\n{report}")


def train_all(todo: list[Row], result: dict[str, Any], settings: dict[str, Any], chosen: Any) -> None:
    """Train the rows, writing the output file after each."""
    if not todo:
        return
    os.environ |= {"OMP_NUM_THREADS": "1", "MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_TOP_PAD_": str(64 << 20)}
    with tempfile.TemporaryDirectory() as path:
        folders: dict[GraphConfig, Path] = {}
        for graph in dict.fromkeys(row.config.graph for row in todo):
            folders[graph] = Path(path) / f"graphs-{len(folders)}"
            echo_stderr(f"graphs: {graph}")
            prepare(chosen.data, chosen.n, graph, chosen.seed, folders[graph])
        with ProcessPoolExecutor(chosen.processes, get_context("spawn")) as pool:
            jobs = {pool.submit(train_row, row.config, folders[row.config.graph]): row for row in todo}
            for job in as_completed(jobs):
                row = jobs[job]
                result[row.name] = job.result() | {"config": asdict(row.config)}
                echo_stderr(f"{result[row.name]['val_mae']:.4f} eV/atom  {row.name}")
                if chosen.output is not None:
                    write(chosen.output, {"machine": machine(), "settings": settings, "rows": result})


def markdown(table: list[Row], results: dict[str, Any], n: int, epochs: int) -> str:
    """The two tables, of the rows that are there."""
    parts = [
        Table(
            f"One change after the other, {n:,} train crystals, {epochs} epochs",
            ["change", "val MAE (eV/atom)", "against the row above", "s an epoch", "weights"],
        ),
        Table(
            f"Single changes of “{REFERENCE.removeprefix('+ ')}”",
            ["change", "val MAE (eV/atom)", "against it", "s an epoch", "weights"],
            notes=[
                "lowest val MAE of any epoch; one run each: “another seed” shows how much is chance",
                "a small part of the data and few epochs rank the changes, they do not give the model's error",
                "one thread a row, two rows at the same time, eager mode",
            ],
        ),
    ]
    for row in table:
        if row.name not in results:
            continue
        result, above = results[row.name], results.get(row.against or "")
        relative = "–" if above is None else f"{result['val_mae'] / above['val_mae'] - 1:+.1%}"
        mae, seconds = f"{result['val_mae']:.4f}", f"{result['seconds_per_epoch']:.1f}"
        parts[row.name in VARIATIONS].rows.append([row.name, mae, relative, seconds, result["weights"]])
    return "\n".join(part.markdown() for part in parts if part.rows)


def read(file: Path | None, settings: dict[str, Any]) -> dict[str, Any]:
    """Rows that are there already; none of another setting."""
    if file is None or not file.exists():
        return {}
    content = json.loads(file.read_text(encoding="utf-8"))
    if content["settings"] != settings:
        raise SystemExit(f"{file}: holds rows of {content['settings']}, not of {settings}; name another file")
    result: dict[str, Any] = content["rows"]
    return result


def write(file: Path, content: dict[str, Any]) -> None:
    """At once or not at all."""
    tmp = file.with_name(f".{file.name}")
    tmp.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    tmp.replace(file)


def echo_stderr(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
