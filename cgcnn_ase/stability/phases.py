"""Competing phases: compositions and formation energies of known crystals, from the package's table or your own.

Of the phases of one chemical system the lower convex hull of formation energies is made.
"""

import csv
import gzip
import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from importlib.resources import files
from itertools import combinations
from operator import sub
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cgcnn_ase.core.arrays import Floats, Ints
from cgcnn_ase.core.elements import fetched_scale, symbols
from cgcnn_ase.energies.scales import check_scale, formation_shift
from cgcnn_ase.structures.composition import formula_of, parse_formula

# parts of a decomposition below this are none
_SMALLEST = 1e-6
# volume of a facet without extent, on which no composition lies
_FLAT = 1e-12
# the energy component of a normal that points down
_DOWN = -1e-10


@dataclass(frozen=True, eq=False)
class Hull:
    """Planes below which nothing lies: the hull at a composition is the highest of them there.

    The first phases are the elements themselves, at 0.
    """

    fractions: Floats  # (m, d) atomic fractions of the phases, whose columns are the elements of the system
    energies: Floats  # (m,) formation energies, eV/atom
    planes: Floats  # (k, d): energy = fractions @ plane
    corners: Ints  # (k, d) phases on each plane

    @classmethod
    def of(cls, fractions: Floats, energies: Floats) -> "Hull":
        """The hull of phases with d elements, (m, d) fractions and (m,) eV/atom; the elements are added to them."""
        d = fractions.shape[1]
        from scipy.spatial import ConvexHull  # slow to import

        x = np.vstack([np.eye(d), fractions])
        e = np.concatenate([np.zeros(d), energies])
        inside = np.flatnonzero(e <= 0.0)  # what lies above the elements is on no hull
        if d == 1 or len(inside) == d:
            return cls(x, e, np.zeros((1, d)), np.arange(d)[None])
        # a point above all others: the rest may lie in a plane
        top = np.append(np.full(d - 1, 1.0 / d), 1.0 - 2.0 * e.min())
        points = np.vstack([np.column_stack([x[inside, 1:], e[inside]]), top])
        convex = ConvexHull(points)
        facets = convex.simplices[(convex.equations[:, -2] < _DOWN) & ~(convex.simplices == len(inside)).any(axis=1)]
        corners = inside[facets]
        corners = corners[np.abs(np.linalg.det(x[corners])) > _FLAT]
        return cls(x, e, np.linalg.solve(x[corners], e[corners][..., None])[..., 0], corners)

    def energy(self, fractions: Floats) -> tuple[Floats, Ints]:
        """Energy of the hull at compositions (n, d), (n,) eV/atom, and the plane that it lies on."""
        heights = fractions @ self.planes.T
        best = heights.argmax(axis=1)
        return heights[np.arange(len(best)), best], best

    def decomposition(self, fractions: Floats, plane: int) -> list[tuple[int, float]]:
        """Phases that a composition (d,) on a plane falls apart into, and the atoms in each of 1."""
        parts = np.linalg.solve(self.fractions[self.corners[plane]].T, fractions)
        return [(int(k), float(part)) for k, part in zip(self.corners[plane], parts, strict=True) if part > _SMALLEST]


#: the package's table, of the Materials Project
TABLE = "competing_phases.csv.gz"
# a formation energy beyond this, eV/atom, is of another scale or of a whole cell
_LARGEST = 6.0
# functionals that one hull may hold together
_TOGETHER = {"GGA", "GGA+U", "PBE", "PBE+U", "GGA_GGA+U"}
_COLUMN = "formation_energy_per_atom"


class CompetingPhase(NamedTuple):
    """A phase of a hull."""

    id: str
    formula: str  # reduced
    energy: float  # formation energy, eV/atom


