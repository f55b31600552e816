"""Fine-tuning with the defaults of `cgcnn-ase train --from`, on three tasks, against the same network from scratch.

    python benchmarks/transfer.py elastic two-dimensional cathode --seeds 3 --output docs/data/transfer.json

elastic           K_VRH (log10 GPa) from 50 labels, starting from the pretrained band-gap model; judged on test
two-dimensional   formation energies of two-dimensional crystals (PBE energies less those of the elements), from the
                  pretrained formation energy
cathode           crystals of Li, Ni, Co, Mn, Al and O alone, in five folds by formula; the model before has learned all
                  of the training split but these (trained here first, into --general), and 500 of it are replayed; and
                  once with energies without the corrections of the Materials Project, a scale as one's own DFT has

Labels for val count as labels. From scratch: as many networks of the same kind, 100 epochs, learning rate 3e-3.
"""

import json
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from _report import Table, machine, parser
from _structures import echo_stderr, require

from cgcnn_ase.core.elements import reference_energies, symbols
from cgcnn_ase.core.settings import parse_settings
from cgcnn_ase.core.targets import TargetSpec
from cgcnn_ase.core.yaml_settings import merged
from cgcnn_ase.data.dataset import Dataset, load_dataset
from cgcnn_ase.data.prepare import prepare
from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.data.splits import k_fold
from cgcnn_ase.models.checkpoint import load_folder
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.models.registry import load_model
from cgcnn_ase.prediction.evaluation import evaluate_model
from cgcnn_ase.training.config import TrainConfig
from cgcnn_ase.training.finetune_recipe import recipe_for, with_replay
from cgcnn_ase.training.run import train
from cgcnn_ase.training.start_model import can_reuse_head, inherited_settings
from cgcnn_ase.zoo.train import load_recipe

CATHODE = {"Li", "Ni", "Co", "Mn", "Al", "O"}
BULK = TargetSpec(name="K_VRH", unit="GPa", transform="log10")
Point = dict[str, Any]


def main() -> None:
    """Command line."""
    made = parser(__doc__ or "")
    made.add_argument("tasks", nargs="+", choices=list(TASKS))
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--general", type=Path, default=Path("runs") / "general", help="run of the model for `cathode`")
    chosen = made.parse_args()
    require(chosen.data.parent, chosen.data.name)
    warnings.filterwarnings("ignore", message="the calibration is that of|the model is not calibrated")
    result: dict[str, list[Point]] = {}
    if chosen.output is not None and chosen.output.exists():
        result = json.loads(chosen.output.read_text())["points"]
    for task in chosen.tasks:
        result[task] = []
        for point in TASKS[task](chosen.data.parent, chosen.seeds, chosen.general):
            result[task].append(point)
            echo_stderr(f"{task}: {point}")
            if chosen.output is not None:
                chosen.output.write_text(json.dumps({"machine": machine(), "points": result}, indent=1) + "\n")
    print(f"_{machine()}_\n\n{table(result).markdown()}")


def table(result: dict[str, list[Point]]) -> Table:
    """Mean and standard deviation over the runs."""
    made = Table(
        "test MAE, mean ± standard deviation over the runs",
        ["task", "runs", "labels", "before", "from scratch", "fine-tuned", "against", "old test set"],
        notes=[
            "against: before, where the model knew the property, else from scratch; elastic in log10 GPa, else eV/atom"
        ],
    )
    for task, points in result.items():
        for what in dict.fromkeys(point["what"] for point in points):
            points_of_task = [point for point in points if point["what"] == what]
            base = "before" if points_of_task[0].get("before") is not None else "scratch"
            ratio = np.mean([p["after"] for p in points_of_task]) / np.mean([p[base] for p in points_of_task]) - 1
            old = ""
            if "old_before" in points_of_task[0]:
                after, before = (np.mean([p[key] for p in points_of_task]) for key in ("old_after", "old_before"))
                old = f"{after / before - 1:+.1%}"
            shown = [
                _spread([p[key] for p in points_of_task if p.get(key) is not None])
                for key in ("before", "scratch", "after")
            ]
            made.rows.append(
                [f"{task}, {what}", len(points_of_task), points_of_task[0]["labels"], *shown, f"{ratio:+.1%}", old]
            )
    return made


def _spread(values: list[float]) -> str:
    if not values:
        return "–"
    return f"{np.mean(values):.4f}" + (f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else "")


# The tasks


def elastic(data: Path, seeds: int, _: Path) -> Iterator[Point]:
    start = load_model("band-gap")
    whole = load_dataset(data / "mp_elastic", target="K_VRH")
    possible = whole.take(np.flatnonzero(whole.targets[:, 0] > 0))
    prepared = prepare(possible, BULK, start.graph)
    for seed in range(seeds):
        drawn = few(prepared, 50, seed)
        point = {"what": "50 labels", "seed": seed, "labels": 50}
        yield point | compare(drawn, start, seed, scratch=True)


def two_dimensional(data: Path, seeds: int, _: Path) -> Iterator[Point]:
    start = load_model("formation-energy-per-atom")
    whole = load_dataset(data / "2dmatpedia_subset", target="energy_per_atom")
    prepared = prepare(replace(whole, targets=whole.targets - of_elements(whole)[:, None]), start.target, start.graph)
    n_all = len(prepared.rows("train")) + len(prepared.rows("val"))
    for n in (100, n_all):
        for seed in range(seeds if n == 100 else 1):
            drawn = few(prepared, n, seed)
            point = {"what": f"{n} labels", "seed": seed, "labels": n}
            yield point | compare(drawn, start, seed, scratch=n == 100)


