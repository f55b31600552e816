"""Energies above the hull and probabilities of being stable, against DFT on crystals that were never learned.

    python benchmarks/stability.py --data DATA            # val; --split test for the last look
    python benchmarks/stability.py --data DATA --only speed

DATA holds mp36k and mp_li_co_ni_o_2024. The competing phases of a crystal are those of mp36k's training and val parts
(of val: of the training part) without its own formula, and, in a second row, the package's whole table. ``differences``
lets the crystals of the part compete with each other, by predicted energies. ``speed`` takes the time of whole
processes, beside that of ``cgcnn-ase predict`` on the same files in the same run.
"""

import argparse
import resource
from pathlib import Path

import numpy as np
import numpy.typing as npt
from _report import CGCNN_ASE, Table, finish, parser, run
from _structures import REPOSITORY, cache_folder, cif_folder
from ase import Atoms
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.data.dataset import Dataset, load_dataset, read_properties
from cgcnn_ase.prediction.predictor import Predictor
from cgcnn_ase.prediction.results import Prediction, member_values
from cgcnn_ase.stability.phases import CompetingPhase, CompetingPhases, counts, known_phases, reduced
from cgcnn_ase.stability.predicted_phases import Competition, PredictedPhase
from cgcnn_ase.stability.predictor import StabilityPredictor
from cgcnn_ase.stability.results import probability_below

TARGET = "formation_energy_per_atom"
DEGREES = (2.0, 3.0, 4.0, 6.0, 1e6)
BINS = 10
PARTS = ("accuracy", "entries", "differences", "speed")


def options() -> argparse.Namespace:
    made = parser(__doc__ or "", data=False)
    made.add_argument("--data", type=Path, required=True, help="folder that holds the data sets")
    made.add_argument("--split", choices=("val", "test"), default="val")
    made.add_argument("--within", type=float, default=0.05)
    made.add_argument(
        "--only", choices=("accuracy", "entries", "differences", "speed"), help="one part; all by default"
    )
    made.add_argument("--n", type=int, default=10_000, help="CIF files of which the time is taken")
    made.add_argument("--repeats", type=int, default=3, help="runs of each command; the fastest counts")
    made.add_argument("--model", default="formation-energy-per-atom")
    return made.parse_args()


def phases_of(dataset: Dataset, formulas: list[str], rows: npt.NDArray[np.int64]) -> CompetingPhases:
    """The lowest crystal of each formula among some rows, on the scale of the data set."""
    lowest: dict[str, CompetingPhase] = {}
    energies = np.asarray(dataset.targets)[:, 0]
    for k in rows.tolist():
        formula, energy = formulas[k], float(energies[k])
        if formula not in lowest or energy < lowest[formula].energy:
            lowest[formula] = CompetingPhase(str(dataset.ids[k]), formula, energy)
    return CompetingPhases(tuple(lowest.values()), "mp-legacy", "mp36k", "")


def hull_energies(formulas: list[str], phases: CompetingPhases, *, leave_out: bool) -> Floats:
    """Energy of the hull at each formula, eV/atom."""
    result = np.empty(len(formulas))
    for k, formula in enumerate(formulas):
        amounts = counts(formula)
        elements = sorted(amounts)
        hull, _ = phases.hull(elements, without=formula if leave_out else None)
        x = np.array([amounts[z] for z in elements])
        result[k] = float(hull.energy(x[None] / x.sum())[0][0])
    return result


def structures(dataset: Dataset, rows: npt.NDArray[np.int64]) -> list[Atoms]:
    return [
        Atoms(s.numbers, s.positions, cell=s.cell, pbc=True) for s in (dataset.structures[k] for k in rows.tolist())
    ]


