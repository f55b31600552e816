"""Build a cathode from its name: supercell, order of the metals, lithium removed, and what was realised."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from math import comb
from typing import Literal, get_args

import numpy as np
from ase import Atoms

from cgcnn_ase.cathodes.arrangement import (
    ewald_removal,
    fingerprint,
    n_orderings,
    random_ordering,
    random_removal,
    sqs_ordering,
)
from cgcnn_ase.cathodes.composition import format_oxidation_states, oxidation_states, parse_cathode, whole_numbers
from cgcnn_ase.cathodes.lattices import LITHIUM, METAL
from cgcnn_ase.cathodes.supercells import cathode_supercell
from cgcnn_ase.energies.energy_model import EnergySource, as_energy_model
from cgcnn_ase.structures.composition import parse_formula

Ordering = Literal["random", "sqs", "lowest"]
LiRemoval = Literal["random", "ewald", "lowest"]

# tries for each structure that shall differ from the others
_TRIES = 20


def build_cathode(
    name: str,
    *,
    supercell: int | tuple[int, int, int] | None = None,
    n_atoms: int = 100,
    ordering: Ordering = "random",
    li_vacancy: float = 0.0,
    li_removal: LiRemoval = "random",
    model: EnergySource | None = None,
    n_candidates: int = 20,
    tolerance: float = 0.02,
    seed: int = 42,
) -> Atoms:
    """One structure of a cathode material.

    Parameters
    ----------
    name
        ``NCM811``, ``NCA``, ``LiNiO2``, ``LiNi0.8Mn0.1Co0.1O2``, ...; see :func:`cathode_names`.
    supercell
        Repeats of the conventional cell along its axes; by default the most compact supercell that holds the
        composition exactly (else within the tolerance) and is nearest to n_atoms, within a factor of two.
    n_atoms
        About so many atoms (before lithium is removed), where no supercell is given.
    ordering
        Where the metals go: ``random``; ``sqs``, by icet; ``lowest``, the lowest energy of n_candidates random ones.
    li_vacancy
        Part of the lithium to remove, 0 to 1.
    li_removal
        Which lithium goes: ``random``; ``ewald``, the lowest electrostatic energy; ``lowest``, the lowest energy of
        n_candidates random choices.
    model
        What gives the energies for ``lowest``: as for :func:`cgcnn_ase.energies.energy_model.as_energy_model`.
    n_candidates
        How many candidates ``lowest`` tries.
    tolerance
        How far a share of metal or the part of lithium removed may be from what was asked.
    seed
        Same seed, same structure.

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
    recipe = _Recipe(
        name, supercell=supercell, n_atoms=n_atoms, ordering=ordering, li_vacancy=li_vacancy, li_removal=li_removal,
        model=model, n_candidates=n_candidates, tolerance=tolerance,
    )  # fmt: skip
    return recipe.make(seed)


