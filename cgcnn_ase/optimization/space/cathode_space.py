"""The space of layered cathodes: shares of the metals, a dopant, lithium removed, orderings; and its structures."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Literal

from cgcnn_ase.optimization.space.search_space import SearchSpace
from cgcnn_ase.optimization.space.variables import NONE, Value, Variable

if TYPE_CHECKING:
    from ase import Atoms

Repeats = int | Sequence[int]
LiRemoval = Literal["random", "ewald"]

# the shares of the metals, by name
METALS = {"ni_content": "Ni", "co_content": "Co", "mn_content": "Mn", "al_content": "Al"}
DOPANT, DOPANT_CONTENT, VACANCIES, ORDERING = "dopant", "dopant_content", "li_vacancy_ratio", "ordering_seed"
# all variables
CATHODE_VARIABLES = (VACANCIES, *METALS, DOPANT, DOPANT_CONTENT, ORDERING)
# repeats of the conventional (hexagonal) cell, which has three formula units; 12 metal sites, 48 atoms
SUPERCELL: Repeats = (2, 2, 1)


def cathode_space(ranges: Mapping[str, object], *, host: str = "LiNiO2", supercell: Repeats = SUPERCELL) -> SearchSpace:
    """Return the points that a supercell of a layered cathode can realise.

    Parameters
    ----------
    ranges
        By the name of a variable (:data:`CATHODE_VARIABLES`): ``[low, high]`` of ``li_vacancy_ratio`` (part of the
        lithium removed), ``ni_content``, ``co_content``, ``mn_content``, ``al_content`` and ``dopant_content`` (shares
        of the metal sites); a list of elements for ``dopant``; how many orderings of each composition for
        ``ordering_seed``. The contents add up to 1; where one is named, metals of the host that are not can have any
        share, and where none is, the host keeps its composition.
    host
        A layered cathode, e.g. ``LiNiO2`` or ``NCM811``.
    supercell
        Repeats of the conventional cell, which has three formula units.

    Examples
    --------
    >>> space = cathode_space({"li_vacancy_ratio": [0, 0.5], "ni_content": [0.5, 1], "co_content": [0, 0.5],
    ...                        "ordering_seed": 3})
    >>> space.count  # 7 ways to mix on 12 sites, 7 vacancy contents, 3 orderings
    147
    """
    if unknown := sorted(set(ranges) - set(CATHODE_VARIABLES)):
        raise ValueError(f"unknown variable {', '.join(unknown)}; allowed: {', '.join(CATHODE_VARIABLES)}")
    if (DOPANT in ranges) != (DOPANT_CONTENT in ranges):
        raise ValueError(f"{DOPANT} and {DOPANT_CONTENT} go together; only one of them is given")
    n_sites = 3 * prod(_repeats(supercell))
    metals = _host_metals(host)
    shares: list[str] = []
    if any(name in ranges for name in (*METALS, DOPANT_CONTENT)):
        shares = [name for name in METALS if name in ranges or METALS[name] in metals]
        shares += [DOPANT_CONTENT] * (DOPANT_CONTENT in ranges)
    variables = []
    for name in CATHODE_VARIABLES:
        if name in shares or (name == VACANCIES and name in ranges):
            low, high = _range(name, ranges.get(name, (0.0, 1.0)))
            variables.append(Variable.from_dict(name, {"low": low, "high": high, "sites": n_sites}))
        elif name == DOPANT and name in ranges:
            _check_dopants(ranges[name])
            variables.append(Variable.from_dict(name, {"categories": ranges[name], "of": DOPANT_CONTENT}))
        elif name == ORDERING and name in ranges:
            variables.append(Variable.from_dict(name, {"seeds": ranges[name]}))
    return SearchSpace(variables, shares)


def cathode_structure(
    point: Mapping[str, Value],
    *,
    host: str = "LiNiO2",
    supercell: Repeats = SUPERCELL,
    li_removal: LiRemoval = "random",
    seed: int = 0,
) -> "Atoms":
    """Build the structure of a point: same point and seed, same structure.

    The lattice follows Vegard's law between the published layered oxides; a dopant's radius is not known here, so it
    takes the place, and has the cell, of the most frequent metal. Nothing is relaxed.

    Parameters
    ----------
    point
        Values of the variables of a :func:`cathode_space`. Without any content the host has its own composition;
        without ``li_vacancy_ratio`` all its lithium, and without ``ordering_seed`` the first ordering.
    host, supercell
        As for :func:`cathode_space`.
    li_removal
        Which lithium goes: at ``random``, or (``ewald``) that which leaves the lowest electrostatic energy.
    seed
        Of the orderings, together with the point's ``ordering_seed``.

    Returns
    -------
    Atoms whose ``info`` holds the point, the host and the reference of the lattice parameters; a ValueError is raised
    where the contents do not add up to 1, or are no whole numbers of atoms of the supercell.
    """
    import numpy as np

    from cgcnn_ase.cathodes.lattices import LITHIUM
    from cgcnn_ase.cathodes.supercells import ewald_removal, random_ordering, random_removal

    if unknown := sorted(set(point) - set(CATHODE_VARIABLES)):
        raise ValueError(f"unknown variable {', '.join(unknown)}; allowed: {', '.join(CATHODE_VARIABLES)}")
    n_sites = 3 * prod(_repeats(supercell))
    counts = _metal_counts(point, host, n_sites)
    carriers = dict(counts)  # the dopant on the sites of the metal whose place it takes
    dopant = str(point.get(DOPANT, NONE))
    if dopant in carriers:
        n_dopant = carriers.pop(dopant)
        if not carriers:
            raise ValueError(f"{DOPANT_CONTENT} 1: some metal of the host must be left")
        carriers[max(carriers, key=lambda metal: carriers[metal])] += n_dopant
    template, reference = _template(tuple(sorted(carriers.items())), _repeats(supercell))
    rng = np.random.default_rng([seed, int(point.get(ORDERING, 0))])
    atoms = random_ordering(template, counts, rng)
    n_lithium = int((atoms.get_tags() == LITHIUM).sum())
    n_removed = _whole(VACANCIES, point.get(VACANCIES, 0.0), n_lithium)
    if li_removal == "ewald" and 0 < n_removed < n_lithium:
        atoms = ewald_removal(atoms, n_removed, rng)
    else:
        atoms = random_removal(atoms, n_removed, rng)
    del atoms.arrays["tags"]
    atoms.info = {"host": host, **point, "reference": reference}
    return atoms


@lru_cache(maxsize=512)
def _template(carriers: tuple[tuple[str, int], ...], repeats: tuple[int, int, int]) -> "tuple[Atoms, str]":
    """Build the supercell of a composition with tagged sites; copied, never changed, by those who use it."""
    from cgcnn_ase.cathodes.lattices import layered

    n_sites = sum(n for _, n in carriers)
    lattice = layered({metal: n / n_sites for metal, n in carriers})
    return lattice.atoms(primitive=False).repeat(repeats), lattice.reference


def _metal_counts(point: Mapping[str, Value], host: str, n_sites: int) -> dict[str, int]:
    """Atoms of each element on the metal sites."""
    from cgcnn_ase.structures.arrangement import whole_numbers

    shares = {METALS[name]: (name, point[name]) for name in METALS if name in point}
    if point.get(DOPANT_CONTENT):
        _check_dopants([point.get(DOPANT)])
        shares[str(point[DOPANT])] = (DOPANT_CONTENT, point[DOPANT_CONTENT])
    if not shares:
        return whole_numbers(_host_metals(host), n_sites)
    counts = {element: _whole(name, value, n_sites) for element, (name, value) in shares.items()}
    if sum(counts.values()) != n_sites:
        total = sum(float(value) for _, value in shares.values())
        raise ValueError(f"the contents add up to {total:g}; they must add up to 1")
    return {element: n for element, n in counts.items() if n}


def _whole(name: str, value: Value, n_sites: int) -> int:
    n = round(float(value) * n_sites)
    if not 0 <= n <= n_sites or abs(n - float(value) * n_sites) > 1e-6 * n_sites:
        raise ValueError(f"{name} {value}: no whole number of the {n_sites} sites of the supercell")
    return n


@lru_cache(maxsize=16)
def _host_metals(host: str) -> Mapping[str, float]:
    """Share of each metal of a layered host."""
    from cgcnn_ase.cathodes.composition import parse_cathode
    from cgcnn_ase.cathodes.lattices import LAYERED
    from cgcnn_ase.structures.composition import parse_formula

    cathode = parse_cathode(host)
    if cathode.lattice.space_group != 166:
        raise ValueError(f"host {host!r} is no layered cathode (R-3m); allowed are LiNiO2, LiCoO2, NCM811, NCA, ...")
    amounts = parse_formula(cathode.formula) or {}
    return {metal: amounts[metal] for metal in LAYERED if metal in amounts}


def _repeats(supercell: Repeats) -> tuple[int, int, int]:
    repeats = (supercell,) * 3 if isinstance(supercell, int) else tuple(supercell)
    if len(repeats) != 3 or any(type(n) is not int or n < 1 for n in repeats):
        raise ValueError(f"supercell {supercell!r}: a whole number, or three, of at least 1")
    return repeats


def _range(name: str, value: object) -> tuple[object, object]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"{name}: its range is [low, high], not {value!r}")
    return value[0], value[1]


def _check_dopants(dopants: object) -> None:
    from ase.data import atomic_numbers

    for symbol in dopants if isinstance(dopants, list | tuple) else ():
        if symbol not in atomic_numbers or symbol == "X":
            raise ValueError(f"{DOPANT}: {symbol!r} is no element")
        if symbol in ("Li", "O", *METALS.values()):
            raise ValueError(f"{DOPANT}: {symbol} is no dopant here; Li and O have their own sites, and the share of "
                             f"Ni, Co, Mn and Al is a variable of its own")  # fmt: skip
