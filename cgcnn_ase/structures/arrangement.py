"""Who sits where: the occupants of mixed sites at random, quasirandom, or of lowest electrostatic energy."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import comb, floor
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii

from cgcnn_ase.core.arrays import Bools, Floats, Ints
from cgcnn_ase.core.errors import MissingExtraError
from cgcnn_ase.structures.composition import Charges, likely_charges
from cgcnn_ase.structures.electrostatics import Form, contact_matrix, ewald_matrix, lowest_arrangements

OrderingMethod = Literal["random", "ewald", "sqs", "lowest"]
#: energies (eV a cell) of several structures
EnergyFunction = Callable[[Sequence[Atoms]], Floats]
Kind = TypeVar("Kind")

# pairs and triplets whose correlations an SQS makes those of a random alloy, in units of the nearest distance of two
# mixed sites: pairs to the second neighbour in a layer and to the next layer, triplets of nearest neighbours
_PAIRS, _TRIPLETS = 1.8, 1.1
# Monte Carlo steps of an SQS for each mixed site; with fewer, annealing ends in a worse order now and then
_SQS_STEPS_PER_SITE, _MOST_SQS_STEPS = 600, 40_000
# atoms nearer than this part of the sum of their covalent radii are kept apart
_CONTACT = 0.75
# rounds of another seed in a row that bring no new arrangement, after which there are taken to be no more
_FRUITLESS = 5


class Occupant(NamedTuple):
    """An element on a site with, where the file states it, its charge."""

    symbol: str
    charge: float | None = None


@dataclass(frozen=True)
class MixedSites:
    """A supercell, the groups of its sites that share their occupants, and how many of each occupant a group holds."""

    atoms: Atoms  # one atom a site, of any element; its tags stay with the sites
    groups: Ints  # (N,) the group of each site
    counts: tuple[Mapping[Occupant | None, int], ...]  # of each group, adding up to its sites; None: empty
    primitive: Atoms  # a cell of the same lattice, one atom a site
    primitive_groups: Ints  # (n,) the group of each of its sites

    @cached_property
    def mixed(self) -> tuple[int, ...]:
        """Groups of more than one occupant."""
        return tuple(k for k, counts in enumerate(self.counts) if sum(n > 0 for n in counts.values()) > 1)

    @cached_property
    def composition(self) -> Counter[str]:
        """Atoms of each element."""
        result: Counter[str] = Counter()
        for counts in self.counts:
            for occupant, n in counts.items():
                if occupant is not None and n:
                    result[occupant.symbol] += n
        return result

    @property
    def n_ways(self) -> int:
        """Ways to arrange the occupants, symmetry aside."""
        ways = 1
        for group in self.mixed:
            ways *= n_orderings(_by_symbol(self.counts[group]))
        return ways

    @cached_property
    def charges(self) -> Charges | None:
        """The charges that the file states, else those that are likely; by element only where they were not stated."""
        occupants = [o for counts in self.counts for o, n in counts.items() if o is not None and n]
        if occupants and all(o.charge is not None for o in occupants) and any(o.charge for o in occupants):
            net = sum(n * (o.charge or 0.0) for c in self.counts for o, n in c.items() if o is not None)
            rest = f", which leave {net:+.2g} e in the cell" if abs(net) > 0.05 else ""
            return Charges({}, f"of the file{rest}")
        return likely_charges(self.composition)

    def slots(self, group: int) -> list[Occupant | None]:
        """The occupants of a group, one by one."""
        return [occupant for occupant, n in self.counts[group].items() for _ in range(n)]

    def filled(self, symbols: Sequence[str]) -> Atoms:
        """The structure with these elements on its sites; X is none."""
        occupied = [k for k, symbol in enumerate(symbols) if symbol != "X"]
        result: Atoms = self.atoms[occupied]
        result.set_chemical_symbols([symbols[k] for k in occupied])
        return result


class Arranged(NamedTuple):
    """Different arrangements, best first, and what has to be said about them."""

    structures: list[Atoms]
    complete: bool  # False if the time was up before the search came to its end
    method: OrderingMethod  # the one taken


def arrange(
    sites: MixedSites,
    method: OrderingMethod,
    *,
    num: int = 1,
    seed: int = 42,
    deadline: float = float("inf"),
    energies: EnergyFunction | None = None,
    n_candidates: int = 20,
) -> Arranged:
    """Arrange the occupants in up to `num` ways that differ by more than symmetry.

    Parameters
    ----------
    sites
        Where they may sit.
    method
        ``random``; ``sqs``, by icet; ``ewald``, the lowest electrostatic energy that annealing finds (at random where
        there are no charges); ``lowest``, the lowest energies of random ones by the function `energies`.
    deadline
        On `time.monotonic`; the best until then is taken.
    n_candidates
        How many ``lowest`` chooses from, at least `num`.
    """
    if method == "ewald" and sites.charges is None:
        method = "random"
    if method == "lowest" and energies is None:
        raise ValueError("'lowest' needs a model that gives the energies, such as formation-energy-per-atom")
    if sites.n_ways == 1:
        return Arranged([sites.filled(_symbols(sites, {}))], True, method)
    wanted = max(num, n_candidates) if method == "lowest" else num
    seen: dict[bytes, Atoms] = {}
    complete, fruitless, attempt = True, 0, 0
    forms = _Forms(sites, charged=method == "ewald")
    while len(seen) < wanted and fruitless < _FRUITLESS:
        before = len(seen)
        if method == "sqs":
            new = [quasirandom(sites, seed + attempt)]
        else:
            new, whole = forms.search(seed + attempt, deadline, wanted - before)
            complete = complete and whole
        for atoms in new if wanted > 1 else new[:1]:
            if len(seen) < wanted:
                seen.setdefault(fingerprint(atoms) if wanted > 1 else b"", atoms)
        attempt += 1
        fruitless = 0 if len(seen) > before else fruitless + 1
        if time.monotonic() > deadline:
            complete = complete and len(seen) >= wanted
            break
    result = list(seen.values())
    if method == "lowest" and energies is not None:
        result = [result[k] for k in np.argsort(energies(result), kind="stable")]
    return Arranged(result[:num], complete, method)


class _Forms:
    """The energy of an arrangement of some sites: computed once, searched with several seeds."""

    def __init__(self, sites: MixedSites, *, charged: bool) -> None:
        self.sites, self.charged = sites, charged
        mixed = np.isin(sites.groups, sites.mixed)
        self.variable, fixed = np.flatnonzero(mixed), np.flatnonzero(~mixed)
        self.groups = sites.groups[self.variable]
        self.slots: list[Occupant | None] = [None] * len(self.variable)
        for group in sites.mixed:
            for k, occupant in zip(np.flatnonzero(self.groups == group), sites.slots(group), strict=True):
                self.slots[int(k)] = occupant
        rest = [next((o for o, n in sites.counts[sites.groups[k]].items() if n), None) for k in fixed]
        cell, positions = np.asarray(sites.atoms.cell), sites.atoms.positions
        contact = contact_matrix(cell, positions, self.variable, self._radii())
        self.forms = [self._form(contact, fixed, rest, lambda o: float(o is not None))]
        if charged:
            self.forms.append(self._form(ewald_matrix(cell, positions, self.variable), fixed, rest, self._charge))

    def search(self, seed: int, deadline: float, wanted: int) -> tuple[list[Atoms], bool]:
        """Structures of low energy, lowest first; without charges one that is random. False if the time was up."""
        rng = np.random.default_rng(seed)
        result = lowest_arrangements(self.forms, self.groups, rng, deadline=deadline, anneal=self.charged)
        structures = []
        for arrangement in result.arrangements[: 4 * wanted]:
            occupants = {
                int(self.variable[site]): self.slots[slot] for slot, site in enumerate(arrangement.site_of_slot)
            }
            structures.append(self.sites.filled(_symbols(self.sites, occupants)))
        return structures, result.complete

    def _charge(self, occupant: Occupant | None) -> float:
        charges = self.sites.charges
        if occupant is None or charges is None:
            return 0.0
        return charges.states[occupant.symbol] if charges.states else float(occupant.charge or 0.0)

    def _form(
        self,
        matrix: Floats,
        fixed: Ints,
        rest: Sequence[Occupant | None],
        value: Callable[[Occupant | None], float],
    ) -> Form:
        field = matrix[:, fixed] @ np.array([value(o) for o in rest])
        return Form(matrix[:, self.variable], field, np.array([value(o) for o in self.slots]))

    def _radii(self) -> Floats:
        """For each site, that of the smallest atom which may sit there, Å."""
        smallest = [
            min((covalent_radii[atomic_numbers[o.symbol]] for o, n in counts.items() if o and n), default=0.0)
            for counts in self.sites.counts
        ]
        return _CONTACT * np.array(smallest)[self.sites.groups]


def _symbols(sites: MixedSites, occupants: Mapping[int, Occupant | None]) -> list[str]:
    """The element of each site, X for none; a site that is not named holds the only occupant of its group."""
    only = [next((o for o, n in counts.items() if n), None) for counts in sites.counts]
    held = (occupants.get(k, only[group]) for k, group in enumerate(sites.groups.tolist()))
    return [occupant.symbol if occupant is not None else "X" for occupant in held]


def whole_numbers(shares: Mapping[Kind, float], n_sites: int) -> dict[Kind, int]:
    """Number of n sites that each occupant takes: nearest to its share, adding up to n (largest remainders)."""
    exact = {kind: share * n_sites for kind, share in shares.items()}
    counts = {kind: floor(amount + 1e-9) for kind, amount in exact.items()}
    rest = sorted(exact, key=lambda kind: counts[kind] - exact[kind])
    for kind in rest[: n_sites - sum(counts.values())]:
        counts[kind] += 1
    return counts


def _by_symbol(counts: Mapping[Occupant | None, int]) -> list[int]:
    """Sites of each element, whatever its charge, and empty ones."""
    numbers: Counter[str] = Counter()
    for occupant, n in counts.items():
        numbers["" if occupant is None else occupant.symbol] += n
    return list(numbers.values())


def n_orderings(counts: Sequence[int]) -> int:
    """Number of ways to put so many of each kind on the sites, symmetry aside."""
    ways, left = 1, sum(counts)
    for n in counts:
        ways *= comb(left, n)
        left -= n
    return ways


def fingerprint(atoms: Atoms) -> bytes:
    """The same for structures that differ by symmetry only: all shortest distances of pairs of atoms, by element.

    Two structures of one lattice whose fingerprints differ are different; in rare cases two different ones share one.
    """
    distances = atoms.get_all_distances(mic=True)
    first, second = np.triu_indices(len(atoms), 1)
    low = np.minimum(atoms.numbers[first], atoms.numbers[second])
    high = np.maximum(atoms.numbers[first], atoms.numbers[second])
    rows = np.stack([low, high, np.rint(distances[first, second] * 100)], axis=1).astype(np.int64)
    kinds, number = np.unique(rows, axis=0, return_counts=True)
    return kinds.tobytes() + number.tobytes()


def quasirandom(sites: MixedSites, seed: int) -> Atoms:
    """The special quasirandom structure (Zunger et al., Phys. Rev. Lett. 65, 353, 1990) that icet's annealing finds.

    Each group of sites is annealed by itself. Without icet an `ImportError` is raised.
    """
    symbols = _symbols(sites, {})
    for group in sites.mixed:
        counts: dict[str, int] = {}
        for occupant in sites.slots(group):
            symbol = "X" if occupant is None else occupant.symbol
            counts[symbol] = counts.get(symbol, 0) + 1
        members = np.flatnonzero(sites.groups == group)
        start = [symbol for symbol, n in counts.items() for _ in range(n)]
        if len(counts) > 1:
            start = _quasirandom(sites, group, counts, members, seed)
        for k, symbol in zip(members.tolist(), start, strict=True):
            symbols[k] = symbol
    return sites.filled(symbols)


def _quasirandom(sites: MixedSites, group: int, counts: Mapping[str, int], members: Ints, seed: int) -> list[str]:
    """The symbols of one group of sites."""
    try:
        from icet import ClusterSpace
        from icet.tools.structure_generation import generate_sqs_from_supercells
    except ImportError as error:
        raise MissingExtraError("a special quasirandom structure", "icet") from error

    mixed = sites.primitive_groups == group
    primitive, supercell = sites.primitive.copy(), sites.atoms.copy()
    for atoms in (primitive, supercell):
        atoms.set_tags(None)
        atoms.info.clear()
    supercell.set_chemical_symbols(_placeholders(sites, sites.groups))
    primitive.set_chemical_symbols(_placeholders(sites, sites.primitive_groups))
    rng = np.random.default_rng(seed)
    start = np.array(supercell.get_chemical_symbols(), dtype=object)
    start[members] = rng.permutation(np.array([s for s, n in counts.items() for _ in range(n)], dtype=object))
    supercell.set_chemical_symbols(start.tolist())
    species = [list(counts) if m else [s] for s, m in zip(primitive.get_chemical_symbols(), mixed, strict=True)]
    nearest = _nearest(primitive, mixed)
    space = ClusterSpace(primitive, cutoffs=[_PAIRS * nearest, _TRIPLETS * nearest], chemical_symbols=species)
    (sublattice,) = space.get_sublattices(supercell).active_sublattices
    with _random_state_kept():
        sqs_cell: Atoms = generate_sqs_from_supercells(
            space,
            [supercell],
            {sublattice.symbol: {symbol: n / len(members) for symbol, n in counts.items()}},
            n_steps=min(_SQS_STEPS_PER_SITE * len(members), _MOST_SQS_STEPS),
            random_seed=seed,
            random_start=False,
        )
    return [sqs_cell.symbols[k] for k in members.tolist()]


def _placeholders(sites: MixedSites, groups: Ints) -> list[str]:
    """One element a group, the first that it holds, so that icet sees the other groups as fixed."""
    first = [next((o.symbol for o, n in counts.items() if o and n), "X") for counts in sites.counts]
    return [first[group] for group in groups.tolist()]


def _nearest(primitive: Atoms, mixed: Bools) -> float:
    """Distance of two neighbouring mixed sites, Å."""
    distances = primitive[mixed].repeat((3, 3, 3)).get_all_distances(mic=True)
    return float(distances[distances > 0.1].min())


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """The annealing seeds Python's own generator; others go on with theirs."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)
