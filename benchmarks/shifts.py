"""What is flagged and what the interval covers off the training set: perturbed crystals, and real DFT frames.

    python -m cgcnn_ase.zoo.distorted --data DATA     # energies by SevenNet-0, once: runs/distorted
    python benchmarks/shifts.py --data DATA           # the val split; --split test for the last look

The truth of a perturbed crystal is the label of the crystal and the potential's difference in energy. The frames of
``dft_frames`` have energies of DFT; those of the Materials Project's elements make them formation energies, and a fit
by composition adds the corrections that the labels of mp36k carry.

``--picture docs/images/trust.png --populations docs/images/populations.png`` draws what README and the documentation
show.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from _report import Table, finish, parser
from _shift_pictures import both_sides, populations
from ase import Atoms
from scipy.stats import spearmanr

from cgcnn_ase.core.elements import reference_energies
from cgcnn_ase.data.dataset import load_dataset, read_packed
from cgcnn_ase.graphs.builder import build_graphs
from cgcnn_ase.graphs.crystal_graph import Geometry, composition
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.models.registry import load_model
from cgcnn_ase.plotting.model_plots import save
from cgcnn_ase.uncertainty.contacts import structure_geometry
from cgcnn_ase.zoo.distorted import distorted_set, element_energies, load_energies, true_values
from cgcnn_ase.zoo.domains import ABOVE_HULL, above_hull

MODEL = "formation-energy-per-atom"
Floats = npt.NDArray[np.float64]
#: errors, eV/atom, of which a detector shall find those that are larger
LARGE = (0.1, 0.5, 1.0)
BATCH = 64
#: total energies of mp36k with and without the Materials Project's corrections
SCALES = ("corrected", "uncorrected")


class Judged(NamedTuple):
    """Predictions of n structures beside the truth; each (n,)."""

    error: Floats  # true less predicted value, eV/atom
    std: Floats
    lower: Floats  # ends of the interval less the predicted value
    upper: Floats
    score: Floats  # domain score
    distance: Floats  # of the embedding
    spread: Floats
    geometry: Floats  # score of contacts and volume alone

    def of(self, rows: npt.ArrayLike) -> "Judged":
        """Some of them."""
        return Judged(*(column[rows] for column in self))

    @property
    def covered(self) -> npt.NDArray[np.bool_]:
        """Whether the truth is in the interval."""
        return (self.error >= self.lower) & (self.error <= self.upper)


def predicted(model: CrystalModel, structures: Sequence[Atoms], truth: Floats, population: str = "known") -> Judged:
    """Predict structures."""
    calibration = model.calibration
    assert calibration is not None
    domain = calibration.domain
    assert domain.geometry is not None
    columns: list[list[Floats]] = []
    for k in range(0, len(structures), BATCH):
        graph = build_graphs(structures[k : k + BATCH], model.graph)
        with torch.inference_mode():
            out = model(graph)
        geometry, x = structure_geometry(graph), composition(graph).numpy()
        prediction = model.calibrated(out, x, geometry=geometry, population=population)
        assert prediction.domain is not None
        signals = domain.signals(geometry, x)
        columns.append(
            [
                prediction.value, prediction.std, prediction.lower - prediction.value,
                prediction.upper - prediction.value, np.array([v.score for v in prediction.domain]),
                np.array([v.distance for v in prediction.domain]), prediction.epistemic,
                domain.geometry.scores(signals, geometry),
            ]
        )  # fmt: skip
    value, *rest = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    return Judged(truth - value, *rest)


def line(name: str, judged: Judged) -> list[object]:
    """One row of the table of kinds."""
    size = np.abs(judged.error)
    outside = judged.score > 1
    width = judged.upper - judged.lower
    share = [float(outside[size > limit].mean()) if (size > limit).any() else None for limit in LARGE]
    return [
        name, len(size), float(np.median(size)), float(outside.mean()), *share, float(judged.covered.mean()),
        float(np.median(width)), float(width.mean()), float(spearmanr(judged.std, size)[0]),
        float(np.mean((judged.error / judged.std) ** 2)),
    ]  # fmt: skip


def detectors(ordinary: Judged, perturbed: Judged) -> list[list[object]]:
    """How well single signals tell perturbed structures with large errors from ordinary ones."""
    from sklearn.metrics import roc_auc_score

    rows = []
    for name, column in (("embedding distance", "distance"), ("spread of the members", "spread"),
                         ("contacts and volume", "geometry"), ("domain score", "score")):  # fmt: skip
        row: list[object] = [name]
        known, others = getattr(ordinary, column), getattr(perturbed, column)
        limit = np.quantile(known, 0.98)
        for size in LARGE[:2]:
            large = others[np.abs(perturbed.error) > size]
            is_large = np.concatenate([np.zeros(known.size), np.ones(large.size)])
            auc = roc_auc_score(is_large, np.concatenate([known, large]))
            row += [float(auc), float((large > limit).mean())]
        rows.append(row)
    return rows


def costs(model: CrystalModel, structures: Sequence[Atoms]) -> list[list[object]]:
    """Time a structure, ms, of the domain with and without contacts and volume, and of the whole prediction."""
    calibration = model.calibration
    assert calibration is not None
    plain = replace(calibration, domain=replace(calibration.domain, geometry=None), geometric=None)
    total = dict.fromkeys(("graph and networks", "calibration without geometry", "calibration with it"), 0.0)
    for k in range(0, len(structures), BATCH):
        start = perf_counter()
        graph = build_graphs(structures[k : k + BATCH], model.graph)
        with torch.inference_mode():
            out = model(graph)
        x, read = composition(graph).numpy(), perf_counter()
        plain.apply(out, x)
        without = perf_counter()
        calibration.apply(out, x, geometry=structure_geometry(graph))
        for name, seconds in zip(total, (read - start, without - read, perf_counter() - without), strict=True):
            total[name] += seconds
    return [[name, 1000 * seconds / len(structures)] for name, seconds in total.items()]


def corrections(data: Path) -> Floats:
    """Corrections that mp36k's labels carry, eV an atom of each element: alone, and beside oxygen or fluorine, (202,).

    Least squares over the crystals whose energies are there with and without.
    """
    dataset = load_dataset(data / "mp36k", target=[f"total_energy_per_atom_{c}_reconstructed" for c in SCALES])
    difference = np.asarray(dataset.targets)[:, 0] - np.asarray(dataset.targets)[:, 1]
    known = np.flatnonzero(np.isfinite(difference))
    columns = np.array([correction_columns(dataset.structures[int(k)].numbers) for k in known])
    return np.linalg.lstsq(columns, difference[known], rcond=None)[0]


def correction_columns(numbers: npt.ArrayLike) -> Floats:
    """Atomic fractions, and the same again where there is oxygen or fluorine."""
    fractions = np.bincount(numbers, minlength=101) / np.size(numbers)
    return np.concatenate([fractions, fractions * (fractions[[8, 9]].sum() > 0)])


def formation_energies(
    structures: Sequence[Geometry], energies: npt.ArrayLike, correction: Floats
) -> tuple[list[Atoms], Floats]:
    """Structures, and formation energies (eV/atom) with the corrections of mp36k's labels, from PBE(+U) energies (eV).

    Those without energy, or with an element whose reference energy is not known, are left out.
    """
    references, frames, values = reference_energies(), [], []
    for shape, energy in zip(structures, np.asarray(energies), strict=True):
        atoms = Atoms(numbers=shape.numbers, positions=shape.positions, cell=shape.cell, pbc=True)
        if np.isfinite(energy) and set(atoms.symbols) <= set(references):
            frames.append(atoms)
            formation = (energy - sum(references[symbol] for symbol in atoms.symbols)) / len(atoms)
            values.append(formation + correction_columns(atoms.numbers) @ correction)
    return frames, np.array(values)


def dft_frames(data: Path, split: str) -> dict[str, tuple[list[Atoms], Floats]]:
    """Frames of each set, and all two-dimensional crystals of 2DMatPedia, of which no part was used in any fit."""
    correction = corrections(data)
    ids, structures = read_packed(data / "dft_frames")
    table = pd.read_csv(data / "dft_frames" / "properties.csv.gz", keep_default_na=False, na_values=[""])
    assert ids.tolist() == table["id"].tolist()
    result = {
        str(name): formation_energies([structures[k] for k in rows.index], rows["energy"], correction)
        for name, rows in table[table["split"] == split].groupby("set")
    }
    _, flat = read_packed(data / "2dmatpedia_subset")
    table = pd.read_csv(data / "2dmatpedia_subset" / "properties.csv.gz", keep_default_na=False, na_values=[""])
    energies = table["energy_per_atom"].to_numpy() * [len(shape.numbers) for shape in flat]
    return result | {"two-dimensional": formation_energies(flat, energies, correction)}


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--split", choices=("val", "test"), default="val")
    options.add_argument("--distorted", type=Path, default=Path("runs") / "distorted")
    options.add_argument("--picture", type=Path, metavar="FILE.png", help="inside and outside of the training set")
    options.add_argument("--populations", type=Path, metavar="FILE.png", help="known and hypothetical crystals")
    chosen = options.parse_args()
    model = load_model(MODEL)
    dataset = load_dataset(chosen.data / "mp36k", target=["formation_energy_per_atom"])
    rows = np.flatnonzero(np.asarray(dataset.split) == chosen.split)
    crystals = [
        Atoms(numbers=s.numbers, positions=s.positions, cell=s.cell, pbc=True)
        for s in (dataset.structures[int(k)] for k in rows)
    ]
    labels = np.asarray(dataset.targets)[rows, 0]
    ordinary = predicted(model, crystals, labels)
    drawn = distorted_set(chosen.data, chosen.split)
    train = distorted_set(chosen.data, "train")
    energies = load_energies(chosen.distorted, chosen.split)
    mu = element_energies([train, drawn], [load_energies(chosen.distorted, "train"), energies])
    perturbed = predicted(model, [each.atoms for each in drawn.perturbed], true_values(drawn, energies, mu))
    kinds = np.array([each.kind for each in drawn.perturbed])
    amounts = np.array([each.amount for each in drawn.perturbed])
    known = np.isfinite(perturbed.error)
    lines = [line("as they are", ordinary)]
    lines += [line(kind, perturbed.of(known & (kinds == kind))) for kind in dict.fromkeys(kinds.tolist())]
    lines.append(line("rattled by 0.2 Å or more", perturbed.of(known & (kinds == "rattled") & (amounts >= 0.2))))
    lines.append(line("all perturbed", perturbed.of(known)))
    everything = Judged(*(np.concatenate(pair) for pair in zip(ordinary, perturbed.of(known), strict=True)))
    lines.append(line("perturbed and as they are", everything))
    fractions = np.array([np.bincount(s.numbers, minlength=101) / len(s.numbers) for s in dataset.structures])
    targets = np.asarray(dataset.targets)[:, 0]
    above = above_hull(fractions[rows], labels, known=fractions, known_energies=targets)
    hypothetical = predicted(model, crystals, labels, "hypothetical")
    for low, high in ((0.05, 0.4), ABOVE_HULL):
        unstable = (above >= low) & (above <= high)
        for population, judged in (("known", ordinary), ("hypothetical", hypothetical)):
            lines.append(line(f"{low:g} to {high:g} eV/atom above the hull, {population}", judged.of(unstable)))
    frames = {
        name: predicted(model, atoms, values) for name, (atoms, values) in dft_frames(chosen.data, chosen.split).items()
    }
    lines += [line(f"DFT: {name}", judged) for name, judged in frames.items()]
    header = (
        "structures", "n", "median error", "flagged", *(f"flagged of errors > {size:g}" for size in LARGE), "coverage",
        "median width", "mean width", "Spearman", "mean z²",
    )  # fmt: skip
    tables = [
        Table(f"{chosen.split}: what is flagged and covered (eV/atom)", header, lines),
        Table(
            "AUROC, and share found at 2 % false alarms",
            ("signal", "AUROC > 0.1", "found > 0.1", "AUROC > 0.5", "found > 0.5"),
            detectors(ordinary, perturbed.of(known)),
        ),
    ]
    if chosen.picture is not None:
        distorted = [(kind, perturbed.of(known & (kinds == kind))) for kind in dict.fromkeys(kinds.tolist())]
        drawn_kinds = [*distorted, *((f"DFT {name.removesuffix('-1k')}", judged) for name, judged in frames.items())]
        save(both_sides(labels, ordinary, drawn_kinds), chosen.picture)
    if chosen.populations is not None:
        save(populations(above, ordinary, hypothetical), chosen.populations)
    tables.append(Table("Time of a structure (ms)", ("part", "ms"), costs(model, crystals)))
    finish(tables, chosen.output, {"split": chosen.split, "model": MODEL, "sha256": model.sha256})


if __name__ == "__main__":
    main()