@dataclass(frozen=True, eq=False)
class CompetingPhases:
    """Phases on one scale, the lowest of each formula."""

    phases: tuple[CompetingPhase, ...]
    scale: str
    source: str  # in words
    sha256: str
    n_higher: int = 0  # of formulas that are there already, lower
    shifts: Mapping[str, float] = field(default_factory=dict)  # mp2020 less mp-legacy, eV/atom, by reduced formula

    @classmethod
    def of(
        cls, phases: Sequence[CompetingPhase], scale: str, source: str, sha256: str | None = None
    ) -> "CompetingPhases":
        """Those of these phases that are the lowest of their formula.

        Without ``sha256``, that of their ids, formulas and energies is taken.

        Raises
        ------
        ValueError
            If an energy is absurd: of another scale, or of a whole cell.
        """
        if far := [phase for phase in phases if not abs(phase.energy) <= _LARGEST]:
            raise ValueError(
                f"{far[0].formula} ({far[0].id}) would have a formation energy of {far[0].energy:.3g} eV/atom; allowed "
                f"are {_LARGEST:g} at most: is an energy per atom given for one of a cell, or the other way round?"
            )
        lowest: dict[str, CompetingPhase] = {}
        for phase in phases:
            if phase.formula not in lowest or phase.energy < lowest[phase.formula].energy:
                lowest[phase.formula] = phase
        if sha256 is None:
            rows = "".join(f"{phase.id}\t{phase.formula}\t{phase.energy!r}\n" for phase in phases)
            sha256 = hashlib.sha256(rows.encode()).hexdigest()
        return cls(tuple(lowest.values()), check_scale(scale), source, sha256, n_higher=len(phases) - len(lowest))

    @cached_property
    def _by_elements(self) -> dict[tuple[int, ...], list[int]]:
        groups: dict[tuple[int, ...], list[int]] = {}
        for k, phase in enumerate(self.phases):
            groups.setdefault(_elements_of(phase.formula), []).append(k)
        return groups

    @cached_property
    def _hulls(self) -> dict[tuple[tuple[int, ...], str | None], tuple[Hull, list[int]]]:
        return {}

    def hull(self, elements: Sequence[int], *, without: str | None = None) -> tuple[Hull, list[int]]:
        """The hull of a chemical system, by atomic numbers, and the index of each of its phases among all.

        The elements, which come first in the hull, have the index -1. ``without`` is a reduced formula left out.
        """
        key = tuple(sorted(elements))
        left_out = without if without is not None and without in self.formulas else None
        if (key, left_out) not in self._hulls:
            inside = [
                k
                for size in range(1, len(key) + 1)
                for part in combinations(key, size)
                for k in self._by_elements.get(part, ())
                if self.phases[k].formula != without
            ]
            fractions = np.zeros((len(inside), len(key)))
            for row, k in enumerate(inside):
                for z, n in counts(self.phases[k].formula).items():
                    fractions[row, key.index(z)] = n
            fractions /= np.maximum(fractions.sum(axis=1, keepdims=True), 1e-300)
            energies = np.array([self.phases[k].energy for k in inside])
            self._hulls[key, left_out] = Hull.of(fractions, energies), [-1] * len(key) + inside
        return self._hulls[key, left_out]

    @cached_property
    def formulas(self) -> frozenset[str]:
        """Reduced formulas of all phases."""
        return frozenset(phase.formula for phase in self.phases)

    def shift(self, formula: str, source: str, to: str) -> float:
        """Return what is added to a formation energy, eV/atom, to bring it from one scale to another."""
        if check_scale(source) == check_scale(to):
            return 0.0
        known = self.shifts.get(formula)
        if known is not None and {source, to} == {"mp-legacy", "mp2020"}:
            return known if to == "mp2020" else -known
        return formation_shift(formula, to) - formation_shift(formula, source)


_SYMBOL = re.compile("[A-Z][a-z]?")


def _elements_of(formula: str) -> tuple[int, ...]:
    """Atomic numbers of a formula's elements, in order, without reading how many atoms there are."""
    numbers = _numbers()
    return tuple(sorted({numbers[symbol] for symbol in _SYMBOL.findall(formula)}))


@cache
def _numbers() -> dict[str, int]:
    """Atomic numbers by symbol."""
    return {symbol: number for number, symbol in enumerate(symbols())}


@lru_cache(maxsize=100_000)
def counts(formula: str) -> dict[int, float]:
    """Atoms of each element in a formula, by atomic number; a ValueError where it is none."""
    amounts = parse_formula(formula)
    if amounts is None or not amounts.keys() <= _numbers().keys():
        raise ValueError(f"{formula!r} is no formula of the elements 1 (H) to 100 (Fm)")
    return {_numbers()[symbol]: n for symbol, n in amounts.items()}


def known_phases(scale: str = "mp2020") -> CompetingPhases:
    """The package's table: the lowest crystal of each formula of the Materials Project as of about 2020.

    Within Li-Co-Ni-O it holds entries of 2024, too.
    """
    check_scale_of_table(scale)
    content = _known_content()
    names, *rows = csv.reader(gzip.decompress(content).decode().splitlines())
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    energies = {name: list(map(float, columns[column])) for name, column in _COLUMNS.items()}
    return CompetingPhases(
        tuple(map(CompetingPhase, columns["id"], columns["formula"], energies[scale])),
        scale,
        f"{len(rows):,} formulas of the Materials Project (PBE and PBE+U, about 2020, Li-Co-Ni-O of 2024; CC BY 4.0)",
        hashlib.sha256(content).hexdigest(),
        shifts=dict(zip(columns["formula"], map(sub, energies["mp2020"], energies["mp-legacy"]), strict=True)),
    )


def check_scale_of_table(scale: str) -> None:
    """Refuse a scale that the package's table is not on with a ValueError."""
    check_scale(scale)
    if scale not in _COLUMNS:
        raise ValueError(f"the package's competing phases are on the scales {' and '.join(_COLUMNS)}, not on {scale}")


def known_phases_sha256() -> str:
    """The sha256 of the package's table."""
    return hashlib.sha256(_known_content()).hexdigest()


