"""Build a cathode from its name: supercell, order of the metals, lithium removed, and what was realised."""

import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from math import comb, gcd
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from ase import Atoms

from cgcnn_ase.cathodes.composition import Cathode, parse_cathode
from cgcnn_ase.cathodes.lattices import IONS, LITHIUM
from cgcnn_ase.cathodes.supercells import (
    Request,
    cathode_supercell,
    ewald_removal,
    main_occupant,
    random_removal,
    with_exchange,
)
from cgcnn_ase.energies.energy_model import EnergySource, ModelEnergies
from cgcnn_ase.structures.arrangement import MixedSites, OrderingMethod, arrange, fingerprint
from cgcnn_ase.structures.composition import format_oxidation_states, likely_charges, parse_formula
from cgcnn_ase.structures.ordering import DisorderedCrystal, OrderingWarning, rounding_text
from cgcnn_ase.structures.readers import read_crystal
from cgcnn_ase.structures.record import suffix_of

LiRemoval = Literal["random", "ewald", "lowest"]

# tries for each structure that shall differ from the others, and tries in a row without one where each costs much
_TRIES, _FRUITLESS = 20, 5
# the order of elements in a composition; others stand between the metals and these
_FIRST, _LAST = ("Li", "Na", "Ni", "Co", "Mn", "Al", "Fe"), ("B", "Si", "P", "S", "O", "F", "Cl", "Br", "I")


@dataclass(frozen=True)
class CathodeRecipe:
    """How a cathode is built; see :func:`build_cathode`."""

    supercell: int | tuple[int, int, int] | None = None
    n_atoms: int = 100
    ordering: OrderingMethod = "random"
    li_vacancy: float = 0.0
    li_removal: LiRemoval = "random"
    antisite_exchange: float = 0.0
    model: EnergySource | None = None
    n_candidates: int = 20
    tolerance: float = 0.02
    ordering_time: float = 20.0

    def __post_init__(self) -> None:
        _check(self.ordering, "ordering", get_args(OrderingMethod))
        _check(self.li_removal, "li_removal", get_args(LiRemoval))
        if not 0 <= self.li_vacancy <= 1:
            raise ValueError(f"li_vacancy {self.li_vacancy:g}: the part of the lithium to remove is 0 to 1")
        if not 0 <= self.antisite_exchange < 1:
            raise ValueError(f"antisite_exchange {self.antisite_exchange:g}: the part of the lithium is 0 to 1")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance {self.tolerance:g}: it is 0 to 1, the largest error of a share")
        if not self.ordering_time > 0:
            raise ValueError(f"ordering_time {self.ordering_time:g}: give seconds above 0")
        for what, number in (("n_candidates", self.n_candidates), ("n_atoms", self.n_atoms)):
            if number < 1:
                raise ValueError(f"{what} must be at least 1, not {number}")
        if "lowest" in (self.ordering, self.li_removal) and self.model is None:
            raise ValueError("'lowest' needs a model that gives the energies, such as formation-energy-per-atom")