def table_of_split(chosen: argparse.Namespace) -> list[Table]:
    dataset = load_dataset(chosen.data / "mp36k", target=[TARGET])
    split, truth = np.asarray(dataset.split), np.asarray(dataset.targets)[:, 0]
    formulas = [reduced(name) for name in read_properties(chosen.data / "mp36k")[0]["reduced_formula"]]
    rows = np.flatnonzero((split == chosen.split) & np.isfinite(truth))
    known = np.flatnonzero(np.isin(split, ("train",) if chosen.split == "val" else ("train", "val")))
    predictions = Predictor(chosen.model)(structures(dataset, rows)).all
    hypothetical = Predictor(chosen.model, population="hypothetical")(structures(dataset, rows)).all
    names = [formulas[k] for k in rows]
    table = Table(
        f"Energy above the hull of {len(rows)} {chosen.split} crystals",
        ("competing phases", "MAE, eV/atom", f"AUROC of within {chosen.within:g}", "share within"),
    )
    probabilities = Table(
        f"Probability of lying within {chosen.within:g} eV/atom of the hull",
        ("errors of crystals that are", "calibration error", "Brier score", "of the base rate", "90 % interval holds",
         *(f"Brier, {d:g} degrees of freedom" for d in DEGREES)),
    )  # fmt: skip
    for words, phases, leave_out in (
        ("learned parts, own formula left out", phases_of(dataset, formulas, known), True),
        ("the package's whole table", known_phases("mp-legacy"), False),
    ):
        hull = hull_energies(names, phases, leave_out=leave_out)
        predicted, true = np.array([p.value for p in predictions]) - hull, truth[rows] - hull
        stable = true <= chosen.within
        mae, share = float(np.abs(predicted - true).mean()), float(stable.mean())
        table.rows.append((words, mae, float(roc_auc_score(stable, -predicted)), share))
        if leave_out:
            for name, of_population in (("known", predictions), ("hypothetical", hypothetical)):
                p = np.stack([_probability(of_population, hull, chosen.within, degrees) for degrees in DEGREES])
                inside = [
                    q.lower <= t <= q.upper
                    for q, t in zip(of_population, truth[rows], strict=True)
                    if q.lower is not None
                ]
                brier = np.nanmean((p - stable) ** 2, axis=1)
                probabilities.rows.append(
                    (name, calibration_error(p[DEGREES.index(3.0)], stable), brier[DEGREES.index(3.0)],
                     float(np.mean((share - stable) ** 2)), float(np.mean(inside)), *brier)
                )  # fmt: skip
    return [table, probabilities]


def _probability(predictions: list[Prediction], hull: Floats, within: float, degrees: float) -> Floats:
    value, lower, upper = (
        np.array([np.nan if getattr(p, name) is None else getattr(p, name) for p in predictions], dtype=float) - hull
        for name in ("value", "lower", "upper")
    )
    return probability_below(np.full(len(value), within), value, lower, upper, degrees=degrees)


def calibration_error(p: Floats, happened: npt.NDArray[np.bool_]) -> float:
    """Mean difference of probability and frequency over ten bins of equal width, weighted by their sizes."""
    known = np.isfinite(p)
    p, happened = p[known], happened[known]
    bins = np.minimum((p * BINS).astype(int), BINS - 1)
    return float(
        sum(abs(p[bins == k].mean() - happened[bins == k].mean()) * (bins == k).mean() for k in np.unique(bins))
    )


def table_of_entries(chosen: argparse.Namespace) -> Table:
    """Today's entries of Li-Co-Ni-O, held-out formulas, with their own competing phases."""
    folder = chosen.data / "mp_li_co_ni_o_2024"
    dataset = load_dataset(folder, target=[TARGET, "e_above_hull"])
    columns = read_properties(folder)[0]
    values = np.asarray(dataset.targets)
    all_phases = tuple(
        CompetingPhase(str(name), reduced(formula), float(energy))
        for name, formula, energy in zip(dataset.ids, columns["reduced_formula"], values[:, 0], strict=True)
    )
    lowest = {p.formula: p for p in sorted(all_phases, key=lambda p: -p.energy)}
    phases = CompetingPhases(tuple(lowest.values()), "mp2020", "Li-Co-Ni-O", "")
    table = Table(
        "Today's entries of Li-Co-Ni-O, scale mp2020 (errors of crystals that are hypothetical)",
        ("part", "entries", "MAE, eV/atom", "Spearman", "90 % interval holds", "in domain"),
    )
    predictor = StabilityPredictor(chosen.model, entries=phases)
    for part in ("train", "val") if chosen.split == "val" else ("test",):
        rows = np.flatnonzero(columns["split"] == part)
        results = predictor(structures(dataset, rows)).all
        truth = values[rows, 1]
        value = np.array([row.e_above_hull for row in results])
        inside = [row.lower <= t <= row.upper for row, t in zip(results, truth, strict=True) if row.lower is not None]
        table.rows.append(
            (part, len(rows), float(np.abs(value - truth).mean()), float(spearmanr(value, truth).statistic),
             float(np.mean(inside)), float(np.mean([bool(row.in_domain) for row in results])))
        )  # fmt: skip
    return table


