"""Average voltages of known electrodes against DFT, by what the model has learned of the two structures.

    python benchmarks/voltages.py --data DATA                  # pairs with one of val; --split test for the last look

DATA holds mp_voltages_2019 and mp36k. A pair belongs to ``test`` where one of its structures is of mp36k's test part,
else to ``val`` where one is of val, else to ``train``. The interval of the error is a bootstrap over pairs.
"""

import argparse
from collections import Counter, defaultdict
from math import gcd
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from _report import Table, finish, parser
from ase import Atoms
from ase.data import chemical_symbols
from scipy.stats import spearmanr

from cgcnn_ase.cathodes.voltage import INTERVAL, IONS, Voltage, average_voltage
from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.data.dataset import Dataset, load_dataset
from cgcnn_ase.energies.energy_model import as_energy_model

TARGET = "formation_energy_per_atom"
SPLITS = ("test", "val", "train")
POPULATIONS = ("known", "hypothetical")
#: with one of these a compound counts as the framework of an electrode
ANIONS = {"O", "F", "S", "Cl", "Se"}
RESAMPLES = 10_000


class Pair(NamedTuple):
    """Two structures of one framework, by row of the data set, and DFT's voltage."""

    ion: str
    discharged: int
    charged: int
    voltage: float
    split: str


def options() -> argparse.Namespace:
    made = parser(__doc__ or "", data=False)
    made.add_argument("--data", type=Path, required=True, help="folder that holds the data sets")
    made.add_argument("--split", choices=SPLITS, default="val")
    made.add_argument("--model", default="formation-energy-per-atom")
    made.add_argument(
        "--differences",
        action="store_true",
        help="also of all crystals of val with another of their framework: what the interval would need to be",
    )
    return made.parse_args()


def structure(dataset: Dataset, row: int) -> Atoms:
    one = dataset.structures[row]
    return Atoms(one.numbers, one.positions, cell=one.cell, pbc=True)


def split_of(dataset: Dataset, rows: tuple[int, int]) -> str:
    """The part that says how much of a pair was learned."""
    return next(split for split in SPLITS if split in {str(dataset.split[row]) for row in rows})


def published(file: Path, dataset: Dataset) -> list[Pair]:
    """The pairs of which both structures are there."""
    frame = pd.read_csv(file, keep_default_na=False, na_values=[""])
    row = {str(name): k for k, name in enumerate(dataset.ids)}
    result = []
    for one in frame.itertuples():
        if one.id_charge in row and one.id_discharge in row:
            rows = row[one.id_discharge], row[one.id_charge]
            result.append(Pair(one.working_ion, *rows, one.average_voltage, split_of(dataset, rows)))
    return result


def voltages(pairs: list[Pair], dataset: Dataset, model: str, population: str) -> list[Voltage]:
    """What the model says, as the package gives it."""
    source = as_energy_model(model, population=population)
    return [
        average_voltage(structure(dataset, p.discharged), structure(dataset, p.charged), source, ion=p.ion)
        for p in pairs
    ]


def of_labels(pair: Pair, dataset: Dataset) -> float:
    """The voltage of the data set's own energies."""
    cells = [structure(dataset, row) for row in (pair.discharged, pair.charged)]
    for atoms, row in zip(cells, (pair.discharged, pair.charged), strict=True):
        atoms.info["energy"] = len(atoms) * float(np.asarray(dataset.targets)[row, 0])
    return average_voltage(*cells, "stored", lithium=0.0, ion=pair.ion).voltage


def table_of_pairs(chosen: argparse.Namespace, dataset: Dataset, pairs: list[Pair]) -> Table:
    table = Table(
        f"Average voltages of {len(pairs)} electrodes, {chosen.split} (V)",
        ("errors of crystals that are", "MAE", "90 % of it (bootstrap)", "median", "mean (predicted less DFT)",
         "mean std", "90 % interval holds", "Spearman of std and error"),
    )  # fmt: skip
    truth = np.array([pair.voltage for pair in pairs])
    rng = np.random.default_rng(0)
    for population in POPULATIONS:
        results = voltages(pairs, dataset, chosen.model, population)
        error = np.array([result.voltage for result in results]) - truth
        std = np.array([result.std for result in results], dtype=float)
        ends = np.array([(result.lower, result.upper) for result in results], dtype=float)
        inside = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
        means = np.abs(error)[rng.integers(len(error), size=(RESAMPLES, len(error)))].mean(axis=1)
        low, high = np.quantile(means, (0.05, 0.95))
        table.rows.append(
            (population, float(np.abs(error).mean()), f"{low:.2f} to {high:.2f}", float(np.median(np.abs(error))),
             float(error.mean()), float(std.mean()), f"{100 * inside.mean():.0f} %",
             float(spearmanr(std, np.abs(error)).statistic))
        )  # fmt: skip
    learned = np.array([of_labels(pair, dataset) for pair in pairs]) - truth
    table.notes.append(
        f"voltages of mp36k's own energies, which the model learned, differ from these by {np.abs(learned).mean():.2f} "
        f"V (median {np.median(np.abs(learned)):.2f} V)"
    )
    ions = Counter(pair.ion for pair in pairs)
    table.notes.append("ions: " + ", ".join(f"{ion} {n}" for ion, n in ions.most_common()))
    return table


