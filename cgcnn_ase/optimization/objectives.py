r"""What is optimised: a number computed from what the oracle says of one or several cells.

- ``energy_per_atom``: :math:`E / N`, eV/atom.
- ``formation_energy_per_atom``: :math:`(E - \sum_i \mu_i) / N` with the elements' energies :math:`\mu` on the oracle's
  scale, eV/atom.
- ``mixing_energy_per_atom`` (also ``stability``): :math:`E / N - \sum_M x_M E_M / N_M`, where :math:`E_M` is the cell
  of the space in which all the mixed metals are M and everything else, the lithium vacancies too, is as in the point;
  eV/atom. Negative: the mixture does not fall apart into its end members.
- ``voltage``: the average voltage between the full lithium content and the point's (Aydinol et al., Phys. Rev. B 56,
  1354), V against lithium metal.
- any other name: a value that the oracle gives under that name, or that a model of the zoo predicts (``model``).

An oracle that gives a value under one of the first names is taken at its word, too: nothing is computed then.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Literal, NamedTuple

from cgcnn_ase.optimization.records import Evaluation, OracleError
from cgcnn_ase.optimization.space.cathode_space import VACANCIES

if TYPE_CHECKING:
    from ase import Atoms

    from cgcnn_ase.optimization.space.variables import Point

GoalKind = Literal["min", "max", "target"]

#: names that mean another
ALIASES = {"stability": "mixing_energy_per_atom"}
OBJECTIVE_UNITS = {
    "energy_per_atom": "eV/atom",
    "formation_energy_per_atom": "eV/atom",
    "mixing_energy_per_atom": "eV/atom",
    "energy_above_hull": "eV/atom",
    "voltage": "V",
    "band_gap": "eV",
}
#: what the point itself is called among the cells of an objective
OWN_CELL = "itself"
_LITHIATED = "lithiated"


class EvaluatedCell(NamedTuple):
    """A cell that the oracle was asked for."""

    point: "Point"
    atoms: "Atoms | None"
    evaluation: Evaluation

    @property
    def energy(self) -> float:
        """EV a cell."""
        return self._of("energy")

    @property
    def energy_std(self) -> float | None:
        """EV a cell."""
        return self.evaluation.stds.get("energy")

    @property
    def n_atoms(self) -> int:
        """Atoms in the cell."""
        if self.atoms is None:
            raise OracleError("energies per atom need structures, and the configuration makes none: give `structure`")
        return len(self.atoms)

    def _of(self, name: str) -> float:
        if name not in self.evaluation.values:
            raise OracleError(f"the oracle gave no {name}, only {', '.join(self.evaluation.values)}")
        return self.evaluation.values[name]


class ObjectiveValue(NamedTuple):
    """A value with one standard deviation (None where nobody knows it), both in the objective's unit."""

    value: float
    std: float | None


Cells = Mapping[str, EvaluatedCell]
References = Mapping[str, float]


@dataclass(frozen=True)
class Objective:
    """One thing to optimise.

    Attributes
    ----------
    name
        What it is, see above.
    goal
        ``min``, ``max``, or ``target``: as near to `target` as possible.
    target
        The value that is wanted, in the objective's unit.
    model
        Pretrained name or model folder that predicts it from the structure, in place of the oracle.
    mixed
        Of a mixing energy: the variables that are shares of the mixed metals.
    """

    name: str
    goal: GoalKind = "min"
    target: float | None = None
    model: str | None = None
    mixed: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """Of the value; empty where only the oracle knows."""
        return OBJECTIVE_UNITS.get(self.name, "")

    def needs(self, point: "Point") -> "dict[str, Point]":
        """The points whose cells the value is computed from, by what they are called."""
        result = {OWN_CELL: point}
        if self.name == "voltage":
            result[_LITHIATED] = {**point, VACANCIES: 0.0}
        if self.name == "mixing_energy_per_atom":
            for metal in self.mixed:
                if point[metal]:
                    ends = {other: float(other == metal) for other in self.mixed}
                    result[metal] = {**point, **ends}
        return result

    def value(self, cells: Cells, references: References | None = None) -> ObjectiveValue:
        """The value from the cells.

        Parameters
        ----------
        cells
            By the names of :meth:`needs`.
        references
            Energies of the elements on the oracle's scale, eV/atom.

        Raises
        ------
        OracleError
            If the oracle has not given what is needed.
        """
        evaluation = cells[OWN_CELL].evaluation
        if self.name in evaluation.values:
            return ObjectiveValue(evaluation.values[self.name], evaluation.stds.get(self.name))
        compute = _COMPUTED.get(self.name)
        if compute is None:
            raise OracleError(f"the oracle gave no {self.name}, only {', '.join(evaluation.values)}")
        return compute(cells, references, self.mixed)

    @property
    def wanted(self) -> Literal["min", "max"] | float:
        """The goal as the optimiser takes it: a target is a number."""
        if self.goal != "target":
            return self.goal
        assert self.target is not None
        return self.target