def build_cathode(
    name: str | Path,
    *,
    supercell: int | tuple[int, int, int] | None = None,
    n_atoms: int = 100,
    ordering: OrderingMethod = "random",
    li_vacancy: float = 0.0,
    li_removal: LiRemoval = "random",
    antisite_exchange: float = 0.0,
    model: EnergySource | None = None,
    n_candidates: int = 20,
    tolerance: float = 0.02,
    ordering_time: float = 20.0,
    seed: int = 42,
) -> Atoms:
    """One structure of a cathode material.

    Parameters
    ----------
    name
        ``NCM811``, ``NCA``, ``LiNiO2``, ``LiNi0.8Mn0.1Co0.1O2``, ``O3-NaCoO2``, ``P2-Na0.67MnO2``, ...; see
        :func:`cathode_names`. Or a structure file, whose sites may be shared or partly empty.
    seed
        Same seed, same structure.
    supercell
        Repeats of the conventional cell (that of the file) along its axes; by default the most compact supercell that
        holds the composition exactly (else within the tolerance) and is nearest to n_atoms, within a factor of two.
    n_atoms
        About so many atoms (before lithium is removed), where no supercell is given.
    ordering
        Where the metals go: ``random``; ``sqs``, by icet; ``ewald``, the lowest electrostatic energy; ``lowest``, the
        lowest energy of n_candidates random ones.
    li_vacancy
        Part of the lithium (sodium) to remove, 0 to 1.
    li_removal
        Which lithium goes: ``random``; ``ewald``, the lowest electrostatic energy; ``lowest``, the lowest energy of
        n_candidates random choices.
    antisite_exchange
        Part of the lithium (sodium) that changes places with nickel, before any is removed.
    model
        What gives the energies for ``lowest``: as for :func:`cgcnn_ase.energies.energy_model.as_energy_model`.
    n_candidates
        How many candidates ``lowest`` tries.
    tolerance
        How far a share of metal or the part of lithium removed may be from what was asked.
    ordering_time
        Seconds that ``ewald`` may take; then the best order is taken.

    Returns
    -------
    Atoms whose ``info`` holds ``cathode``, ``composition_asked``, ``composition``, ``li_content`` (Li a formula unit),
    ``li_vacancy_asked``, ``li_vacancy``, ``ordering``, ``li_removal``, ``oxidation_states``, ``supercell``, ``seed``
    and ``reference`` (of the lattice parameters). The cell is that of the lithiated material: nothing is relaxed.

    Raises
    ------
    ValueError
        If the name or an option is unknown, or the supercell cannot hold the composition; then it names one that can.
    """
    options = CathodeRecipe(
        supercell, n_atoms, ordering, li_vacancy, li_removal, antisite_exchange, model, n_candidates, tolerance,
        ordering_time,
    )  # fmt: skip
    return _Builder(name, options).make(seed)


def cathodes(
    name: str | Path,
    *,
    num: int,
    supercell: int | tuple[int, int, int] | None = None,
    n_atoms: int = 100,
    ordering: OrderingMethod = "random",
    li_vacancy: float = 0.0,
    li_removal: LiRemoval = "random",
    antisite_exchange: float = 0.0,
    model: EnergySource | None = None,
    n_candidates: int = 20,
    tolerance: float = 0.02,
    ordering_time: float = 20.0,
    seed: int = 42,
) -> Iterator[Atoms]:
    """So many structures of a cathode material that differ by more than symmetry.

    The options are those of :func:`build_cathode`, which makes any of them again from the ``seed`` in its ``info``.

    Raises
    ------
    ValueError
        As :func:`build_cathode`, at once; and, after those that were found, if there are not so many different ones.
    """
    if num < 1:
        raise ValueError(f"num must be at least 1, not {num}")
    options = CathodeRecipe(
        supercell, n_atoms, ordering, li_vacancy, li_removal, antisite_exchange, model, n_candidates, tolerance,
        ordering_time,
    )  # fmt: skip
    recipe = _Builder(name, options)
    if num > recipe.n_ways:
        raise ValueError(
            f"{recipe.what} can be arranged in {recipe.n_ways} way{'s' * (recipe.n_ways > 1)} only: "
            f"{num} different structures need a larger supercell"
        )
    return _different(recipe, num, seed)


def cathode_ids(structures: Sequence[Atoms]) -> list[str]:
    """Ids of the structures of one cathode, in order: ``NCM811_000``, ``NCM811_001``, ..."""
    width = max(3, len(str(len(structures) - 1)))
    return [f"{atoms.info['cathode']}_{k:0{width}d}".replace(" ", "-") for k, atoms in enumerate(structures)]


