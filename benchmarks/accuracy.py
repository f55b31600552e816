"""Errors and calibration of a model on the val and test splits of a packed data set, beside the original CGCNN's.

``--picture docs/images/accuracy.png`` draws what README shows.
"""

import argparse
from pathlib import Path

import numpy as np
from _report import Table, finish, original_weights, parser
from _structures import TARGET, cache_folder, echo_stderr, require

from cgcnn_ase.data.dataset import Dataset, load_dataset
from cgcnn_ase.data.graph_store import cached_graphs
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.models.registry import load_model
from cgcnn_ase.plotting import model_plots as plots
from cgcnn_ase.prediction.evaluation import ModelEvaluation, RegressionEvaluation, evaluate_model

#: title of a row -> key of `ModelEvaluation.summary`
_ROWS = {
    "MAE of the ensemble": "mae",
    "MAE of a single member, mean": "member_mae_mean",
    "MAE of a single member, best": "member_mae_min",
    "MAE of a single member, worst": "member_mae_max",
    "RMSE": "rmse",
    "R²": "r2",
    "coverage of the 90 % interval": "coverage",
    "mean width of the interval": "interval_width",
    "mean std (sharpness)": "sharpness",
    "Spearman(std, abs. error)": "spearman",
    "mean squared z-score (1: calibrated)": "mean_squared_z",
    "lower end of its 95 % interval": "mean_squared_z_low",
    "upper end": "mean_squared_z_high",
    "ENCE": "ence",
    "ENCE that a perfect std would show": "ence_noise",
    "miscalibration area": "miscalibration_area",
    "NLL": "nll",
    "share in domain": "in_domain_fraction",
}
_ERRORS = ("mae", "rmse", "r2")


def options() -> argparse.Namespace:
    made = parser(__doc__ or "")
    made.add_argument("--model", default="formation-energy-per-atom", help="name or folder")
    made.add_argument("--limit", type=int, help="crystals of each split; all by default")
    made.add_argument("--picture", type=Path, metavar="FILE.png", help="parity and calibration on the test split")
    return made.parse_args()


def main() -> None:
    chosen = options()
    require(chosen.data.parent, chosen.data.name)
    dataset = load_dataset(chosen.data, target=TARGET)
    model = load_model(chosen.model)
    result = {split: evaluate(model, dataset, split, chosen.limit) for split in ("test", "val")}
    table = Table(
        f"{model.name}, {chosen.data.name}",
        ["what", *(f"{split} ({len(result[split].ids):,})" for split in result)],
        notes=[
            f"{len(model.networks)} members, weights sha256 {model.sha256[:12]}; energies in {model.target.unit}",
            "the model was chosen and calibrated on val: figures of val are no measure of it",
        ],
    )
    summaries = {split: evaluation.summary() for split, evaluation in result.items()}
    for title, key in _ROWS.items():
        table.rows.append([title, *(summaries[split].get(key) for split in result)])
    finish([table, original_table(dataset, chosen.limit)], chosen.output, vars(chosen))
    if chosen.picture is not None:
        chosen.picture.parent.mkdir(parents=True, exist_ok=True)
        echo_stderr(f"wrote {draw(result['test'], model, chosen.picture)}")


def evaluate(model: CrystalModel, dataset: Dataset, split: str, limit: int | None) -> ModelEvaluation:
    """Predictions of one split."""
    rows = np.flatnonzero(np.asarray(dataset.split) == split)[:limit]
    echo_stderr(f"{model.name}: {len(rows):,} crystals of {split}")
    graphs = cached_graphs([dataset.structures[i] for i in rows], model.graph, folder=cache_folder())
    ids = [dataset.ids[i] for i in rows]
    return evaluate_model(model, graphs, np.arange(len(rows)), ids, dataset.targets[rows, 0], engine="torch")


def original_table(dataset: Dataset, limit: int | None) -> Table:
    """The original weights on the same crystals."""
    model = load_model(original_weights())
    summary = evaluate(model, dataset, "test", limit).summary()
    table = Table(
        "The original CGCNN weights (formation-energy-per-atom.pth.tar), test",
        ["what", "test"],
        notes=["not a fair figure of theirs: they saw most of these crystals in training", "they give no uncertainty"],
    )
    table.rows = [[title, summary[key]] for title, key in _ROWS.items() if key in _ERRORS]
    table.rows[0] = ["MAE", summary["mae"]]
    return table


def draw(result: ModelEvaluation, model: CrystalModel, file: Path) -> Path:
    """Parity, calibration, and error against std."""
    if not isinstance(result, RegressionEvaluation) or result.std is None:
        raise SystemExit(f"{model.name}: gives no std to draw")
    name = model.target.name.replace("_per_atom", "").replace("_", " ")
    figure = plots.summary(
        result.target, result.mean, result.std, result.lower, result.upper, name=name, unit=model.target.unit
    )
    return plots.save(figure, file)


if __name__ == "__main__":
    main()
