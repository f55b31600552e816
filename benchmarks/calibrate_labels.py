"""Calibrate the formation-energy model on 20 and 50 labels of data that it was not made for, 20 draws each.

Of each set the labels are drawn from one split and the other structures of the split are the test: near-equilibrium
crystals of Alexandria in raw PBE(+U) energies without corrections, and today's Materials Project entries of Li-Co-O.
``--split test`` is for the last look.
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from _report import Table, finish, parser
from _structures import echo_stderr, require

from cgcnn_ase.core.arrays import Floats, Ints
from cgcnn_ase.core.elements import symbols
from cgcnn_ase.data.dataset import Dataset, read_table
from cgcnn_ase.data.graph_store import cached_graphs
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.models.registry import load_model
from cgcnn_ase.prediction.evaluation import RegressionEvaluation, evaluate_model
from cgcnn_ase.training.calibrate import calibrate_on

SETS = ("alexandria-random-1k", "Li-Co-O")
N_LABELS = (20, 50)


class Outcome(NamedTuple):
    """Of the structures that gave no label."""

    coverage: float
    width: float
    mae: float
    mean_squared_z: float
    n_offsets: int


def options() -> argparse.Namespace:
    made = parser(__doc__ or "", data=False)
    made.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    made.add_argument("--model", default="formation-energy-per-atom", help="name or folder")
    made.add_argument("--split", default="val", help="train, val or test")
    made.add_argument("--draws", type=int, default=20, help="sets of labels, seeds 0, 1, ...")
    return made.parse_args()


def main() -> None:
    chosen = options()
    for name in ("dft_frames", "mp_pbe_element_refs", "mp_li_co_ni_o_2024"):
        require(chosen.data, name)
    model = load_model(chosen.model)
    table = Table(
        f"{model.name} on labels of other sources, {chosen.split}",
        ["set", "labels", "coverage before", "after, mean", "lowest", "highest", "expected", "width before", "after",
         "MAE before", "after", "mean squared z", "offsets of elements kept"],
    )  # fmt: skip
    for name in SETS:
        data = labelled(chosen.data, name, chosen.split)
        before = evaluation(model, data, np.arange(len(data)))
        for n in N_LABELS:
            if n > len(data) - 5:
                table.notes.append(f"{name}: {len(data)} structures are too few for {n} labels and a test")
                continue
            outcomes = []
            for seed in range(chosen.draws):
                outcomes.append(draw(model, data, n, seed))
                echo_stderr(f"{name}, {n} labels, seed {seed}: {outcomes[-1].coverage:.3f}")
            coverage = np.array([each.coverage for each in outcomes])
            report, n_with = before.report(), sum(each.n_offsets > 0 for each in outcomes)
            row = [f"{name} ({len(data)})", n, report["coverage"], float(coverage.mean()), float(coverage.min())]
            row += [float(coverage.max()), float(np.ceil(0.9 * (n + 1) - 1e-9) / (n + 1)), width(before)]
            row += [mean(outcomes, "width"), report["mae"], mean(outcomes, "mae"), mean(outcomes, "mean_squared_z")]
            table.rows.append([*row, f"{n_with} of {len(outcomes)}"])
    finish([table], chosen.output, vars(chosen))


def labelled(folder: Path, name: str, split: str) -> Dataset:
    """Return the formation energies of a set, eV/atom."""
    if name == "Li-Co-O":
        data = read_table(folder / "mp_li_co_ni_o_2024")
        systems = data.columns["chemical_system"]
        inside = np.array([set(system.split("-")) <= {"Li", "Co", "O"} for system in systems])
        energies = data.values("formation_energy_per_atom")
    else:
        data = read_table(folder / "dft_frames")
        inside = (data.columns["set"] == name).to_numpy()
        references = json.loads((folder / "mp_pbe_element_refs" / "refs.json").read_text())
        of_element = np.array([references.get(element, np.nan) for element in symbols()])
        present = [np.flatnonzero(row) for row in data.fractions]
        sums = [row[z] @ of_element[z] for row, z in zip(data.fractions, present, strict=True)]
        energies = data.values("energy_per_atom") - np.array(sums)
    assert data.split is not None
    rows = np.flatnonzero(inside & (data.split == split) & np.isfinite(energies))
    taken = data.take(rows)
    return Dataset(taken.ids, list(taken.structures), energies[rows][:, None])


def draw(model: CrystalModel, data: Dataset, n: int, seed: int) -> Outcome:
    """Calibrate on n labels and test on the others."""
    order = np.random.default_rng(seed).permutation(len(data))
    calibrated = calibrate_on(model, data.take(order[:n]), seed=seed)
    result = evaluation(calibrated, data, order[n:])
    assert result.std is not None
    report = result.report()
    squares = float(np.mean(((result.target - result.mean) / result.std) ** 2))
    n_offsets = len(calibrated.training_record["calibrated_on_labels"]["shift"]["offsets"])
    return Outcome(float(report["coverage"] or 0.0), width(result), float(report["mae"] or 0.0), squares, n_offsets)


def evaluation(model: CrystalModel, data: Dataset, rows: Ints) -> RegressionEvaluation:
    part = data.take(rows)
    graphs = cached_graphs(list(part.structures), model.graph)
    result = evaluate_model(model, graphs, np.arange(len(part)), part.ids, part.targets[:, 0])
    assert isinstance(result, RegressionEvaluation)
    return result


def width(result: RegressionEvaluation) -> float:
    assert result.lower is not None
    assert result.upper is not None
    widths: Floats = result.upper - result.lower
    return float(np.nanmean(widths))


def mean(outcomes: list[Outcome], name: str) -> float:
    return float(np.mean([getattr(each, name) for each in outcomes]))


if __name__ == "__main__":
    main()
