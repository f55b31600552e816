"""Every pretrained model on the test split of its data set, beside the published figures of the older projects.

DATA holds the folders that the recipes name (mp36k, mp_elastic).
"""

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from _report import Table, finish, parser
from _structures import cache_folder, data_root, echo_stderr, require

from cgcnn_ase.data.dataset import load_dataset
from cgcnn_ase.data.graph_store import cached_graphs
from cgcnn_ase.models.registry import ModelRef, find_models, load_refs
from cgcnn_ase.prediction.evaluation import ModelEvaluation, RegressionEvaluation, embeddings_of, evaluate_model
from cgcnn_ase.zoo.train import load_recipe, recipe_names

#: published test errors: CGCNN (Xie and Grossman 2018, 28,046 training crystals for the energies), MEGNet (Chen et al.
#: 2019, 60,000), ALIGNN (Choudhary and DeCost 2021, 60,000); other crystals and random splits, so only a rough measure
PUBLISHED: dict[str, tuple[float | None, float | None, float | None]] = {
    "formation_energy_per_atom": (0.039, 0.028, 0.022),
    "band_gap": (0.388, 0.33, 0.218),
    "is_metal": (0.95, None, None),
    "efermi": (0.363, None, None),
    "total_energy_per_atom": (0.072, None, None),
    "bulk_modulus": (0.054, 0.050, None),
    "shear_modulus": (0.087, 0.079, None),
    "poisson_ratio": (0.030, None, None),
}


def options() -> argparse.Namespace:
    made = parser(__doc__ or "")
    made.add_argument("--limit", type=int, help="crystals of each test split; all by default")
    return made.parse_args()


def main() -> None:
    chosen = options()
    root = data_root(chosen.data) if chosen.data.is_dir() else chosen.data.parent
    require(root, "mp36k", "mp_elastic")
    table = Table(
        "The zoo on its test splits",
        ["model", "unit", "test crystals", "error", "one member", "coverage", "CGCNN", "MEGNet", "ALIGNN"],
        notes=[
            "error: MAE, in what the network learned (log10 of the moduli); of is-metal the area under the ROC curve",
            "the last three columns: published, of other crystals, in random splits",
        ],
    )
    more = Table("More of some of them", ["what", "value"])
    for name in recipe_names():
        if not (root / load_recipe(name).data).is_dir():
            echo_stderr(f"{name}: has a benchmark of its own")
            continue
        refs = _refs(name)
        if refs is None:
            echo_stderr(f"{name}: not trained")
            continue
        for model_name, target, unit, result in evaluate(name, refs, root, chosen.limit):
            table.rows.append(row(model_name, target, unit, result))
            more.rows += extra(model_name, target, result)
    finish([table, more], chosen.output, vars(chosen))


def _refs(name: str) -> list[ModelRef] | None:
    try:
        return find_models(name)
    except ValueError:
        return None


def evaluate(name: str, refs: list[ModelRef], root: Path, limit: int | None) -> list[tuple[str, str, str, Any]]:
    """Name, target, unit and evaluation of each model of a folder, which share the embeddings."""
    recipe = load_recipe(name)
    dataset = load_dataset(root / recipe.data, target=recipe.columns)
    rows = np.flatnonzero(np.asarray(dataset.split) == "test")[:limit]
    echo_stderr(f"{name}: {len(rows):,} crystals")
    models = load_refs(refs)
    graphs = cached_graphs([dataset.structures[i] for i in rows], models[0].graph, folder=cache_folder())
    every = np.arange(len(rows))
    embeddings = embeddings_of(models[0], graphs, every)
    ids = [dataset.ids[i] for i in rows]
    result = []
    for column, (model, target) in enumerate(zip(models, recipe.targets, strict=True)):
        values = dataset.targets[rows, column]
        one = evaluate_model(model, graphs, every, ids, values, embeddings=embeddings)
        result.append((model.name, target.name, target.learned_unit, one))
    return result


def row(model: str, target: str, unit: str, result: ModelEvaluation) -> list[Any]:
    """One line of the table."""
    figures: dict[str, Any] = defaultdict(lambda: None, result.summary())
    single = figures[f"member_{result.headline}_mean"]
    published = PUBLISHED.get(target, (None, None, None))
    return [model, unit, len(result.ids), figures[result.headline], single, figures["coverage"], *published]


def extra(model: str, target: str, result: ModelEvaluation) -> list[list[Any]]:
    """What a mean over all crystals does not show."""
    if not isinstance(result, RegressionEvaluation):
        figures = result.metrics()
        return [[f"{model}: {name}", figures[name]] for name in ("accuracy", "f1", "nll", "ece", "set_size")]
    rows = [[f"{model}: {name}", result.metrics()[name]] for name in ("spearman", "ence", "ence_noise")]
    if target == "band_gap":
        gapped = result.target > 0
        error = np.abs(result.target - result.mean)
        rows.append([f"{model}: MAE of the {gapped.sum():,} with a gap", float(error[gapped].mean())])
    return rows


if __name__ == "__main__":
    main()
