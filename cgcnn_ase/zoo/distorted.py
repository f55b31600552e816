"""Distorted crystals with a potential's energies: what teaches a pretrained model how wrong it is off equilibrium.

``python -m cgcnn_ase.zoo.distorted --data FOLDER`` labels them with SevenNet-0 (the extra ``[sevenn]``).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from cgcnn_ase.core.arrays import Floats, Ints
from cgcnn_ase.core.elements import MAX_NUMBER, reference_energies, symbols
from cgcnn_ase.core.errors import require
from cgcnn_ase.core.progress import with_progress
from cgcnn_ase.data.dataset import Dataset, load_dataset
from cgcnn_ase.zoo.perturbations import KINDS, Perturbed, perturb

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

    from cgcnn_ase.graphs.geometry import Geometry

Split = Literal["train", "val", "test"]
DATA, TARGET = "mp36k", "formation_energy_per_atom"
# crystals that are distorted, and structures of each kind, by split
_SIZES: dict[Split, tuple[int, int]] = {"train": (400, 330), "val": (110, 130), "test": (110, 300)}
_MAX_ATOMS = 14
_SEED = 7
# ridge that holds the potential's element energies at those of DFT, in crystals
_RIDGE = 0.02
POTENTIALS = ("sevennet-0", "chgnet")


class DistortedSet(NamedTuple):
    """Crystals of a split with their labels, and perturbed copies of them."""

    crystals: "list[Atoms]"
    labels: Floats  # formation energy, eV/atom
    perturbed: list[Perturbed]


class DistortedEnergies(NamedTuple):
    """Energies of a set by a potential, eV a cell; NaN where it failed."""

    crystals: Floats
    perturbed: Floats


def distorted_set(data: Path, split: Split) -> DistortedSet:
    """Draw small crystals of a split of the data set, and perturb them; always the same ones."""
    from ase import Atoms

    dataset, rows = _drawn(data, split)
    crystals = [
        Atoms(numbers=s.numbers, positions=s.positions, cell=s.cell, pbc=True)
        for s in (dataset.structures[int(row)] for row in rows)
    ]
    labels = np.asarray(dataset.targets)[rows, 0]
    return DistortedSet(crystals, labels, list(perturb(crystals, n=_SIZES[split][1], seed=0)))


def distorted_ids(data: Path, split: Split) -> list[str]:
    """Ids of the crystals of :func:`distorted_set`."""
    dataset, rows = _drawn(data, split)
    return [str(dataset.ids[int(row)]) for row in rows]


def _drawn(data: Path, split: Split) -> tuple[Dataset, Ints]:
    dataset = load_dataset(data / DATA, target=[TARGET])
    assert dataset.split is not None
    sizes = np.array([len(structure.numbers) for structure in dataset.structures])
    labels, splits = np.asarray(dataset.targets)[:, 0], np.asarray(dataset.split)
    rng = np.random.default_rng(_SEED)
    for name, (n_crystals, _) in _SIZES.items():
        rows = np.flatnonzero(np.isfinite(labels) & (splits == name) & (sizes <= _MAX_ATOMS))
        rows = rng.permutation(rows)[:n_crystals]
        if name == split:
            break
    return dataset, rows


def potential(name: str) -> "Calculator":
    """An ASE calculator of the potential; ValueError of another name, MissingExtraError if it is not installed."""
    if name == "sevennet-0":
        require("sevenn", "energies of distorted crystals")
        from sevenn.calculator import SevenNetCalculator

        calculator: Calculator = SevenNetCalculator("7net-0", device="cpu")
        return calculator
    if name == "chgnet":
        from cgcnn_ase.energies.interface import chgnet_calculator

        return chgnet_calculator()
    raise ValueError(f"no potential {name!r}; allowed are {', '.join(POTENTIALS)}")


def label(structures: "Sequence[Atoms]", calculator: "Calculator", file: Path) -> Floats:
    """Energies of structures, eV a cell, kept in ``file`` every 100; a run that was stopped goes on there.

    A structure that the potential refuses has NaN; each is named on stderr.
    """
    energies = np.full(len(structures), np.nan)
    done = 0
    if file.exists():
        known = np.load(file, allow_pickle=False)
        done = known.size
        energies[:done] = known
    for k in with_progress(range(done, len(structures)), "labelling", total=len(structures) - done):
        atoms = structures[k].copy()
        atoms.calc = calculator
        try:
            energies[k] = atoms.get_potential_energy()
        except (ValueError, RuntimeError) as error:
            sys.stderr.write(f"{file.stem}, structure {k}: {error}\n")
        if k % 100 == 99:
            np.save(file, energies[: k + 1])
    np.save(file, energies)
    return energies


def load_energies(folder: Path, split: Split) -> DistortedEnergies:
    """Energies that :func:`main` left in a folder."""
    return DistortedEnergies(*(np.load(folder / f"{split}-{part}.npy") for part in ("crystals", "perturbed")))


def element_energies(sets: Sequence[DistortedSet], energies: Sequence[DistortedEnergies]) -> Floats:
    """Energies of the elements, (101,) eV an atom, that bring the potential onto the scale of the labels.

    Robust least squares over the crystals as they are: labels of a database carry corrections by composition.
    """
    counts = np.concatenate([element_counts(each.crystals) for each in sets])
    n = counts.sum(axis=1)
    y = np.concatenate([e.crystals for e in energies]) / n - np.concatenate([each.labels for each in sets])
    start = np.array([reference_energies().get(symbol, -5.0) for symbol in symbols()])
    known = np.isfinite(y)
    return fit_offsets((counts / n[:, None])[known], y[known], start)


def fit_offsets(x: Floats, y: Floats, start: Floats, *, ridge: float = _RIDGE) -> Floats:
    """Coefficients b, (m,), near ``start`` for which x @ b, (n, m) @ (m,), is y (n,) of most rows.

    Least squares with a ridge, reweighted five times so that the rows that are met worst count for less.
    """
    weights = np.ones(len(y))
    b = start
    for _ in range(5):
        normal = x.T @ (x * weights[:, None]) + ridge * np.eye(x.shape[1])
        b = start + np.linalg.solve(normal, x.T @ (weights * (y - x @ start)))
        residual = np.abs(y - x @ b)
        weights = np.minimum(1.0, 2 * 1.4826 * np.median(residual) / np.maximum(residual, 1e-9))
    return np.asarray(b)


def true_values(distorted: DistortedSet, energies: DistortedEnergies, mu: Floats) -> Floats:
    """Formation energies of the perturbed crystals, eV/atom: label of the crystal plus the potential's difference."""
    before, after = element_counts(distorted.crystals), element_counts([each.atoms for each in distorted.perturbed])
    of_crystal = (energies.crystals - before @ mu) / before.sum(axis=1)
    of_perturbed = (energies.perturbed - after @ mu) / after.sum(axis=1)
    base = np.array([each.base for each in distorted.perturbed])
    return np.asarray(of_perturbed + (distorted.labels - of_crystal)[base])


def element_counts(structures: "Sequence[Atoms | Geometry]") -> Floats:
    """Atoms of each element, (n, 101)."""
    return np.array([np.bincount(atoms.numbers, minlength=MAX_NUMBER + 1) for atoms in structures], dtype=float)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the data sets")
    parser.add_argument("--output", type=Path, default=Path("runs") / "distorted")
    parser.add_argument("--potential", choices=POTENTIALS, default=POTENTIALS[0])
    parser.add_argument("--split", choices=list(_SIZES), action="append", help="all by default")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    calculator = potential(options.potential)
    for split in options.split or _SIZES:
        drawn = distorted_set(options.data, split)
        label(drawn.crystals, calculator, options.output / f"{split}-crystals.npy")
        label([each.atoms for each in drawn.perturbed], calculator, options.output / f"{split}-perturbed.npy")
    sys.stdout.write(f"{options.output}: {', '.join(KINDS)}\n")


if __name__ == "__main__":
    main()