def _energy_per_atom(cells: Cells, references: References | None, mixed: tuple[str, ...]) -> ObjectiveValue:
    del references, mixed
    cell = cells[OWN_CELL]
    return ObjectiveValue(cell.energy / cell.n_atoms, _scaled(cell.energy_std, 1 / cell.n_atoms))


def _formation_energy(cells: Cells, references: References | None, mixed: tuple[str, ...]) -> ObjectiveValue:
    total = _energy_per_atom(cells, references, mixed)
    atoms = cells[OWN_CELL].atoms
    assert atoms is not None
    symbols = atoms.get_chemical_symbols()
    known = references or {}
    if missing := sorted(set(symbols) - set(known)):
        raise OracleError(
            f"a formation energy needs the elements' energies on the oracle's scale, and those of {', '.join(missing)} "
            "are not known: give `references` among the oracle's options (eV/atom)"
        )
    return ObjectiveValue(total.value - sum(known[symbol] for symbol in symbols) / len(symbols), total.std)


def _mixing_energy(cells: Cells, references: References | None, mixed: tuple[str, ...]) -> ObjectiveValue:
    total = _energy_per_atom(cells, references, mixed)
    value, variances = total.value, [total.std]
    for metal in mixed:
        if metal not in cells:
            continue
        share = float(cells[OWN_CELL].point[metal])
        end = _energy_per_atom({OWN_CELL: cells[metal]}, references, mixed)
        value -= share * end.value
        variances.append(_scaled(end.std, share))
    return ObjectiveValue(value, _quadrature(variances))


def _voltage(cells: Cells, references: References | None, mixed: tuple[str, ...]) -> ObjectiveValue:
    from cgcnn_ase.cathodes.voltage import average_voltage, framework
    from cgcnn_ase.energies.energy_model import StoredEnergy

    del mixed
    full, partial = cells[_LITHIATED], cells[OWN_CELL]
    if references is None or "Li" not in references:
        raise OracleError("a voltage needs the energy of lithium metal: give `references: {Li: ...}` (eV/atom)")
    lithiated, delithiated = (_with_energy(cell) for cell in (full, partial))
    result = average_voltage(lithiated, delithiated, StoredEnergy(), lithium=references["Li"])
    units = framework(lithiated, "Li").n_units
    per_volt = 1 / (units * (result.x_from - result.x_to))
    return ObjectiveValue(result.voltage, _quadrature([_scaled(cell.energy_std, per_volt) for cell in (full, partial)]))


_COMPUTED: dict[str, Callable[[Cells, References | None, tuple[str, ...]], ObjectiveValue]] = {
    "energy_per_atom": _energy_per_atom,
    "formation_energy_per_atom": _formation_energy,
    "mixing_energy_per_atom": _mixing_energy,
    "voltage": _voltage,
}


def _with_energy(cell: EvaluatedCell) -> "Atoms":
    """The structure, which brings its energy."""
    if cell.atoms is None:
        raise OracleError("a voltage needs structures, and the configuration makes none: give `structure`")
    atoms: Atoms = cell.atoms.copy()
    atoms.info["energy"] = cell.energy
    return atoms


def _scaled(std: float | None, factor: float) -> float | None:
    return None if std is None else abs(factor) * std


def _quadrature(stds: list[float | None]) -> float | None:
    """Of independent errors; None where one is not known."""
    known = [std for std in stds if std is not None]
    return sqrt(sum(std**2 for std in known)) if len(known) == len(stds) else None
