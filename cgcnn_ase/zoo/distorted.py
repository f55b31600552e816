"""Distorted crystals with a potential's energies: what teaches a pretrained model how wrong it is off equilibrium.

``python -m cgcnn_ase.zoo.distorted --data FOLDER`` labels them with SevenNet-0 (the extra ``[sevenn]``).
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from cgcnn_ase.core.arrays import Floats, Ints
from cgcnn_ase.core.elements import MAX_NUMBER, reference_energies, symbols
from cgcnn_ase.core.errors import require, unknown_name
from cgcnn_ase.core.progress import with_progress
from cgcnn_ase.data.dataset import Dataset, load_dataset

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

    from cgcnn_ase.graphs.crystal_graph import Geometry


# linear strains, standard deviations of the rattling in Å, and vacuum in Å that are drawn from
_SCALES = (0.70, 0.80, 0.88, 0.93, 0.97, 1.03, 1.07, 1.15, 1.30)
_RATTLES = (0.05, 0.1, 0.2, 0.3, 0.5)
_VACUUM = 12.0
# atoms of a supercell that a point defect is made in, about
_SUPERCELL_ATOMS = 16
# no two atoms of a soup are nearer than this, in Å
_SOUP_CONTACTS = (0.8, 1.2, 1.6)
# elements that substitutions draw from: those of most crystals of the Materials Project
_SUBSTITUTES = (
    3, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 20, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 37, 38, 39, 40,
    41, 42, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 55, 56, 57, 72, 73, 74, 77, 78, 79, 82, 83,
)  # fmt: skip


class Perturbed(NamedTuple):
    """A perturbed crystal, which crystal it comes from, and by how much it was pushed."""

    atoms: "Atoms"
    kind: str
    base: int  # index of the crystal among those given
    amount: float  # linear strain, Å of rattling, shortest contact allowed, or 0


def strained(atoms: "Atoms", rng: np.random.Generator) -> tuple["Atoms", float]:
    """Scale the cell, with a little shear."""
    scale = float(rng.choice(_SCALES))
    strain = np.eye(3) * scale + rng.normal(0, 0.02, (3, 3))
    return _with_cell(atoms, atoms.cell.array @ strain), scale - 1


def rattled(atoms: "Atoms", rng: np.random.Generator) -> tuple["Atoms", float]:
    """Displace all atoms at random."""
    sigma = float(rng.choice(_RATTLES))
    moved = atoms.copy()
    moved.positions += rng.normal(0, sigma, moved.positions.shape)
    return moved, sigma


def permuted(atoms: "Atoms", rng: np.random.Generator) -> tuple["Atoms", float]:
    """Exchange the elements among the sites; ValueError of an elemental crystal."""
    if len(set(atoms.numbers.tolist())) < 2:
        raise ValueError("all atoms are of one element")
    mixed = atoms.copy()
    while np.array_equal(mixed.numbers, atoms.numbers):
        mixed.numbers = rng.permutation(atoms.numbers)
    return mixed, 0.0


def soup(atoms: "Atoms", rng: np.random.Generator) -> tuple["Atoms", float]:
    """Put the atoms at random places of the cell, none nearer to another than a chosen distance where that fits."""
    from ase.geometry import get_distances

    least = float(rng.choice(_SOUP_CONTACTS))
    mixed = atoms.copy()
    sites: list[list[float]] = []
    for _ in range(len(atoms)):
        for _ in range(50):
            site = (rng.random(3) @ atoms.cell.array).tolist()
            near = get_distances([site], sites, cell=atoms.cell, pbc=True)[1].min() if sites else np.inf
            if near >= least:
                break
        sites.append(site)
    mixed.positions = sites
    return mixed, least


def substituted(atoms: "Atoms", rng: np.random.Generator) -> tuple["Atoms", float]:
    """Replace one element by another, the cell scaled by their covalent radii."""
    from ase.data import covalent_radii

    old = int(rng.choice(sorted(set(atoms.numbers.tolist()))))
    new = int(rng.choice([z for z in _SUBSTITUTES if z not in atoms.numbers]))
    changed = atoms.copy()
    changed.numbers[atoms.numbers == old] = new
    scale = covalent_radii[changed.numbers].mean() / covalent_radii[atoms.numbers].mean()
    return _with_cell(changed, changed.cell.array * scale), 0.0


def vacancy(atoms: "Atoms", rng: np.random.Generator) -> tuple["Atoms", float]:
    """Take one atom out of a supercell."""
    cell = _supercell(atoms)
    del cell[int(rng.integers(len(cell)))]
    return cell, 0.0


def interstitial(atoms: "Atoms", rng: np.random.Generator) -> tuple["Atoms", float]:
    """Put one more atom of the crystal's own elements into the largest of some random holes of a supercell."""
    from ase.geometry import get_distances

    cell = _supercell(atoms)
    holes = rng.random((64, 3)) @ cell.cell.array
    room = get_distances(holes, cell.positions, cell=cell.cell, pbc=True)[1].min(axis=1)
    cell.append(int(rng.choice(atoms.numbers)))
    cell.positions[-1] = holes[int(np.argmax(room))]
    return cell, 0.0


