r"""Intercalation voltages from the energies of lithiated and delithiated cells.

The average voltage between two contents :math:`x_1 > x_2` of an ion of charge z (Li: 1) in a framework is

.. math:: V = -\frac{E(\mathrm{Li}_{x_1}) - E(\mathrm{Li}_{x_2}) - (x_1 - x_2)\,E(\mathrm{Li})}{(x_1 - x_2)\,z\,e}

(Aydinol et al., Phys. Rev. B 56, 1354, 1997), energies at 0 K in place of free energies. Both energies are of one
model, so on one scale, and what a scale adds to a framework is in both.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from math import gcd
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import constants

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.energies.energy_model import EnergySource, as_energy_model
from cgcnn_ase.energies.interface import Combination, Energies
from cgcnn_ase.energies.relaxation import relax_cells
from cgcnn_ase.energies.scales import scale_of
from cgcnn_ase.structures import as_atoms

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

    from cgcnn_ase.uncertainty.protocol import Population

# charge of the ions that move, in electrons
IONS = {"Li": 1, "Na": 1, "K": 1, "Rb": 1, "Cs": 1, "Mg": 2, "Ca": 2, "Zn": 2, "Y": 3, "Al": 3}
# half width of the 90 % interval over the std, as of a normal distribution: `benchmarks/voltages.py --split val` gives
# what the differences of DFT energies of held-out crystals of one framework would need
INTERVAL = 1.645
# charge of a mole of electrons, mAh; a cubic ångström for each of a mole, cm³
_MAH, _CM3 = constants.N_A * constants.e / 3.6, constants.N_A * 1e-24

# phases this little above the hull (eV a unit) count as on it: networks compute in single precision
_ON_HULL = 1e-5


@dataclass(frozen=True)
class Voltage:
    """The average voltage between two contents of the ion."""

    # x_from, x_to: ions a unit of the framework, x_from > x_to: the cell is charged from one to the other
    x_from: float
    x_to: float
    voltage: float  # V, against the metal of the ion
    std: float | None  # of the energy difference, from the members of the ensemble and calibrated, V; None without one
    members: tuple[float, ...] | None  # by each member, V; None without an ensemble
    converged: bool | None = None  # whether both cells are relaxed to the end; None where nothing was relaxed
    lower: float | None = None  # ends of the 90 % interval, V; None without an ensemble
    upper: float | None = None
    capacity_grav: float | None = None  # charge that passes, mAh for each gram of the cell with x_from
    capacity_vol: float | None = None  # and mAh for each cm³ of it; None where a cell is not periodic
    scale: str | None = None  # of all energies, the metal's too; None where the model does not state it
    volume_change: float | None = None  # of the framework's volume, relative: -0.02 where it shrinks by 2 % on charging


@dataclass(frozen=True)
class Phase:
    """One structure of a series."""

    index: int  # its place in the series given
    x: float  # ions a unit of the framework
    # formation_energy, std: eV a unit, against the structures of least and most ions
    formation_energy: float
    std: float | None
    above_hull: float  # eV a unit; 0 on the hull
    converged: bool | None = None  # whether it is relaxed to the end; None where nothing was relaxed
    note: str = ""  # why it is not
    above_hull_per_atom: float | None = None  # the same distance in eV/atom
    above_hull_std: float | None = None  # of the distance, eV a unit; None without an ensemble
    volume: float | None = None  # Å³ a unit; None where the cell is not periodic
    in_domain: bool | None = None  # whether the model knows such structures; None where it cannot tell

    @property
    def is_stable(self) -> bool:
        """True where it lies on the hull."""
        return self.above_hull <= _ON_HULL


@dataclass(frozen=True)
class VoltageCurve:
    """Phases by rising content of the ion, and the steps of voltage between those on the hull, as in charging."""

    phases: tuple[Phase, ...]
    steps: tuple[Voltage, ...]
    unit: str  # formula of one unit of the framework
    ion: str
    model: str
    average: Voltage  # from the most to the fewest ions, with the whole capacity
    scale: str | None = None  # of all energies, the metal's too; None where the model does not state it

    @property
    def max_volume_change(self) -> float | None:
        """Largest over smallest volume of the framework among the stable phases, less 1; None where one has none."""
        volumes = [phase.volume for phase in self.phases if phase.is_stable]
        known = [volume for volume in volumes if volume is not None]
        return max(known) / min(known) - 1.0 if len(known) == len(volumes) else None

    def to_dict(self) -> dict[str, object]:
        """Field names and values."""
        return asdict(self) | {"max_volume_change": self.max_volume_change}


def average_voltage(
    lithiated: "Atoms | Structure",
    delithiated: "Atoms | Structure",
    model: EnergySource = "formation-energy-per-atom",
    *,
    lithium: "float | Atoms | Structure | None" = None,
    ion: str = "Li",
    population: "Population" = "hypothetical",
    relax: bool = False,
    fixed_cell: bool = False,
    fmax: float = 0.05,
    max_steps: int = 500,
) -> Voltage:
    """The average voltage between two contents of Li, V.

    Parameters
    ----------
    lithiated, delithiated
        Cells of one framework, in any order and of any size, as `ase.Atoms` or pymatgen ``Structure``.
    model
        What gives the energies: see :func:`cgcnn_ase.energies.energy_model.as_energy_model`.
    lithium
        The metal: its energy (eV/atom, on the scale of the model), or its structure, whose energy the model then gives;
        by default what the model's references have.
    ion
        Li, Na, K, Rb, Cs, Mg, Ca, Zn, Y or Al.
    population : {"known", "hypothetical"}
        Whose errors the std of a model of this package is made for: crystals known to a database, or generated ones.
    relax, fixed_cell, fmax, max_steps
        Relax each structure, that of the metal too, with its cell (the atoms alone with ``fixed_cell``) before its
        energy is taken; needs a model with forces: see :func:`cgcnn_ase.energies.relaxation.relax_cells`. What is not
        relaxed to the end has ``converged`` False; a relaxation that breaks off is a `ValueError`.

    Raises
    ------
    ValueError
        If the frameworks differ, both hold as much Li, the energy of the metal is not known, or the model has no forces
        to relax with.
    """
    how = _Relax(fmax, max_steps, with_cell=not fixed_cell) if relax else None
    series = _Series([lithiated, delithiated], model, lithium, ion, how, population)
    return series.voltage(*sorted((0, 1), key=lambda k: -series.x[k]))


def voltage_curve(
    structures: "Sequence[Atoms | Structure]",
    model: EnergySource = "formation-energy-per-atom",
    *,
    lithium: "float | Atoms | Structure | None" = None,
    ion: str = "Li",
    population: "Population" = "hypothetical",
    relax: bool = False,
    fixed_cell: bool = False,
    fmax: float = 0.05,
    max_steps: int = 500,
) -> VoltageCurve:
    """Find the stable phases and voltage steps of a series of structures of one framework.

    The formation energies against the structures of least and most Li have a lower convex hull; between two neighbours
    on it both phases coexist at one voltage. There are at least two contents of Li; several structures of one content
    are orderings, of which the lowest counts. Other parameters and errors are those of :func:`average_voltage`.
    """
    how = _Relax(fmax, max_steps, with_cell=not fixed_cell) if relax else None
    series = _Series(structures, model, lithium, ion, how, population)
    order = sorted(range(len(series.x)), key=lambda k: (series.x[k], series.per_unit[k]))
    first = order[0]
    last = min((k for k in order if series.x[k] == series.x[order[-1]]), key=lambda k: series.per_unit[k])
    formation = {k: series.formation(k, first, last) for k in order}
    hull = _lower_hull([(series.x[k], formation[k].value, k) for k in order])
    phases = tuple(series.phase(k, formation[k], hull) for k in order)
    steps = tuple(series.voltage(b, a) for a, b in zip(hull[-2::-1], hull[:0:-1], strict=True))
    average = series.voltage(hull[-1], hull[0])
    return VoltageCurve(
        phases, steps, series.frameworks[0].formula, ion, series.source.name, average, scale_of(series.source)
    )


class _Relax(NamedTuple):
    """How the cells of a series are relaxed."""

    fmax: float
    max_steps: int
    with_cell: bool


class _Series:
    """Cells of one framework with their energies, and that of the metal."""

    def __init__(
        self,
        structures: "Sequence[Atoms | Structure]",
        model: EnergySource,
        lithium: "float | Atoms | Structure | None",
        ion: str,
        relax: _Relax | None = None,
        population: "Population" = "hypothetical",
    ) -> None:
        phases = list(map(as_atoms, structures))
        metal = lithium if lithium is None or isinstance(lithium, int | float) else as_atoms(lithium)
        self.frameworks = [framework(atoms, ion) for atoms in phases]
        self.x = [result.x for result in self.frameworks]
        self._check(ion)
        self.source = as_energy_model(model, population=population)
        self.n, self.charge = len(phases), IONS[ion]
        self.metal, self.metal_weights = self._metal(metal, ion)
        cells = [*phases, *([] if isinstance(metal, int | float) or metal is None else [metal])]
        self.is_relaxed, self.notes = relax is not None, [""] * len(cells)
        if relax is not None:
            moved = relax_cells(cells, self.source, **relax._asdict())
            if failed := [f"structure {k} is {one.problem}" for k, one in enumerate(moved) if one.failed]:
                raise ValueError(failed[0])
            cells, self.notes = [one.atoms for one in moved], [one.problem for one in moved]
        self.energies: Energies = self.source.energies(cells)
        self.units = np.array([result.n_units for result in self.frameworks], dtype=float)
        self.n_atoms = [len(atoms) for atoms in cells]
        self.volumes = [
            float(atoms.get_volume()) / each.n_units if atoms.pbc.all() else None
            for atoms, each in zip(cells[: self.n], self.frameworks, strict=True)
        ]
        self.masses = [
            float(atoms.get_masses().sum()) / each.n_units for atoms, each in zip(phases, self.frameworks, strict=True)
        ]
        self.per_unit = self.energies.energies[: self.n] / self.units

    def converged(self, *cells: int) -> bool | None:
        """Tell whether these cells, and the metal's, are relaxed to the end; None where nothing was relaxed."""
        metal = range(self.n, len(self.notes))
        return not any(self.notes[k] for k in (*cells, *metal)) if self.is_relaxed else None

    def voltage(self, rich: int, poor: int) -> Voltage:
        """Between two of the cells."""
        electrons = (self.x[rich] - self.x[poor]) * self.charge
        c = self._weights({rich: -1 / electrons, poor: 1 / electrons})
        c[self.n :] += np.array(self.metal_weights) / self.charge
        sum_, metal = self.energies.combine(c), self.metal / self.charge
        value, half = sum_.value + metal, None if sum_.std is None else INTERVAL * sum_.std
        before, after = self.volumes[rich], self.volumes[poor]
        return Voltage(
            x_from=self.x[rich],
            x_to=self.x[poor],
            voltage=value,
            std=sum_.std,
            members=None if sum_.members is None else tuple(m + metal for m in sum_.members),
            converged=self.converged(rich, poor),
            scale=scale_of(self.source),
            lower=None if half is None else value - half,
            upper=None if half is None else value + half,
            capacity_grav=electrons * _MAH / self.masses[rich],
            capacity_vol=None if before is None else electrons * _MAH / (before * _CM3),
            volume_change=None if before is None or after is None else after / before - 1.0,
        )

    def phase(self, k: int, formation: Combination, hull: list[int]) -> Phase:
        """A cell with its distance from a hull, whose corners are given by rising content."""
        b = next(index for index, corner in enumerate(hull) if self.x[corner] >= self.x[k])
        right, left = hull[b], hull[max(b - 1, 0)]
        part = (self.x[k] - self.x[left]) / (self.x[right] - self.x[left]) if right != left else 1.0
        c = self._weights({k: 1.0}) - self._weights({right: part}) - self._weights({left: 1.0 - part})
        above = self.energies.combine(c)
        distance = max(0.0, above.value) if k not in hull else 0.0
        return Phase(
            k, self.x[k], formation.value, formation.std, distance, self.converged(k), self.notes[k],
            above_hull_per_atom=float(distance * self.units[k] / self.n_atoms[k]),
            above_hull_std=above.std,
            volume=self.volumes[k],
            in_domain=self.energies.in_domain[k] if self.energies.in_domain else None,
        )  # fmt: skip

    def formation(self, k: int, first: int, last: int) -> Combination:
        """Formation energy of a cell against two others, eV a unit."""
        part = (self.x[k] - self.x[first]) / (self.x[last] - self.x[first])
        c = self._weights({k: 1.0}) - self._weights({first: 1 - part}) - self._weights({last: part})
        return self.energies.combine(c)

    def _weights(self, shares: dict[int, float]) -> Floats:
        c = np.zeros(len(self.energies.energies))
        for k, share in shares.items():
            c[k] = share / self.units[k]
        return c

    def _check(self, ion: str) -> None:
        if not self.frameworks:
            raise ValueError("there are no structures")
        first: Framework = self.frameworks[0]
        for k, result in enumerate(self.frameworks):
            if not result.same_as(first):
                raise ValueError(
                    f"structure {k} has the framework {result.formula} and structure 0 {first.formula}: a voltage is "
                    f"between structures that differ in {ion} only"
                )
        if len(set(self.x)) < 2:
            raise ValueError(
                f"all structures hold {self.x[0]:g} {ion} per {first.formula}: a voltage needs two contents"
            )

    def _metal(self, lithium: "float | Atoms | None", ion: str) -> tuple[float, list[float]]:
        """The metal's energy as a constant (eV/atom), and the weight of its cell where it is one."""
        if lithium is None:
            if self.source.references is None or ion not in self.source.references:
                raise ValueError(
                    f"the energy of {ion} metal on the scale of {self.source.name!r} is not known: give lithium=, in "
                    "eV/atom or as a structure"
                )
            return float(self.source.references[ion]), []
        if isinstance(lithium, int | float):
            return float(lithium), []
        if set(lithium.get_chemical_symbols()) != {ion}:
            raise ValueError(f"the metal is {ion}, not {lithium.get_chemical_formula()}")
        return 0.0, [1 / len(lithium)]


