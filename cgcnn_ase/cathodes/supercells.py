"""Supercell of a cathode, which holds the composition and is compact, and the lithium that is removed from it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from ase import Atoms

from cgcnn_ase.cathodes.lattices import LITHIUM, METAL
from cgcnn_ase.core.arrays import Ints
from cgcnn_ase.structures.arrangement import MixedSites, Occupant
from cgcnn_ase.structures.composition import likely_charges
from cgcnn_ase.structures.electrostatics import Form, ewald_matrix, lowest_arrangements
from cgcnn_ase.structures.ordering import (
    DisorderedCrystal,
    Orbit,
    deviation,
    expanded_sites,
    level,
    numbers_of,
    repeats_of,
)
from cgcnn_ase.structures.supercells import MOST_CELLS, compact_matrix

# a supercell with no share further from the asked one than this is exact
_EXACT = 1e-9
# supercells within this factor of the size asked for are considered
_WINDOW = 2.0
# up to so many primitive cells it is said which supercell could hold the composition
_MOST_CELLS = 2000


class Request(NamedTuple):
    """Contents that a supercell shall hold."""

    formula: str
    primitive: DisorderedCrystal
    conventional: DisorderedCrystal
    ions: tuple[int, ...]  # the orbits from which the ion may be removed
    vacancy: float  # the part of them to remove


class CathodeSupercell(NamedTuple):
    """The sites, and in words how they were made."""

    sites: MixedSites
    name: str


def cathode_supercell(
    request: Request, *, repeats: int | tuple[int, int, int] | None, n_atoms: int, tolerance: float
) -> CathodeSupercell:
    """The supercell asked for, or the most compact one of about n_atoms that holds the composition.

    If it cannot, within the tolerance, a `ValueError` says which is the smallest that can.
    """
    if repeats is None:
        n_cells = _n_cells(request, n_atoms, tolerance)
        matrix = compact_matrix(request.primitive.cell, n_cells)
        rows = "; ".join(" ".join(map(str, row)) for row in matrix.tolist())
        return CathodeSupercell(expanded_sites(request.primitive, matrix), f"primitive x ({rows})")
    a, b, c = repeats_of(repeats)
    name = f"{a}x{b}x{c}"
    if _off(request, request.conventional, a * b * c) > tolerance:
        raise ValueError(_cannot(request, tolerance, f"the supercell {name}", a * b * c))
    return CathodeSupercell(expanded_sites(request.conventional, np.diag([a, b, c])), name)


def _n_cells(request: Request, n_atoms: int, tolerance: float) -> int:
    """The exact number of primitive cells nearest to the size asked for, else the nearest within the tolerance."""
    size = request.primitive.n_atoms
    if n_atoms > MOST_CELLS * size:
        raise ValueError(
            f"n_atoms {n_atoms}: of {request.formula} at most {MOST_CELLS * size:.0f}; beyond, give the supercell"
        )
    low = max(1, int(n_atoms / _WINDOW / size))
    high = max(1, min(MOST_CELLS, int(n_atoms * _WINDOW / size)))
    errors = {n: _off(request, request.primitive, n) for n in range(low, high + 1)}
    fitting = [n for n, off in errors.items() if off <= tolerance]
    if not fitting:
        what = f"a supercell of {n_atoms / _WINDOW:.0f} to {n_atoms * _WINDOW:.0f} atoms"
        raise ValueError(_cannot(request, tolerance, what, None))
    return min(fitting, key=lambda n: (errors[n] > _EXACT, level(errors[n]), abs(n * size - n_atoms), n))


def _off(request: Request, crystal: DisorderedCrystal, n_cells: int) -> float:
    """The largest difference between an asked and a realised share; infinite where something would be lost."""
    off = 0.0
    for orbit in crystal.orbits:
        counts = numbers_of(orbit, n_cells)
        if not all(counts.values()):
            return float("inf")
        off = max(off, deviation(orbit, counts))
    n_ions = n_present([crystal.orbits[k] for k in request.ions], n_cells)
    removed = round(request.vacancy * n_ions)
    if request.vacancy > 0 and not removed:
        return float("inf")
    return max(off, abs(removed / n_ions - request.vacancy)) if n_ions else off


def n_present(orbits: list[Orbit], n_cells: int) -> int:
    """Atoms of the main occupants of these orbits in so many cells."""
    return sum(numbers_of(orbit, n_cells)[main_occupant(orbit)] for orbit in orbits)


def main_occupant(orbit: Orbit) -> Occupant:
    """The occupant that most sites hold."""
    return max(orbit.occupancies, key=lambda occupant: orbit.occupancies[occupant])


def _cannot(request: Request, tolerance: float, what: str, repeats: int | None) -> str:
    asked = request.formula + (f" with {request.vacancy:g} of its Li removed" if request.vacancy else "")
    text = f"{what} cannot hold {asked} within {tolerance:g}"
    mixed = next((orbit for orbit in request.conventional.orbits if orbit.is_mixed), None)
    if repeats is not None and mixed is not None:
        counts = numbers_of(mixed, repeats)
        nearest = ", ".join(f"{'empty' if o is None else o.symbol} {k}" for o, k in counts.items())
        size = repeats * request.conventional.n_atoms
        text += f" ({size:.0f} atoms, {sum(counts.values())} {mixed.label} sites: nearest is {nearest})"
    for cells in range(1, _MOST_CELLS + 1):
        if _off(request, request.primitive, cells) <= tolerance:
            size = cells * request.primitive.n_atoms
            return f"{text}; the smallest that can has {size:.0f} atoms ({cells} primitive cells): n_atoms={size:.0f}"
    return f"{text}; none of up to {_MOST_CELLS} primitive cells can"


def with_exchange(
    crystal: DisorderedCrystal, ions: tuple[int, ...], share: float, metal: str = "Ni"
) -> DisorderedCrystal:
    """Put this share of the ions on the sites of a metal, and as many of its atoms on theirs."""
    holders = [
        k for k, orbit in enumerate(crystal.orbits)
        if k not in ions and any(o.symbol == metal for o in orbit.occupancies)
    ]  # fmt: skip
    if not holders:
        raise ValueError(f"antisite_exchange {share:g}: there is no {metal} to change places with the ions")
    n_ions = sum(len(crystal.orbits[k].frac) * max(crystal.orbits[k].occupancies.values()) for k in ions)
    n_sites = sum(len(crystal.orbits[k].frac) for k in holders)
    orbits = list(crystal.orbits)
    ion = main_occupant(orbits[ions[0]])
    for k in ions:
        main = main_occupant(orbits[k])
        orbits[k] = _exchanged(
            orbits[k], main, Occupant(metal, _charge_of(crystal, metal)), share * orbits[k].occupancies[main]
        )
    for k in holders:
        replaced = next(o for o in orbits[k].occupancies if o.symbol == metal)
        orbits[k] = _exchanged(orbits[k], replaced, ion, share * n_ions / n_sites)
    return replace(crystal, orbits=tuple(orbits))


def _charge_of(crystal: DisorderedCrystal, symbol: str) -> float | None:
    return next((o.charge for orbit in crystal.orbits for o in orbit.occupancies if o.symbol == symbol), None)


def _exchanged(orbit: Orbit, less: Occupant, more: Occupant, share: float) -> Orbit:
    """The orbit with this share of its sites given from one occupant to another."""
    occupancies = dict(orbit.occupancies)
    occupancies[less] -= share
    if occupancies[less] < -1e-9:
        raise ValueError(f"antisite exchange of {share:.3g} of the sites {orbit.label}: they hold less {less.symbol}")
    occupancies[more] = occupancies.get(more, 0.0) + share
    return replace(orbit, occupancies={o: n for o, n in occupancies.items() if n > 1e-9})


def random_ordering(atoms: Atoms, counts: Mapping[str, int], rng: np.random.Generator) -> Atoms:
    """The metals in so many numbers on the sites of tag 2, at random."""
    metals = [metal for metal, n in counts.items() for _ in range(n)]
    ordered: Atoms = atoms.copy()
    symbols = np.array(ordered.get_chemical_symbols(), dtype=object)
    symbols[ordered.get_tags() == METAL] = rng.permutation(np.array(metals, dtype=object))
    ordered.set_chemical_symbols(symbols.tolist())
    return ordered


def random_removal(atoms: Atoms, n_removed: int, rng: np.random.Generator) -> Atoms:
    """Without so many of its Li (tag 1), chosen at random."""
    return without(atoms, rng.choice(np.flatnonzero(atoms.get_tags() == LITHIUM), n_removed, replace=False))


def ewald_removal(atoms: Atoms, n_removed: int, rng: np.random.Generator) -> Atoms:
    """Without so many of its Li (tag 1), those whose leaving gives the lowest Ewald energy of formal charges.

    The metals have their mean charges after the removal, so the cell is neutral; if there are none, a `ValueError` is
    raised. Annealing and descents look for the lowest energy: no exchange of two sites improves the result.
    """
    lithium: Ints = np.flatnonzero(atoms.get_tags() == LITHIUM)
    counts = Counter(atoms.get_chemical_symbols())
    for k in lithium[:n_removed].tolist():
        counts[atoms.symbols[k]] -= 1
    charges = likely_charges({symbol: n for symbol, n in counts.items() if n})
    if charges is None:
        raise ValueError(f"{atoms.get_chemical_formula()} holds no anion: there are no charges to compute an energy of")
    ion = atoms.symbols[int(lithium[0])]
    q = np.array([charges.states.get(symbol, 0.0) for symbol in atoms.get_chemical_symbols()])
    rest = np.setdiff1d(np.arange(len(atoms)), lithium)
    matrix = ewald_matrix(np.asarray(atoms.cell), atoms.positions, lithium)
    values = np.where(np.arange(len(lithium)) < n_removed, 0.0, charges.states.get(ion, 1.0))
    form = Form(matrix[:, lithium], matrix[:, rest] @ q[rest], values)
    result = lowest_arrangements([form], np.zeros(len(lithium), dtype=np.int64), rng, deadline=float("inf"))
    return without(atoms, lithium[result.arrangements[0].site_of_slot[:n_removed]])


def without(atoms: Atoms, removed: npt.ArrayLike) -> Atoms:
    """A copy without some atoms."""
    keep = np.ones(len(atoms), dtype=bool)
    keep[np.asarray(removed, dtype=np.intp)] = False
    left: Atoms = atoms[keep]
    return left