def table_of_differences(chosen: argparse.Namespace) -> Table:
    """Crystals that fall apart into others of their part, all of these predicted, against DFT of the same mixtures."""
    dataset = load_dataset(chosen.data / "mp36k", target=[TARGET])
    split, truth = np.asarray(dataset.split), np.asarray(dataset.targets)[:, 0]
    formulas = [reduced(name) for name in read_properties(chosen.data / "mp36k")[0]["reduced_formula"]]
    rows = np.flatnonzero((split == chosen.split) & np.isfinite(truth))
    parts = ("train",) if chosen.split == "val" else ("train", "val")
    phases = phases_of(dataset, formulas, np.flatnonzero(np.isin(split, parts) & np.isfinite(truth)))
    table = Table(
        f"{chosen.split} crystals that fall apart into others of their part, whose energies are predicted",
        ("errors of crystals that are", "crystals", "MAE, eV/atom", "mean (error / std)²", "90 % interval holds",
         "with independent errors", "width, eV/atom", "with independent errors"),
    )  # fmt: skip
    for population in ("known", "hypothetical"):
        predictor = Predictor(chosen.model, population=population)
        pairs = predictor.stream_with(member_values, structures(dataset, rows))
        crystals = [
            PredictedPhase(str(n), formulas[k], p.value, p.std, p.lower, p.upper, members)
            for n, (k, (p, members)) in enumerate(zip(rows.tolist(), pairs, strict=True))
        ]
        table.rows.append((population, *_differences(crystals, truth[rows], phases)))
    return table


def _differences(crystals: list[PredictedPhase], truth: Floats, phases: CompetingPhases) -> tuple[float, ...]:
    inside = [crystal for crystal in crystals if crystal.lower is not None]
    competition = Competition(phases, inside)
    figures = []
    for crystal in inside:
        above = competition.above_hull(crystal)
        others = [(int(part.id), part.fraction) for part in above.decomposition if part.predicted]
        if not others or above.lower is None or not above.std:
            continue
        c = np.array([1.0, *(-x for _, x in others)])
        chosen = [crystal, *(crystals[k] for k, _ in others)]
        energies = np.array([each.energy for each in chosen])
        error = c @ (truth[[int(each.id) for each in chosen]] - energies)
        down, up = (np.array([abs(getattr(each, end) - each.energy) for each in chosen]) for end in ("lower", "upper"))
        apart = [np.sqrt(c**2 @ np.where(c > 0, *sides) ** 2) for sides in ((down, up), (up, down))]
        together = above.value - above.lower, above.upper - above.value
        figures.append((error, error / above.std, *(-w[0] <= error <= w[1] for w in (together, apart)),
                        sum(together), sum(apart)))  # fmt: skip
    error, z, holds, holds_apart, width, width_apart = np.array(figures, dtype=float).T
    means = (abs(error), z**2, holds, holds_apart, width, width_apart)
    return len(figures), *(float(each.mean()) for each in means)


def table_of_speed(chosen: argparse.Namespace) -> Table:
    """Whole processes, in turn."""
    folder = cif_folder(chosen.n, chosen.data / "mp36k")
    table = Table(
        "Whole processes, the fastest run of each, and its ratio to predict",
        ("files", "command", "seconds", "ratio", "seconds of all cores", "ratio"),
    )
    for words, path in ((str(folder), folder.path), ("examples/structures", REPOSITORY / "examples" / "structures")):
        taken: dict[str, list[tuple[float, float]]] = {"predict": [], "stability": []}
        for _ in range(chosen.repeats):
            for command, figures in taken.items():
                output = cache_folder() / f"stability-speed-{command}.csv"
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                seconds, _ = run([CGCNN_ASE, command, str(path), "--output", str(output)], allowed=(0, 1))
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                figures.append((seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))
        first = np.min(taken["predict"], axis=0)
        for command, figures in taken.items():
            seconds, of_cores = np.min(figures, axis=0).tolist()
            table.rows.append((words, command, seconds, seconds / first[0], of_cores, of_cores / first[1]))
    return table


def main() -> None:
    chosen = options()
    asked = PARTS if chosen.only is None else (chosen.only,)
    tables = table_of_split(chosen) if "accuracy" in asked else []
    of_part = {"entries": table_of_entries, "differences": table_of_differences, "speed": table_of_speed}
    tables += [table(chosen) for name, table in of_part.items() if name in asked]
    finish(tables, chosen.output, vars(chosen))


if __name__ == "__main__":
    main()