def _lower_hull(points: list[tuple[float, float, int]]) -> list[int]:
    """Labels of the points (x, y, label), sorted by x, on the lower convex hull (Andrew's monotone chain)."""
    hull: list[tuple[float, float, int]] = []
    for x, y, label in points:
        if hull and hull[-1][0] == x:
            continue  # the lowest of this x came first
        while len(hull) > 1:
            (x0, y0, _), (x1, y1, _) = hull[-2:]
            if (y1 - y0) * (x - x0) < (y - y0) * (x1 - x0):
                break
            hull.pop()
        hull.append((x, y, label))
    return [label for _, _, label in hull]


class Framework(NamedTuple):
    """The atoms of a cell other than the ion.

    One unit is the reduced formula with all metals counted together: MO2 for LiCoO2 and for NCM811, MPO4 for LiFePO4,
    MO2 (not M2O4) for LiMn2O4.
    """

    counts: dict[str, int]  # atoms in the cell, without the ion
    n_ions: int  # ions in the cell
    n_units: int  # units in the cell

    @property
    def x(self) -> float:
        """Ions a unit."""
        return self.n_ions / self.n_units

    @property
    def formula(self) -> str:
        """One unit, with the shares of its metals."""
        order = sorted(self.counts, key=lambda symbol: (not _is_metal(symbol), symbol == "O", symbol))
        amounts = {symbol: self.counts[symbol] / self.n_units for symbol in order}
        return "".join(s + ("" if n == 1 else f"{round(n, 3):g}") for s, n in amounts.items())

    def same_as(self, other: "Framework") -> bool:
        """Compare two compositions; the cells may differ in size."""
        return {s: n * other.n_units for s, n in self.counts.items()} == {
            s: n * self.n_units for s, n in other.counts.items()
        }


def framework(atoms: "Atoms", ion: str) -> Framework:
    """The framework of a cell; an ion whose charge is not known, or nothing but the ion, is a `ValueError`."""
    if ion not in IONS:
        raise ValueError(f"ion {ion!r}: allowed are {', '.join(IONS)}")
    counts = Counter(atoms.get_chemical_symbols())
    n_ions = counts.pop(ion, 0)
    if not counts:
        raise ValueError(f"{atoms.get_chemical_formula()} holds nothing but {ion}: there is no framework")
    metals = sum(n for symbol, n in counts.items() if _is_metal(symbol))
    others = [n for symbol, n in counts.items() if not _is_metal(symbol)]
    return Framework(dict(counts), n_ions, gcd(metals, *others))


@cache
def _is_metal(symbol: str) -> bool:
    from pymatgen.core import Element

    return bool(Element(symbol).is_metal)