def cathode(data: Path, seeds: int, general: Path) -> Iterator[Point]:
    recipe = load_recipe("formation-energy-per-atom")
    whole = load_dataset(data / "mp36k", target=recipe.columns)
    elements = {symbols().index(element) for element in CATHODE}
    inside = np.array([set(shape.numbers.tolist()) <= elements for shape in whole.structures])
    old = prepare(whole.take(np.flatnonzero(~inside)), recipe.targets, recipe.config.graph)
    if not (general / "best").exists():
        config = replace(recipe.config, n_members=1, cross_fit_folds=0, epochs=24)
        train(old, config, general, resume=general.exists(), name="general-without-cathodes")
    start = load_folder(general / "best")
    subset = whole.take(np.flatnonzero(inside))
    yield {"what": "another scale"} | in_folds(uncorrected(data, subset), 0, start, None)
    for seed in range(seeds):
        yield {"what": "five folds"} | in_folds(subset, seed, start, old)


def uncorrected(data: Path, subset: Dataset) -> Dataset:
    """The subset with formation energies less all corrections."""
    totals = load_dataset(data / "mp36k", target="total_energy_per_atom_uncorrected_reconstructed")
    known = dict(zip(totals.ids, totals.targets[:, 0], strict=True))
    energies = [known[name] for name in subset.ids]
    return replace(subset, targets=(np.array(energies) - of_elements(subset))[:, None])


def in_folds(subset: Dataset, seed: int, start: CrystalModel, old: PreparedData | None) -> Point:
    """Errors over five folds by formula, each tested on what the others have not."""
    parts = []
    for fold in k_fold(subset.groups, k=5, seed=seed):
        split = np.where(fold == "val", "test", fold).astype(object)
        train_mask = np.random.default_rng(seed).permutation(np.flatnonzero(split == "train"))
        split[train_mask[: len(train_mask) // 10]] = "val"
        new = prepare(replace(subset, split=split.astype(str)), start.target, start.graph)
        parts.append(compare(new if old is None else with_replay(new, old, seed=seed), start, seed))
    n_test = np.array([part["n_test"] for part in parts])
    mean = {key: float(np.average([p[key] for p in parts], weights=n_test)) for key in ("before", "after")}
    old_errors = {} if old is None else {k: float(np.mean([p[k] for p in parts])) for k in ("old_before", "old_after")}
    return {"seed": seed, "labels": int(len(subset) * 0.8), "n_test": int(n_test.sum())} | mean | old_errors


def of_elements(dataset: Dataset) -> np.ndarray:
    """PBE energies of the elements in each composition, eV/atom."""
    references, names = reference_energies(), symbols()
    return np.array([np.mean([references[names[z]] for z in shape.numbers]) for shape in dataset.structures])


TASKS: dict[str, Callable[[Path, int, Path], Iterator[Point]]] = {
    "elastic": elastic,
    "two-dimensional": two_dimensional,
    "cathode": cathode,
}


# What each is made of


def few(data: PreparedData, n: int, seed: int) -> PreparedData:
    """So many labels, a tenth of them for val; the test split stays."""
    rng = np.random.default_rng(seed)
    free = rng.permutation(np.flatnonzero(data.split != "test"))[:n]
    split = np.where(data.split == "test", "test", "unused").astype(object)
    split[free] = "train"
    split[free[: max(1, n // 10)]] = "val"
    return replace(data, split=split.astype(str))


def compare(data: PreparedData, start: CrystalModel, seed: int, *, scratch: bool = False) -> Point:
    """Errors on the test split of the model before, from scratch and fine-tuned, and on an old test set."""
    same = can_reuse_head(start, data.specs)
    n_new = sum(not data.ids[i].startswith("old:") for i in data.rows("train"))
    defaults = recipe_for(n_new, same_target=same, n_replayed=len(data.rows("train")) - n_new)
    base = inherited_settings(start) | {"seed": seed}
    point: Point = {"n_test": len(data.rows("test"))}
    tuned = trained(
        data, parse_settings(TrainConfig, merged(base, defaults.settings)), start=start, frozen=defaults.frozen
    )
    models = {"after": tuned}
    if same:
        models["before"] = start
    if scratch:
        alone = {"epochs": 100, "learning_rate": 3e-3, "batch_size": 8, "checkpoint": "last"}
        models["scratch"] = trained(data, parse_settings(TrainConfig, merged(base, alone)))
    for key, model in models.items():
        point[key], coverage = errors(model, data, "test")
        if key == "after" and coverage is not None:
            point["coverage"] = coverage
        if key != "scratch" and len(data.rows("old test")):
            point[f"old_{key}"], _ = errors(model, data, "old test")
    return point


def trained(data: PreparedData, config: TrainConfig, **options: Any) -> CrystalModel:
    """The model of a run."""
    with tempfile.TemporaryDirectory() as path:
        return load_folder(train(data, config, Path(path) / "run", progress=False, **options))


def errors(model: CrystalModel, data: PreparedData, split: str) -> tuple[float, float | None]:
    """Mean absolute error in what is learned, and how much the 90 % interval covers."""
    labels = data.labels(split)[:, 0]
    metrics = evaluate_model(model, data.graphs, data.rows(split), data.sample_names(split), labels).metrics()
    return metrics["mae"], metrics.get("coverage")


if __name__ == "__main__":
    main()
