"""Cathode supercells with and without a defect: lithium taken out, or lithium and a metal that have changed places."""

from collections.abc import Iterator, Sequence

import numpy as np
from ase import Atoms

from .augmentation import random_vacancies
from .cathodes import build_cathode
from .detection import PERFECT, DetectionCell, nearest, rattled

#: the defects made here
CATHODE_KINDS = ("vacancy", "exchange")


def cathode_cells(
    names: Sequence[str], *, num: int = 4, n_atoms: int = 80, rattle: float = 0.0, seed: int = 0
) -> Iterator[DetectionCell]:
    """Of each cathode ``num`` random orderings of its metals, each with either defect and twice without.

    Parameters
    ----------
    names
        As `build_cathode` takes them; the hosts of the cells are called ``cathode:NAME``.
    num
        Orderings of each.
    n_atoms
        About so many atoms in the supercell.
    rattle
        Standard deviation, Å, of random displacements, in both classes.
    seed
        The same seed gives the same cells; ordering k of the metals is that of seed + k.

    Yields
    ------
    DetectionCell
        A defective one, then a perfect one; kinds ``vacancy`` (of lithium) and ``exchange`` (of lithium and a metal).

    Raises
    ------
    ValueError
        If there is no such cathode.
    """
    for name in names:
        for k in range(num):
            perfect = build_cathode(name, n_atoms=n_atoms, seed=seed + k)
            rng = np.random.default_rng([seed, k])
            host = f"cathode:{name}"
            for kind, make in zip(CATHODE_KINDS, (_vacancy, _exchange), strict=True):
                key = f"{host}:{seed + k}:{kind}"
                atoms, defect, places = make(perfect, rng)
                yield DetectionCell(key, host, rattled(atoms, rattle, rng), kind, defect, places)
                yield DetectionCell(f"{key}:{PERFECT}", host, rattled(perfect, rattle, rng), PERFECT, "", ())


def _vacancy(perfect: Atoms, rng: np.random.Generator) -> tuple[Atoms, str, tuple[int, ...]]:
    (found,) = random_vacancies(perfect, "Li", num=1, seed=int(rng.integers(2**31)), supercell=1)
    return found.atoms, found.manifest.defect, nearest(found.atoms, perfect.positions[found.manifest.sites[0]])


def _exchange(perfect: Atoms, rng: np.random.Generator) -> tuple[Atoms, str, tuple[int, ...]]:
    """A lithium and a metal, both drawn at random."""
    names = np.array(perfect.get_chemical_symbols())
    lithium = int(rng.choice(np.flatnonzero(names == "Li")))
    metal = int(rng.choice(np.flatnonzero(~np.isin(names, ["Li", "O", "P"]))))
    atoms = perfect.copy()
    atoms.symbols[[lithium, metal]] = names[[metal, lithium]]
    return atoms, f"{names[metal]}_Li+Li_{names[metal]}", (lithium, metal)