def _different(recipe: "_Builder", num: int, seed: int) -> Iterator[Atoms]:
    seen: set[bytes] = set()
    best = [w for w, on in (("sqs", recipe.settings.ordering == "sqs"), ("ewald", recipe.by_ewald)) if on]
    attempt = fruitless = 0
    while attempt < _TRIES * num and not (best and fruitless >= _FRUITLESS):
        atoms = recipe.make(seed + attempt)
        attempt += 1
        fruitless += 1
        key = fingerprint(atoms)
        if key not in seen:
            seen.add(key)
            fruitless = 0
            yield atoms
            if len(seen) == num:
                return
    why = f"; {' and '.join(best)} look{'s' * (len(best) == 1)} for the one best arrangement" if best else ""
    raise ValueError(
        f"only {len(seen)} different structure{'s' * (len(seen) > 1)} of {recipe.what} found in {attempt} tries"
        f"{why}: ask for fewer, for a larger supercell, or for random arrangements"
    )


class _Builder:
    """The supercell that all structures of a cathode share, and how each is made."""

    def __init__(self, name: str | Path, options: CathodeRecipe) -> None:
        self.settings = options
        path = Path(name)
        if suffix_of(path.name) and path.is_file():
            conventional = read_crystal(path)
            self.name, self.reference = path.stem, f"the file {path.name}"
            request = _request(conventional, conventional.primitive(), None, options)
        else:
            cathode = parse_cathode(str(name))
            self.name, self.reference = cathode.name, cathode.lattice.reference
            conventional, primitive = (cathode.crystal(primitive=p) for p in (False, True))
            request = _request(conventional, primitive, cathode, options)
        self.formula, self.ions = request.formula, request.ions
        supercell = cathode_supercell(
            request, repeats=options.supercell, n_atoms=options.n_atoms, tolerance=options.tolerance
        )
        self.sites, self.supercell = _sorted(supercell.sites), supercell.name
        if rounded := rounding_text(request.primitive.orbits, self.sites.counts):
            warnings.warn(f"{self.name}: occupancies are rounded: {rounded}", OrderingWarning, stacklevel=3)
        self.ion = main_occupant(conventional.orbits[self.ions[0]]).symbol if self.ions else ""
        self.n_ions = sum(
            n for k in self.ions for o, n in self.sites.counts[k].items() if o is not None and o.symbol == self.ion
        )
        self.n_removed = round(options.li_vacancy * self.n_ions)
        unit = reduce(gcd, (len(orbit.frac) for orbit in request.primitive.orbits))
        if (amounts := parse_formula(self.formula)) and "O" in amounts:
            self.n_units = self.sites.composition["O"] / amounts["O"]
        else:
            self.n_units = len(self.sites.atoms) / sum(len(o.frac) for o in request.primitive.orbits) * unit
        self.lowest: ModelEnergies | None = None
        if options.model is not None and "lowest" in (options.ordering, options.li_removal):
            self.lowest = ModelEnergies(options.model)
            self.lowest.load()

    @property
    def by_ewald(self) -> bool:
        """True where the lowest electrostatic energy is looked for."""
        return self.settings.ordering == "ewald" or self.settings.li_removal == "ewald"

    @property
    def n_ways(self) -> int:
        """Ways to arrange metals and vacancies, symmetry aside."""
        return self.sites.n_ways * comb(self.n_ions, self.n_removed)

    @property
    def what(self) -> str:
        """The cathode and its size, for messages."""
        gone = f" without {self.n_removed} {self.ion}" if self.n_removed else ""
        return f"{self.formula} of {sum(self.sites.composition.values())} atoms{gone}"

    def make(self, seed: int) -> Atoms:
        """The structure of a seed."""
        options = self.settings
        deadline = time.monotonic() + options.ordering_time
        arranged = arrange(
            self.sites, options.ordering, seed=seed, deadline=deadline, energies=self.lowest,
            n_candidates=options.n_candidates,
        )  # fmt: skip
        atoms = arranged.structures[0]
        ions = np.isin(atoms.get_tags(), self.ions) & (np.array(atoms.get_chemical_symbols()) == self.ion)
        atoms.set_tags(np.where(ions, LITHIUM, 0))
        atoms = self._remove(atoms, np.random.default_rng(seed))
        del atoms.arrays["tags"]
        atoms.info = self._info(atoms, seed, arranged.method)
        return atoms

    def _remove(self, atoms: Atoms, rng: np.random.Generator) -> Atoms:
        n = self.n_removed
        if not 0 < n < self.n_ions or self.settings.li_removal == "random" or self.lowest is None:
            ewald = self.settings.li_removal == "ewald" and 0 < n < self.n_ions
            return ewald_removal(atoms, n, rng) if ewald else random_removal(atoms, n, rng)
        if self.settings.li_removal == "ewald":
            return ewald_removal(atoms, n, rng)
        candidates = [random_removal(atoms, n, rng) for _ in range(self.settings.n_candidates)]
        return candidates[int(np.argmin(self.lowest(candidates)))]

    def _info(self, atoms: Atoms, seed: int, method: OrderingMethod) -> dict[str, str | float | int]:
        counts = Counter(atoms.get_chemical_symbols())
        order = sorted(counts, key=_place)
        charges = likely_charges({symbol: counts[symbol] for symbol in order})
        return {
            "cathode": self.name,
            "composition_asked": self.formula,
            "composition": "".join(_term(symbol, counts[symbol] / self.n_units) for symbol in order),
            "li_content": counts[self.ion] / self.n_units,
            "li_vacancy_asked": float(self.settings.li_vacancy),
            "li_vacancy": self.n_removed / self.n_ions if self.n_ions else 0.0,
            "ordering": method if self.sites.mixed else "none",
            "li_removal": self.settings.li_removal if self.n_removed else "none",
            "antisite_exchange": float(self.settings.antisite_exchange),
            "oxidation_states": "unknown" if charges is None else format_oxidation_states(charges.states),
            "supercell": self.supercell,
            "seed": seed,
            "reference": self.reference,
        }