def cathodes(
    name: str,
    *,
    num: int,
    supercell: int | tuple[int, int, int] | None = None,
    n_atoms: int = 100,
    ordering: Ordering = "random",
    li_vacancy: float = 0.0,
    li_removal: LiRemoval = "random",
    model: EnergySource | None = None,
    n_candidates: int = 20,
    tolerance: float = 0.02,
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
    recipe = _Recipe(
        name, supercell=supercell, n_atoms=n_atoms, ordering=ordering, li_vacancy=li_vacancy, li_removal=li_removal,
        model=model, n_candidates=n_candidates, tolerance=tolerance,
    )  # fmt: skip
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


def _different(recipe: "_Recipe", num: int, seed: int) -> Iterator[Atoms]:
    seen: set[bytes] = set()
    for attempt in range(_TRIES * num):
        atoms = recipe.make(seed + attempt)
        key = fingerprint(atoms)
        if key not in seen:
            seen.add(key)
            yield atoms
            if len(seen) == num:
                return
    best = [w for w, on in (("sqs", recipe.ordering == "sqs"), ("ewald", recipe.li_removal == "ewald")) if on]
    why = f"; {' and '.join(best)} look{'s' * (len(best) == 1)} for the one best arrangement" if best else ""
    raise ValueError(
        f"only {len(seen)} different structure{'s' * (len(seen) > 1)} of {recipe.what} found in {_TRIES * num} tries"
        f"{why}: ask for fewer, for a larger supercell, or for random arrangements"
    )


class _Recipe:
    """Checked options, and the supercell that all structures share."""

    def __init__(
        self,
        name: str,
        *,
        supercell: int | tuple[int, int, int] | None,
        n_atoms: int,
        ordering: Ordering,
        li_vacancy: float,
        li_removal: LiRemoval,
        model: EnergySource | None,
        n_candidates: int,
        tolerance: float,
    ) -> None:
        _check(ordering, "ordering", get_args(Ordering))
        _check(li_removal, "li_removal", get_args(LiRemoval))
        if not 0 <= li_vacancy <= 1:
            raise ValueError(f"li_vacancy {li_vacancy:g}: the part of the lithium to remove is 0 to 1")
        if not 0 <= tolerance < 1:
            raise ValueError(f"tolerance {tolerance:g}: it is 0 to 1, the largest error of a share")
        for what, number in (("n_candidates", n_candidates), ("n_atoms", n_atoms)):
            if number < 1:
                raise ValueError(f"{what} must be at least 1, not {number}")
        if "lowest" in (ordering, li_removal) and model is None:
            raise ValueError("'lowest' needs a model that gives the energies, such as formation-energy-per-atom")
        self.cathode = parse_cathode(name)
        self.ordering, self.li_removal = ordering, li_removal
        self.li_vacancy, self.n_candidates = li_vacancy, n_candidates
        self.cell = cathode_supercell(self.cathode, li_vacancy, repeats=supercell, n_atoms=n_atoms, tolerance=tolerance)
        tags = self.cell.atoms.get_tags()
        self.n_lithium = int((tags == LITHIUM).sum())
        self.n_removed = round(li_vacancy * self.n_lithium)
        self.counts = (
            whole_numbers(self.cathode.fractions, int((tags == METAL).sum())) if self.cathode.fractions else {}
        )
        self.lowest = _lowest(model) if model is not None and "lowest" in (ordering, li_removal) else None

    @property
    def n_ways(self) -> int:
        """Ways to arrange metals and vacancies, symmetry aside."""
        return n_orderings(self.counts) * comb(self.n_lithium, self.n_removed)

    @property
    def what(self) -> str:
        """The cathode and its size, for messages."""
        gone = f" without {self.n_removed} Li" if self.n_removed else ""
        return f"{self.cathode.formula} of {len(self.cell.atoms)} atoms{gone}"

    def make(self, seed: int) -> Atoms:
        """The structure of a seed."""
        rng = np.random.default_rng(seed)
        atoms = self._remove(self._order(rng, seed), rng)
        del atoms.arrays["tags"]
        atoms.info = self._info(atoms, seed)
        return atoms

    def _order(self, rng: np.random.Generator, seed: int) -> Atoms:
        atoms = self.cell.atoms
        if not self.counts:
            return atoms
        if self.ordering == "sqs":
            return sqs_ordering(atoms, self.counts, self.cathode.lattice, seed)
        if self.lowest is None or self.ordering == "random":
            return random_ordering(atoms, self.counts, rng)
        return self.lowest([random_ordering(atoms, self.counts, rng) for _ in range(self.n_candidates)])

    def _remove(self, atoms: Atoms, rng: np.random.Generator) -> Atoms:
        n = self.n_removed
        if self.li_removal == "ewald" and 0 < n < self.n_lithium:
            return ewald_removal(atoms, n, rng)
        if self.lowest is None or self.li_removal != "lowest" or not 0 < n < self.n_lithium:
            return random_removal(atoms, n, rng)
        return self.lowest([random_removal(atoms, n, rng) for _ in range(self.n_candidates)])

    def _info(self, atoms: Atoms, seed: int) -> dict[str, str | float | int]:
        counts = Counter(atoms.get_chemical_symbols())
        units = counts["O"] / (parse_formula(self.cathode.formula) or {})["O"]
        order = [symbol for symbol in ("Li", "Ni", "Co", "Mn", "Al", "Fe", "P", "O") if counts[symbol]]
        return {
            "cathode": self.cathode.name,
            "composition_asked": self.cathode.formula,
            "composition": "".join(_term(symbol, counts[symbol] / units) for symbol in order),
            "li_content": counts["Li"] / units,
            "li_vacancy_asked": float(self.li_vacancy),
            "li_vacancy": self.n_removed / self.n_lithium,
            "ordering": self.ordering if self.counts else "none",
            "li_removal": self.li_removal if self.n_removed else "none",
            "oxidation_states": format_oxidation_states(oxidation_states({symbol: counts[symbol] for symbol in order})),
            "supercell": self.cell.name,
            "seed": seed,
            "reference": self.cathode.lattice.reference,
        }


def _lowest(model: EnergySource) -> Callable[[list[Atoms]], Atoms]:
    """Make the function that picks the structure of lowest energy."""
    energy_model = as_energy_model(model)
    return lambda structures: structures[int(np.argmin(energy_model.energies(structures).energies))]


def _check(value: str, name: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"unknown {name} {value!r}; allowed: {', '.join(allowed)}")


def _term(symbol: str, amount: float) -> str:
    return symbol if abs(amount - 1) < 1e-9 else f"{symbol}{round(amount, 4):g}"
