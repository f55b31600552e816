"""The defects that the options of ``cgcnn-ase defects`` ask for, random vacancies among them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING, ClassVar, TypedDict

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


# a supercell in a file: n, three numbers, or rows of a matrix
Repeats = int | list[int] | list[list[int]] | None


@dataclass(frozen=True, kw_only=True)
class DefectOptions:
    """Options of the defects of a host. The command's options have the same names, with hyphens."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    # see `point_defects`; ``all`` stands for those of one place that the host and the options allow
    kind: str | list[str] = "vacancy"
    # element, dopant: elements whose sites become defective, by default all (of random vacancies lithium); elements to
    # put in
    element: str | list[str] | None = None
    dopant: str | list[str] | None = None
    # supercell, min_distance, diagonal, max_atoms: see `point_defects`; lengths in Å
    supercell: Repeats = None
    min_distance: float = 10.0
    diagonal: bool = False
    max_atoms: int | None = None
    # num, n_vacancies: so many random structures with vacancies, instead of all distinct defects; see
    # `random_vacancies`
    num: int | None = None
    n_vacancies: int | float = 1
    seed: int = 42  # of random structures and distortions
    # pair, range: of cation mixing: the elements, and ``all``, ``near`` or ``far``
    pair: tuple[str, str] = ("Li", "Ni")
    range: str = "all"
    # of, size, cutoff: of complexes: the kinds they are made of, the most defects in one; Å between defects
    of: str | list[str] = "vacancy"
    size: int = 2
    cutoff: float | None = None
    # interstitials, min_radius: how places are found, ``holes`` or ``voronoi``; Å to the nearest atom
    interstitials: str = "holes"
    min_radius: float = 1.0
    charges: bool = False  # guess charge states with doped, for the manifest
    # distort, bond_distortion: distort the bonds at the defect with ShakeNBreak; -0.3 makes them 30 % shorter
    distort: bool = False
    bond_distortion: float = -0.3


class _CellOptions(TypedDict):
    """Options of the supercell that all generators take."""

    supercell: SupercellLike | None
    min_distance: float
    diagonal: bool
    max_atoms: int | None
    name: str


def generate_defects(host: "Atoms", options: DefectOptions, *, name: str = "host") -> Iterator[Defect]:
    """Make the defects of a host, one by one; its name is for the ids and manifests.

    A `ValueError` at once says what is allowed in place of a bad host or option; an `ImportError`, that charges or
    distortions are asked for and their package is not installed.
    """
    from cgcnn_ase.defects.point import point_defects

    cell: _CellOptions = {
        "supercell": options.supercell, "min_distance": options.min_distance, "diagonal": options.diagonal,
        "max_atoms": options.max_atoms, "name": name,
    }  # fmt: skip
    kinds, elements, dopants = _list(options.kind), _list_or_none(options.element), _list_or_none(options.dopant)
    if options.num is None:
        defects = point_defects(
            host, _kinds(kinds, host, dopants), elements=elements, dopants=dopants,
            interstitial_method=options.interstitials, min_radius=options.min_radius, pair=options.pair,
            pair_range=options.range, complex_of=_list(options.of), complex_size=options.size,
            cutoff=options.cutoff, **cell,
        )  # fmt: skip
    else:
        n = options.n_vacancies
        defects = random_vacancies(
            host, _one_element(kinds, elements), num=options.num, seed=options.seed,
            n_vacancies=n if n < 1 or n % 1 else int(n), **cell,
        )  # fmt: skip
    if options.charges:
        from cgcnn_ase.defects.refine import with_charges

        defects = with_charges(defects, host)
    if options.distort:
        from cgcnn_ase.defects.refine import distorted

        distortion, seed = options.bond_distortion, options.seed
        defects = (distorted(defect, bond_distortion=distortion, seed=seed) for defect in defects)
    return defects


def _list(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _list_or_none(value: str | Sequence[str] | None) -> list[str] | None:
    return None if value is None else _list(value)


def _kinds(asked: Sequence[str], host: "Atoms", dopants: Sequence[str] | None) -> list[str]:
    """The kinds; ``all`` are those of one place that the host and the options allow."""
    possible = ["vacancy"]
    possible += ["antisite"] if len(set(host.numbers)) > 1 else []
    possible += ["substitution"] if dopants else []
    possible += ["interstitial"]
    return [one for kind in asked for one in (possible if kind == "all" else [kind])]


def _one_element(kinds: Sequence[str], elements: Sequence[str] | None) -> str:
    """The element of random vacancies: lithium by default."""
    if list(kinds) != ["vacancy"]:
        raise ValueError(f"num makes random vacancies, not kind {' '.join(kinds)}")
    if elements is not None and len(elements) != 1:
        raise ValueError(f"num takes one element, there are {len(elements)}: {', '.join(elements)}")
    return elements[0] if elements else "Li"
