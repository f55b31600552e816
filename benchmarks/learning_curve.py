"""Error against the size of the training set, and what each architecture costs.

    python benchmarks/learning_curve.py --output docs/data/learning_curve.json --picture docs/images/learning_curve.png

Every point is one network, trained on a seeded part of the train split and judged on the whole of val, so many epochs
each: more data are more steps. Seconds are processor time of one thread. Points that the output file holds already are
not trained again.
"""

import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from _report import Table, machine, parser
from _structures import TARGET, echo_stderr, require

from cgcnn_ase.core.targets import TargetSpec
from cgcnn_ase.data.dataset import load_dataset
from cgcnn_ase.data.prepare import prepare
from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.training.config import PRESETS, TrainConfig
from cgcnn_ase.zoo.train import load_recipe

SPEC = TargetSpec(name=TARGET, unit="eV/atom", per_atom=True)
SEED = 0


def configs(epochs: int) -> dict[str, TrainConfig]:
    """The networks, with the settings that each is trained with here."""
    ours, small = load_recipe("formation-energy-per-atom").config, load_recipe("alignn").config
    common = {"epochs": epochs, "seed": SEED, "n_members": 1, "cross_fit_folds": 0}
    common |= {"compile": False, "mean_variance": False}
    made = {
        "CGCNN of the zoo (F 96)": replace(ours, **common),
        "ALIGNN of the zoo (F 64)": replace(small, **common),
    }
    for name, label in (("cgcnn-2018", "CGCNN of 2018 (F 64)"), ("cgnn", "CGNN")):
        graph, network = PRESETS[name]
        made[label] = replace(ours, **common, graph=replace(graph, merge=True), network=network)
    return made


def main() -> None:
    """Command line."""
    made = parser(__doc__ or "")
    made.add_argument("--sizes", nargs="+", type=int, default=[500, 2000, 8000], help="training crystals")
    made.add_argument("--epochs", type=int, default=12)
    made.add_argument("--picture", type=Path, metavar="FILE.png")
    chosen = made.parse_args()
    require(chosen.data.parent, chosen.data.name)
    settings = {"epochs": chosen.epochs, "seed": SEED, "data": chosen.data.name}
    result: dict[str, Any] = {}
    if chosen.output is not None and chosen.output.exists():
        content = json.loads(chosen.output.read_text())
        if content["settings"] != settings:
            raise SystemExit(f"{chosen.output}: holds points with other settings: {content['settings']}")
        result = content["points"]
    for label, config in configs(chosen.epochs).items():
        for n in chosen.sizes:
            if str(n) in result.get(label, {}):
                continue
            result.setdefault(label, {})[str(n)] = point = measure(config, chosen.data, n)
            echo_stderr(f"{label}, {n:,}: {point['val_mae']:.4f} eV/atom, {point['ms_per_crystal']:.2f} ms a crystal")
            if chosen.output is not None:
                content = {"machine": machine(), "settings": settings, "points": result}
                chosen.output.write_text(json.dumps(content, indent=1) + "\n")
    table = Table(
        f"val MAE (eV/atom) after {chosen.epochs} epochs",
        ["network", "weights", *(f"{n:,}" for n in chosen.sizes), "training, ms a crystal", "prediction, ms a crystal"],
        notes=["one run each; ms: processor time of one thread, at the largest size; prediction without reading files"],
    )
    for label, points in result.items():
        last = points[str(chosen.sizes[-1])]
        errors = [points[str(n)]["val_mae"] for n in chosen.sizes]
        table.rows.append([label, last["weights"], *errors, last["ms_per_crystal"], last["predict_ms"]])
    print(f"_{machine()}_\n\n{table.markdown()}")
    if chosen.picture is not None:
        draw(result, chosen.picture)


def measure(config: TrainConfig, data: Path, n: int) -> dict[str, float]:
    """Train one network on n crystals."""
    import torch

    from cgcnn_ase.training.callbacks import read_history
    from cgcnn_ase.training.member import best_network, train_member

    torch.set_num_threads(1)
    prepared = part(data, n, config)
    with tempfile.TemporaryDirectory() as path:
        start = time.process_time()
        train_member(prepared, config, Path(path), progress=False)
        seconds = time.process_time() - start
        errors = [float(row["val_error"]) for row in read_history(Path(path) / "history.csv")]
        network = best_network(prepared, config, Path(path)).eval()
    rows = prepared.rows("val")
    start = time.process_time()
    with torch.inference_mode():
        for k in range(0, len(rows), 64):
            network(prepared.graphs.batch(rows[k : k + 64]))
    predict = time.process_time() - start
    crystals = config.epochs * (n + len(rows) / 3)  # a pass without gradients costs about a third
    return {
        "val_mae": min(errors),
        "ms_per_crystal": 1000 * seconds / crystals,
        "predict_ms": 1000 * predict / len(rows),
        "weights": sum(p.numel() for p in network.parameters()),
    }


def part(data: Path, n: int, config: TrainConfig) -> PreparedData:
    """A seeded part of train, and all of val."""
    whole = load_dataset(data, target=TARGET)
    assert whole.split is not None
    train = np.random.default_rng(SEED).permutation(np.flatnonzero(whole.split == "train"))[:n]
    picked = np.concatenate([np.sort(train), np.flatnonzero(whole.split == "val")])
    return prepare(whole.take(picked), SPEC, config.graph)


def draw(result: dict[str, Any], file: Path) -> None:
    """Both axes logarithmic."""
    from cgcnn_ase.plotting.model_plots import BLUE, GREEN, GREY, ORANGE, new_figure, save

    figure, (axes,) = new_figure(1)
    figure.set_size_inches(5.6, 4.4)
    for (label, points), color, marker in zip(result.items(), (BLUE, ORANGE, GREY, GREEN), "osD^", strict=False):
        sizes = sorted(int(n) for n in points)
        axes.plot(sizes, [points[str(n)]["val_mae"] for n in sizes], color=color, marker=marker, label=label)
    axes.set(xscale="log", yscale="log", xlabel="training crystals", ylabel="val MAE (eV/atom)")
    ticks = [0.05, 0.1, 0.2, 0.5, 1.0]
    low, high = axes.get_ylim()
    axes.set_yticks([t for t in ticks if low <= t <= high], [f"{t:g}" for t in ticks if low <= t <= high])
    axes.minorticks_off()
    sizes = sorted({int(n) for points in result.values() for n in points})
    axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
    axes.legend(frameon=False)
    save(figure, file)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