class Difference(NamedTuple):
    """Two crystals of one framework by row of the data set, the richer in ions first, and the units in each cell."""

    framework: tuple[str, str]
    rows: tuple[int, int]
    units: tuple[int, int]


def differences(dataset: Dataset) -> list[Difference]:
    """All pairs of crystals of one framework of which one is of val and none of test."""
    groups: dict[tuple[str, str], list[tuple[float, int, int]]] = defaultdict(list)
    for row in np.flatnonzero((np.asarray(dataset.split) != "test") & np.isfinite(np.asarray(dataset.targets)[:, 0])):
        amounts = Counter(chemical_symbols[z] for z in dataset.structures[row].numbers)
        for ion in IONS:
            rest = {symbol: n for symbol, n in amounts.items() if symbol != ion}
            if ANIONS & rest.keys():
                units = gcd(*rest.values())
                name = " ".join(f"{symbol}{n // units}" for symbol, n in sorted(rest.items()))
                groups[ion, name].append((amounts[ion] / units, int(row), units))
    return [
        Difference(framework, (rich, poor), (n_rich, n_poor))
        for framework, members in groups.items()
        for x, rich, n_rich in members
        for y, poor, n_poor in members
        if x > y and split_of(dataset, (rich, poor)) == "val"
    ]


def table_of_differences(chosen: argparse.Namespace, dataset: Dataset) -> Table:
    """Errors of differences of energies over their std; the frameworks count alike."""
    pairs = differences(dataset)
    rows = sorted({row for pair in pairs for row in pair.rows})
    column = {row: k for k, row in enumerate(rows)}
    truth = np.asarray(dataset.targets)[rows, 0] * [len(dataset.structures[row].numbers) for row in rows]
    n_pairs = Counter(pair.framework for pair in pairs)
    weights = np.array([1 / n_pairs[pair.framework] for pair in pairs]) / len(n_pairs)
    table = Table(
        f"Differences of energies of {len(rows)} crystals with another of their framework, one of val",
        ("errors of crystals that are", "pairs", "frameworks", "error / std that 68 % stay below", "90 %", "95 %",
         f"below {INTERVAL:g}"),
    )  # fmt: skip
    for population in POPULATIONS:
        source = as_energy_model(chosen.model, population=population, references="none")
        energies = source.energies([structure(dataset, row) for row in rows])
        ratios = np.empty(len(pairs))
        for k, pair in enumerate(pairs):
            c = np.zeros(len(rows))
            c[[column[row] for row in pair.rows]] = 1 / pair.units[0], -1 / pair.units[1]
            one = energies.combine(c)
            assert one.std is not None
            ratios[k] = abs(c @ truth - one.value) / one.std
        quantiles = (_quantile(ratios, weights, level) for level in (0.683, 0.9, 0.95))
        below = float(weights @ (ratios < INTERVAL))
        table.rows.append((population, len(pairs), len(n_pairs), *quantiles, f"{100 * below:.0f} %"))
    return table


def _quantile(values: Floats, weights: Floats, level: float) -> float:
    order: npt.NDArray[np.intp] = np.argsort(values)
    shares = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(shares, level)])


def main() -> None:
    chosen = options()
    dataset = load_dataset(chosen.data / "mp36k", target=[TARGET])
    pairs = published(chosen.data / "mp_voltages_2019" / "voltages.csv.gz", dataset)
    tables = [table_of_pairs(chosen, dataset, [pair for pair in pairs if pair.split == chosen.split])]
    if chosen.differences:
        tables.append(table_of_differences(chosen, dataset))
    finish(tables, chosen.output, vars(chosen))


if __name__ == "__main__":
    main()
