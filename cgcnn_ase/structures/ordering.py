"""Ordered supercells of a crystal whose sites are shared by several elements or partly empty."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, get_args

import numpy as np

from cgcnn_ase.core.arrays import Floats, Ints
from cgcnn_ase.structures.record import RefusedError

if TYPE_CHECKING:
    from ase import Atoms

    from cgcnn_ase.structures.arrangement import Arranged, EnergyFunction, MixedSites, Occupant, OrderingMethod

# an occupancy is exact if it is realised within this, which is half of the third decimal
EXACT = 5e-4
# the larger of two deviations beyond these limits counts, however large the supercells are
_LIMITS = (EXACT, 2.5e-3, 1e-2)
# supercells within this factor of the size asked for are considered
_WINDOW = 2.0
# a crystal of more sites than this in one cell is refused: arranging them takes too long
_MOST_SITES = 2000
# an exchange of two counts must lower the surplus of charge by this much, e
_LESS_CHARGE = 0.25


class OrderingWarning(UserWarning):
    """How a disordered structure was ordered: supercell, charges, and which occupancies are rounded."""


@dataclass(frozen=True)
class OrderingOptions:
    """How sites that are partially occupied are ordered."""

    method: "OrderingMethod" = "ewald"  # ewald, random, sqs (by icet), or lowest (by `energies`)
    n_atoms: int = 120  # about so many atoms, where no supercell is given
    supercell: int | tuple[int, int, int] | None = None  # repeats of the cell of the file
    num: int = 1  # how many different orderings
    seed: int = 42
    time_limit: float = 20.0  # s a structure; the best ordering until then is taken
    energies: "EnergyFunction | None" = None  # eV a cell, for lowest
    n_candidates: int = 20  # random orderings that lowest chooses from

    def __post_init__(self) -> None:
        from cgcnn_ase.structures.arrangement import OrderingMethod

        if self.method not in get_args(OrderingMethod):
            raise ValueError(f"unknown ordering {self.method!r}; allowed: {', '.join(get_args(OrderingMethod))}")
        for name in ("n_atoms", "num", "n_candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.time_limit > 0:
            raise ValueError(f"time_limit {self.time_limit:g}: give the seconds that a structure may take, above 0")
        if self.supercell is not None:
            repeats_of(self.supercell)
        if self.method == "lowest" and self.energies is None:
            raise ValueError("'lowest' needs a model that gives the energies, such as formation-energy-per-atom")


#: whether and how to order what is disordered; True takes the defaults
OrderDisordered = bool | OrderingOptions


def repeats_of(supercell: int | tuple[int, int, int]) -> tuple[int, int, int]:
    """Three repeats; a `ValueError` where they are not whole numbers of at least 1."""
    numbers = (supercell,) * 3 if isinstance(supercell, int) else tuple(supercell)
    if len(numbers) != 3 or any(n != int(n) or n < 1 for n in numbers):
        words = "x".join(map(str, numbers))
        raise ValueError(f"supercell {words}: the repeats are three whole numbers of at least 1")
    return numbers[0], numbers[1], numbers[2]


@dataclass(frozen=True)
class Orbit:
    """Sites that share their occupants."""

    label: str  # of the file
    occupancies: "Mapping[Occupant, float]"  # above 0, adding up to at most 1; the rest is empty
    frac: Floats  # (n, 3)

    @cached_property
    def shares(self) -> "dict[Occupant | None, float]":
        """Part of the sites that each occupant takes; None stands for no atom. They add up to 1."""
        shares: dict[Occupant | None, float] = dict(self.occupancies.items())
        empty = 1 - sum(shares.values())
        if empty > 1e-3:
            return {**shares, None: empty}
        total = sum(shares.values())
        return {occupant: share / total for occupant, share in shares.items()}

    @property
    def is_mixed(self) -> bool:
        """True where the sites have more than one occupant."""
        return len(self.shares) > 1


@dataclass(frozen=True, eq=False)
class DisorderedCrystal:
    """A periodic crystal as sites with occupants."""

    cell: Floats  # (3, 3) Å, rows
    orbits: tuple[Orbit, ...]

    @cached_property
    def key(self) -> tuple[object, ...]:
        """Equal for equal crystals."""
        return self.cell.tobytes(), *((o.label, tuple(o.occupancies.items()), o.frac.tobytes()) for o in self.orbits)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DisorderedCrystal) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def n_atoms(self) -> float:
        """Atoms in the cell."""
        return sum(len(orbit.frac) * sum(orbit.occupancies.values()) for orbit in self.orbits)

    def primitive(self) -> "DisorderedCrystal":
        """The same crystal in a primitive cell, by spglib; itself where it finds none."""
        import spglib

        frac = np.concatenate([orbit.frac for orbit in self.orbits])
        kinds = np.repeat(np.arange(len(self.orbits)), [len(orbit.frac) for orbit in self.orbits]) + 1
        described = (self.cell.tolist(), frac.tolist(), kinds.tolist())
        try:
            result = spglib.standardize_cell(described, to_primitive=True, no_idealize=True, symprec=1e-3)
        except spglib.error.SpglibError:
            return self
        if result is None or len(result[2]) >= len(kinds):
            return self
        cell, places, numbers = (np.asarray(part) for part in result)
        orbits = [Orbit(o.label, o.occupancies, places[numbers == k]) for k, o in enumerate(self.orbits, start=1)]
        return DisorderedCrystal(np.asarray(cell), tuple(orbits))


class Ordered(NamedTuple):
    """The ordered structures of one crystal, and how they were made, in a sentence."""

    structures: "list[Atoms]"
    note: str


def order_crystal(crystal: DisorderedCrystal, options: OrderingOptions | None = None) -> Ordered:
    """Ordered supercells with the composition of a disordered crystal.

    Parameters
    ----------
    crystal
        Its sites with their occupants.
    options
        Size, method, seed, time: see :class:`OrderingOptions`.

    Returns
    -------
    One or (``num``) several structures that differ by more than symmetry, the best first, fewer if there are no more.
    Their ``info`` holds ``ordering``, ``ordering_seed``, ``ordering_sites`` (each occupancy, and what it became),
    ``ordering_rounding`` (the largest difference between the two), ``ordering_charges`` and ``supercell``.

    Raises
    ------
    RefusedError
        If the crystal is too large.
    """
    from cgcnn_ase.structures.arrangement import arrange

    options = options or OrderingOptions()
    deadline = time.monotonic() + options.time_limit
    sites, name = mixed_sites(crystal, options)
    arranged = arrange(
        sites, options.method, num=options.num, seed=options.seed, deadline=deadline, energies=options.energies,
        n_candidates=options.n_candidates,
    )  # fmt: skip
    return _described(crystal, sites, name, arranged, options)


def mixed_sites(crystal: DisorderedCrystal, options: OrderingOptions) -> "tuple[MixedSites, str]":
    """The supercell that the options ask for with the occupants of each group of sites, and its name."""
    from cgcnn_ase.structures.supercells import compact_matrix

    if options.supercell is not None:
        matrix = np.diag(repeats_of(options.supercell)).astype(np.int64)
        name = "x".join(map(str, np.diag(matrix)))
        return expanded_sites(crystal, matrix), name
    primitive = crystal.primitive()
    n_cells = choose_n_cells(primitive, options.n_atoms)
    matrix = compact_matrix(primitive.cell, n_cells)
    rows = "; ".join(" ".join(map(str, row)) for row in matrix.tolist())
    return expanded_sites(primitive, matrix), f"primitive x ({rows})"


def choose_n_cells(crystal: DisorderedCrystal, n_atoms: int) -> int:
    """How many cells of about `n_atoms` in all hold the occupancies best, each occupant at least once."""
    from cgcnn_ase.structures.supercells import MOST_CELLS

    size = crystal.n_atoms
    low = max(1, int(n_atoms / _WINDOW / size))
    high = max(low, min(MOST_CELLS, int(n_atoms * _WINDOW / size)))

    def badness(n: int) -> tuple[int, int, float, float]:
        off, lost = 0.0, 0
        for orbit in crystal.orbits:
            counts = numbers_of(orbit, n)
            lost += sum(not count for count in counts.values())
            off = max(off, deviation(orbit, counts))
        return lost, level(off), off if level(off) == len(_LIMITS) else 0.0, abs(n * size - n_atoms)

    return min(range(min(low, MOST_CELLS), high + 1), key=badness)


def level(off: float) -> int:
    """How many of the limits a deviation exceeds, beyond which a better supercell is preferred to a smaller one."""
    return sum(off > limit for limit in _LIMITS)


def numbers_of(orbit: Orbit, n_cells: int) -> "dict[Occupant | None, int]":
    """How many sites of an orbit each occupant takes in so many cells."""
    from cgcnn_ase.structures.arrangement import whole_numbers

    return whole_numbers(orbit.shares, n_cells * len(orbit.frac))


def deviation(orbit: Orbit, counts: "Mapping[Occupant | None, int]") -> float:
    """The largest difference between a share that is asked for and the one that is realised."""
    n_sites = sum(counts.values())
    return max(abs(counts[occupant] / n_sites - share) for occupant, share in orbit.shares.items())


def expanded_sites(crystal: DisorderedCrystal, matrix: Ints) -> "MixedSites":
    """The supercell of these rows of vectors, in the order of the orbits, and the numbers of their occupants."""
    from ase import Atoms
    from ase.build import make_supercell

    from cgcnn_ase.structures.arrangement import MixedSites

    groups = np.repeat(np.arange(len(crystal.orbits)), [len(orbit.frac) for orbit in crystal.orbits])
    n_cells = round(abs(float(np.linalg.det(matrix))))
    if len(groups) * n_cells > _MOST_SITES:
        raise RefusedError(
            f"has partially occupied sites in a supercell of {len(groups) * n_cells} sites; at most {_MOST_SITES} are "
            "ordered"
        )
    first = [max(orbit.occupancies, key=lambda occupant: orbit.occupancies[occupant]) for orbit in crystal.orbits]
    frac = np.concatenate([orbit.frac for orbit in crystal.orbits])
    primitive = Atoms([first[group].symbol for group in groups], scaled_positions=frac, cell=crystal.cell, pbc=True)
    primitive.set_tags(groups)
    atoms = make_supercell(primitive, matrix)
    atoms = atoms[np.argsort(atoms.get_tags(), kind="stable")]
    numbers = [numbers_of(orbit, n_cells) for orbit in crystal.orbits]
    sites = MixedSites(atoms, np.asarray(atoms.get_tags(), dtype=np.int64), tuple(numbers), primitive, groups)
    return _balanced(crystal, sites, n_cells)


def _balanced(crystal: DisorderedCrystal, sites: "MixedSites", n_cells: int) -> "MixedSites":
    """The same with other roundings, each still to a next whole number, where these add no charge."""
    charges = sites.charges
    if charges is None or charges.neutral:
        return sites

    def charge(occupant: "Occupant | None") -> float:
        if occupant is None:
            return 0.0
        return charges.states.get(occupant.symbol, 0.0) if charges.states else float(occupant.charge or 0.0)

    exact = [{o: s * len(orbit.frac) * n_cells for o, s in orbit.shares.items()} for orbit in crystal.orbits]
    counts = [dict(of_group) for of_group in sites.counts]
    surplus = sum(charge(o) * (n - exact[k][o]) for k, of_group in enumerate(counts) for o, n in of_group.items())
    moves = [
        (k, less, more)
        for k, of_group in enumerate(exact)
        for less in of_group
        for more in of_group
        if counts[k][less] > exact[k][less] + 1e-9 and counts[k][more] < exact[k][more] - 1e-9 and counts[k][less] > 1
    ]
    while moves:
        k, less, more = min(moves, key=lambda move: abs(surplus + charge(move[2]) - charge(move[1])))
        after = surplus + charge(more) - charge(less)
        if abs(after) > abs(surplus) - _LESS_CHARGE:
            break
        counts[k][less] -= 1
        counts[k][more] += 1
        surplus = after
        moves = [move for move in moves if move[0] != k]
    return replace(sites, counts=tuple(counts))


def _described(
    crystal: DisorderedCrystal, sites: "MixedSites", name: str, arranged: "Arranged", options: OrderingOptions
) -> Ordered:
    """The structures with what was done in their info, and in a sentence."""
    from cgcnn_ase.structures.composition import format_oxidation_states

    mixed = [(orbit, counts) for orbit, counts in zip(crystal.orbits, sites.counts, strict=True) if orbit.is_mixed]
    rounding = max((deviation(orbit, counts) for orbit, counts in mixed), default=0.0)
    charges = sites.charges
    if charges is None:
        source = "none: it holds no anion"
    else:
        states = format_oxidation_states(charges.states)
        source = charges.source + (f" ({states})" if states else "")
    info: dict[str, str | float | int] = {
        "ordering": arranged.method,
        "ordering_seed": options.seed,
        "ordering_sites": "; ".join(_site_text(orbit, counts, rounded_only=False) for orbit, counts in mixed),
        "ordering_rounding": rounding,
        "ordering_charges": source,
        "supercell": name,
    }
    structures = []
    for atoms in arranged.structures:
        atoms.set_tags(None)
        ordered = atoms[_by_element(atoms)]
        ordered.info = dict(info)
        structures.append(ordered)
    return Ordered(structures, _note(mixed, sites, source, arranged, options))


def rounding_text(orbits: Sequence[Orbit], numbers: "Sequence[Mapping[Occupant | None, int]]") -> str:
    """The occupancies that are rounded, site by site; empty where all are exact."""
    texts = (_site_text(orbit, counts, rounded_only=True) for orbit, counts in zip(orbits, numbers, strict=True))
    return "; ".join(text for text in texts if text)


def _note(
    mixed: "Sequence[tuple[Orbit, Mapping[Occupant | None, int]]]",
    sites: "MixedSites",
    source: str,
    arranged: "Arranged",
    options: OrderingOptions,
) -> str:
    formula = "".join(f"{symbol}{n}" for symbol, n in sites.composition.items())
    how = {"ewald": "lowest Ewald energy", "random": "random", "sqs": "quasirandom", "lowest": "lowest energy"}
    parts = [f"ordered as {formula} ({how[arranged.method]}; charges: {source})"]
    rounded = rounding_text([orbit for orbit, _ in mixed], [counts for _, counts in mixed])
    parts.append(f"occupancies are rounded: {rounded}" if rounded else "the occupancies are exact")
    if not arranged.complete:
        parts.append(f"the time of {options.time_limit:g} s was up: the best until then is taken")
    if len(arranged.structures) < options.num:
        n = len(arranged.structures)
        parts.append(f"only {n} different ordering{'s' * (n > 1)} found of {options.num}")
    return "; ".join(parts)


def _site_text(orbit: Orbit, counts: "Mapping[Occupant | None, int]", *, rounded_only: bool) -> str:
    """``Li1: Li 0.966 -> 29/30, Ni 0.034 -> 1/30``; empty where all are exact and only rounded ones are asked for."""
    n_sites = sum(counts.values())
    terms = [
        f"{'empty' if occupant is None else occupant.symbol} {share:.4g} -> {counts[occupant]}/{n_sites}"
        for occupant, share in orbit.shares.items()
        if not rounded_only or abs(counts[occupant] / n_sites - share) > EXACT
    ]
    return f"{orbit.label}: {', '.join(terms)}" if terms else ""


def _by_element(atoms: "Atoms") -> list[int]:
    """Indices of the atoms, those of an element together, in the order in which they come first."""
    symbols = atoms.get_chemical_symbols()
    rank = {symbol: k for k, symbol in enumerate(dict.fromkeys(symbols))}
    return sorted(range(len(symbols)), key=lambda k: rank[symbols[k]])
