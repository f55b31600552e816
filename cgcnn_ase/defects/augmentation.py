"""Random vacancies, to have more than one structure of a host to learn from."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING

import numpy as np

from cgcnn_ase.defects.host import check_elements, check_host
from cgcnn_ase.defects.plan import Defect, DefectBuilder, Plan, vacancy
from cgcnn_ase.defects.supercell import SupercellLike, make_supercell

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure


def random_vacancies(
    host: "Atoms | Structure",
    element: str = "Li",
    *,
    n_vacancies: int | float = 1,
    num: int = 3,
    seed: int = 42,
    supercell: SupercellLike | None = None,
    min_distance: float = 10.0,
    diagonal: bool = False,
    max_atoms: int | None = None,
    name: str = "host",
) -> Iterator[Defect]:
    """Make supercells of a host with atoms of one element removed at random, no two from the same sites.

    Equivalence by symmetry is not looked at: see `point_defects` for that. The same seed gives the same structures.

    Parameters
    ----------
    element
        The element to remove.
    n_vacancies
        Atoms to remove from the supercell; a number below 1 is the fraction of the element's atoms.
    num
        Number of structures, of the kind ``random-vacancy``.
    host, supercell, min_distance, diagonal, max_atoms, name
        As in `point_defects`.

    Raises
    ------
    ValueError
        At once: if the element is not in the host, or there are fewer atoms than vacancies, or fewer different
        structures than asked for.
    """
    checked = check_host(host, name)
    checked.chosen(check_elements([element], "element"))
    cell = make_supercell(checked, supercell, min_distance=min_distance, diagonal=diagonal, max_atoms=max_atoms)
    sites = np.flatnonzero(np.array(cell.atoms.get_chemical_symbols()) == element)
    count = _count(n_vacancies, len(sites), f"the supercell of {name} has {len(sites)} {element}")
    if count == len(cell.atoms):
        raise ValueError(f"the supercell of {name} has only {element}, none would be left")
    if num < 1:
        raise ValueError(f"num {num}: must be 1 or more")
    different = comb(len(sites), count)
    if num > different:
        raise ValueError(
            f"num {num}: {count} of {len(sites)} {element} can be removed in {different} ways only; "
            "take a larger supercell"
        )
    maker = DefectBuilder(checked, cell, seed=seed)
    n_sites = len(checked.atoms)
    defect = f"v_{element}" if count == 1 else f"{count}v_{element}"

    def plan(chosen: Sequence[int]) -> Plan:
        changes = tuple(
            vacancy(element, site % n_sites, tuple(map(int, cell.cells[site // n_sites]))) for site in chosen
        )
        return Plan("random-vacancy", defect, changes, 1)

    return (maker.make(plan(chosen)) for chosen in _choices(sites.tolist(), count, num, seed))


def _count(asked: int | float, available: int, words: str) -> int:
    """How many vacancies."""
    if isinstance(asked, float) and 0 < asked < 1:
        count = round(asked * available)
        if count == 0:
            raise ValueError(f"{words}: a fraction of {asked:g} is less than half an atom; take a larger supercell")
        return count
    if asked != int(asked) or asked < 1:
        raise ValueError(f"n_vacancies {asked:g}: give a whole number, or a fraction between 0 and 1")
    if asked > available:
        raise ValueError(f"{words}, fewer than the {int(asked)} vacancies asked for")
    return int(asked)


def _choices(sites: Sequence[int], count: int, num: int, seed: int) -> Iterator[tuple[int, ...]]:
    """Different choices of so many sites, in random order."""
    rng = np.random.default_rng(seed)
    different = comb(len(sites), count)
    if different <= 2 * num:  # drawing until all are different would take long
        every = list(combinations(sites, count))
        for k in rng.permutation(different)[:num]:
            yield every[k]
        return
    seen: set[tuple[int, ...]] = set()
    while len(seen) < num:
        chosen = tuple(int(site) for site in np.sort(rng.choice(sites, count, replace=False)))
        if chosen not in seen:
            seen.add(chosen)
            yield chosen