def _request(
    conventional: DisorderedCrystal, primitive: DisorderedCrystal, cathode: Cathode | None, options: CathodeRecipe
) -> Request:
    """The contents of a supercell, with lithium and nickel exchanged where that is asked for."""
    mains = [main_occupant(orbit).symbol for orbit in conventional.orbits]
    ion = next((symbol for symbol in IONS if symbol in mains), None)
    ions = tuple(k for k, symbol in enumerate(mains) if symbol == ion)
    if not ions and (options.li_vacancy or options.antisite_exchange):
        raise ValueError("there is no lithium or sodium to remove or to exchange")
    if options.antisite_exchange:
        conventional, primitive = (with_exchange(c, ions, options.antisite_exchange) for c in (conventional, primitive))
    formula = cathode.formula if cathode is not None else _formula(primitive)
    return Request(formula, primitive, conventional, ions, options.li_vacancy)


def _formula(crystal: DisorderedCrystal) -> str:
    """The formula of the largest unit that all orbits hold a whole number of times."""
    unit = reduce(gcd, (len(orbit.frac) for orbit in crystal.orbits))
    amounts: Counter[str] = Counter()
    for orbit in crystal.orbits:
        for occupant, share in orbit.occupancies.items():
            amounts[occupant.symbol] += share * len(orbit.frac) / unit  # type: ignore[assignment]
    return "".join(_term(symbol, amounts[symbol]) for symbol in sorted(amounts, key=_place))


def _place(symbol: str) -> tuple[int, str]:
    """Rank of an element in a composition."""
    if symbol in _FIRST:
        return _FIRST.index(symbol) - len(_FIRST), ""
    return (1 + _LAST.index(symbol), "") if symbol in _LAST else (0, symbol)


def _sorted(sites: MixedSites) -> MixedSites:
    """The same with sites of a kind together, Li first, oxygen last."""
    symbols = sites.atoms.get_chemical_symbols()
    rank = {symbol: k for k, symbol in enumerate(["Li", *sorted(set(symbols) - {"Li", "O"}), "O"])}
    order = sorted(range(len(symbols)), key=lambda i: (rank[symbols[i]], i))
    return replace(sites, atoms=sites.atoms[order], groups=sites.groups[order])


def _check(value: str, name: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"unknown {name} {value!r}; allowed: {', '.join(allowed)}")


def _term(symbol: str, amount: float) -> str:
    return symbol if abs(amount - 1) < 1e-9 else f"{symbol}{round(amount, 4):g}"