def _known_content() -> bytes:
    return files("cgcnn_ase.stability").joinpath(TABLE).read_bytes()


_COLUMNS = {"mp2020": "formation_energy_mp2020", "mp-legacy": "formation_energy_mp_legacy"}


def read_phases(path: Path, scale: str = "mp2020") -> CompetingPhases:
    """Your own competing phases: a folder of ``cgcnn-ase fetch``, or pymatgen's entries in a JSON file.

    Entries have the energy of a cell, with their corrections, and their elements' own entries give the formation
    energies; a folder has a column ``formation_energy_per_atom``. ``scale`` is what they are on.

    Raises
    ------
    ValueError
        If the file is neither, an element has no entry of its own, functionals are mixed, or energies are absurd.
    """
    check_scale(scale)
    if path.is_dir():
        phases, content = _of_folder(path, scale)
    else:
        content = path.read_bytes()
        phases = _of_entries(path, content)
    source, sha256 = f"{len(phases):,} entries of {path}", hashlib.sha256(content).hexdigest()
    try:
        return CompetingPhases.of(phases, scale, source, sha256)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _of_folder(folder: Path, scale: str) -> tuple[list[CompetingPhase], bytes]:
    from cgcnn_ase.data.dataset import load_dataset, read_properties

    table, file = read_properties(folder)
    if _COLUMN not in table:
        raise ValueError(f"{file}: no column {_COLUMN}; cgcnn-ase fetch writes it with --fields {_COLUMN}")
    functionals, corrections = ({str(each) for each in table.get(name, ())} for name in ("functional", "corrections"))
    try:
        check_labels(functionals, corrections, scale)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    dataset = load_dataset(folder, target=[_COLUMN])
    rows = zip(dataset.ids, dataset.structures, np.asarray(dataset.targets)[:, 0].tolist(), strict=True)
    phases = [
        CompetingPhase(str(name), formula_of(s.numbers), energy) for name, s, energy in rows if np.isfinite(energy)
    ]
    return phases, file.read_bytes()


def check_labels(functionals: Collection[str], corrections: Collection[str], scale: str) -> None:
    """Refuse formation energies of functionals that never mix, or with the corrections of another scale.

    Both are in the words of ``cgcnn-ase fetch``; what says nothing is believed. What is refused is a ValueError.
    """
    if any("r2scan" in each.lower() for each in functionals) or len(functionals) > 1:
        names = " and ".join(sorted(functionals))
        raise ValueError(f"energies of {names}; the hull needs those of PBE and PBE+U alone")
    for each in sorted(corrections):
        if (carried := fetched_scale(each)) not in (None, scale):
            raise ValueError(f"energies with the corrections {each} are on the scale {carried}, not on {scale}")


def _of_entries(path: Path, content: bytes) -> list[CompetingPhase]:
    try:
        entries: Any = json.loads(content)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: neither a folder of cgcnn-ase fetch nor entries in JSON ({error})") from error
    if isinstance(entries, dict):
        entries = entries.get("entries", [])
    if not isinstance(entries, list) or not entries or not all(isinstance(each, dict) for each in entries):
        raise ValueError(f"{path}: no list of pymatgen's entries")
    read = list(_read_entries(path, entries))
    functionals = {functional for *_, functional in read if functional}
    if len(functionals) > 1 and not functionals <= _TOGETHER:
        raise ValueError(
            f"{path}: entries of {' and '.join(sorted(functionals))}, whose energies never mix; give those of one"
        )
    elements: dict[str, float] = {}
    for _, composition, energy, _ in read:
        if len(composition) == 1:
            ((symbol, n),) = composition.items()
            elements[symbol] = min(energy / n, elements.get(symbol, np.inf))
    missing = sorted({symbol for _, composition, _, _ in read for symbol in composition} - elements.keys())
    if missing:
        raise ValueError(f"{path}: no entry of the element {', '.join(missing)} itself, which the hull needs")
    return [
        CompetingPhase(
            name,
            reduced(composition),
            (energy - sum(n * elements[symbol] for symbol, n in composition.items())) / sum(composition.values()),
        )
        for name, composition, energy, _ in read
    ]


def _read_entries(path: Path, entries: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, float], float, str]]:
    """Id, composition, energy of the cell with its corrections, and functional of each entry."""
    from pymatgen.entries.computed_entries import ComputedEntry

    for k, entry in enumerate(entries):
        name = str(entry.get("entry_id") or f"entry {k + 1}")
        try:  # the structure of an entry says nothing here
            read = ComputedEntry.from_dict({key: value for key, value in entry.items() if key != "structure"})
            composition, energy = read.composition.get_el_amt_dict(), float(read.energy)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path}: {name} has no composition or energy ({error})") from error
        yield name, composition, energy, str(read.parameters.get("run_type") or "")


def reduced(composition: "str | Mapping[str, float]") -> str:
    """Pymatgen's reduced formula of a formula, or of amounts by element."""
    from pymatgen.core import Composition

    return Composition(composition).reduced_formula