def slab(atoms: "Atoms", rng: np.random.Generator) -> tuple["Atoms", float]:
    """Cut along a lattice plane and put vacuum between, the cell repeated once where it is thin."""
    axis = int(rng.integers(3))
    repeats = [1, 1, 1]
    repeats[axis] = 2 if len(atoms) <= _SUPERCELL_ATOMS // 2 else 1
    cut = atoms * repeats
    cut.wrap(pbc=True)
    return _opened(cut, [axis]), 0.0


def molecule(atoms: "Atoms", rng: np.random.Generator) -> tuple["Atoms", float]:
    """Take the contents of one cell out into vacuum, or a single atom."""
    if rng.random() < 0.25:
        return _opened(atoms[[int(rng.integers(len(atoms)))]], [0, 1, 2]), 0.0
    return _opened(atoms.copy(), [0, 1, 2]), 0.0


KINDS: dict[str, Callable[["Atoms", np.random.Generator], tuple["Atoms", float]]] = {
    "strained": strained,
    "rattled": rattled,
    "permuted": permuted,
    "soup": soup,
    "substituted": substituted,
    "vacancy": vacancy,
    "interstitial": interstitial,
    "slab": slab,
    "molecule": molecule,
}


def perturb(
    crystals: Sequence["Atoms"], *, n: int, kinds: Sequence[str] = tuple(KINDS), seed: int = 0
) -> Iterator[Perturbed]:
    """So many perturbed crystals of each kind; the same seed gives the same ones.

    Raises
    ------
    ValueError
        If a kind does not exist, or none of the crystals can be perturbed in that way.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise unknown_name("kind of perturbation", kind, list(KINDS))
        rng = np.random.default_rng([seed, list(KINDS).index(kind)])
        made = tried = 0
        while made < n:
            base = int(rng.integers(len(crystals)))
            tried += 1
            try:
                atoms, amount = KINDS[kind](crystals[base], rng)
            except ValueError:
                if tried > 100 * n and not made:
                    raise
                continue
            made += 1
            yield Perturbed(atoms, kind, base, amount)


def _with_cell(atoms: "Atoms", cell: np.typing.NDArray[np.float64]) -> "Atoms":
    changed: Atoms = atoms.copy()
    changed.set_cell(cell, scale_atoms=True)
    return changed


def _supercell(atoms: "Atoms") -> "Atoms":
    """Repeat the shortest cell vector until there are enough atoms."""
    cell: Atoms = atoms.copy()
    while len(cell) < _SUPERCELL_ATOMS:
        repeats = [1, 1, 1]
        repeats[int(np.argmin(cell.cell.lengths()))] = 2
        cell = cell * repeats
    return cell


def _opened(atoms: "Atoms", axes: Sequence[int]) -> "Atoms":
    """Put vacuum along these cell vectors; the cell stays periodic."""
    opened: Atoms = atoms.copy()
    cell = atoms.cell.array.copy()
    for axis in axes:
        cell[axis] *= (np.linalg.norm(cell[axis]) + _VACUUM) / np.linalg.norm(cell[axis])
    opened.set_cell(cell, scale_atoms=False)
    return opened


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
