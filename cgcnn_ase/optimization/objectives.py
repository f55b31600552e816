r"""Objectives: each a number computed from what the oracle says of one or several cells.

- ``energy_per_atom``: :math:`E / N`, eV/atom.
- ``formation_energy_per_atom``: :math:`(E - \sum_i \mu_i) / N` with the elements' energies :math:`\mu` on the oracle's
  scale, eV/atom.
- ``mixing_energy_per_atom`` (also ``stability``): :math:`E / N - \sum_M x_M E_M / N_M`, where :math:`E_M` is the cell
  of the space in which all the mixed metals are M and everything else, the lithium vacancies too, is as in the point;
  eV/atom. Negative: the mixture does not fall apart into its end members.
- ``e_above_hull``: the formation energy less that of the hull of competing phases, eV/atom, as
  :func:`cgcnn_ase.stability` has it. An oracle's energies are compared where their scale is known.
- ``p_stable``: the probability of lying at most ``within`` above that hull, from a model's interval.
- ``voltage``: the average voltage between the full lithium content and the point's (Aydinol et al., Phys. Rev. B 56,
  1354), V against lithium metal.
- any other name: a value that the oracle gives under that name, or that a model of the zoo predicts (``model``).

An oracle that gives a value under one of the first names is taken at its word, too: nothing is computed then.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import TYPE_CHECKING, Literal, NamedTuple

from cgcnn_ase.optimization.oracles.base import Evaluation, OracleError
from cgcnn_ase.optimization.space.cathode_space import VACANCIES
from cgcnn_ase.optimization.space.variables import Point

if TYPE_CHECKING:
    from ase import Atoms

    from cgcnn_ase.stability.predictor import HullComparison

GoalKind = Literal["min", "max", "target"]

# names that mean another
ALIASES = {"stability": "mixing_energy_per_atom"}
OBJECTIVE_UNITS = {
    "energy_per_atom": "eV/atom",
    "formation_energy_per_atom": "eV/atom",
    "mixing_energy_per_atom": "eV/atom",
    "energy_above_hull": "eV/atom",
    "e_above_hull": "eV/atom",
    "voltage": "V",
    "band_gap": "eV",
}
# what a model's stability gives, against competing phases
ABOVE_HULL, P_STABLE = "e_above_hull", "p_stable"
OF_HULL = (ABOVE_HULL, P_STABLE)
# objectives that are computed from energies
OF_ENERGIES = frozenset((
    "energy_per_atom", "formation_energy_per_atom", "mixing_energy_per_atom", "energy_above_hull", *OF_HULL, "voltage",
))  # fmt: skip
# distance above the hull up to which a crystal counts as stable, eV/atom
WITHIN = 0.05
# what the point itself is called among the cells of an objective
OWN_CELL = "itself"
_LITHIATED = "lithiated"


class EvaluatedCell(NamedTuple):
    """A cell that the oracle was asked for."""

    point: Point
    atoms: "Atoms | None"
    evaluation: Evaluation

    @property
    def energy(self) -> float:
        """Energy of the cell, eV."""
        return self.evaluation.values[_given("energy", self.evaluation)]

    @property
    def energy_std(self) -> float | None:
        """One standard deviation of the energy of the cell, eV."""
        return self.evaluation.stds.get("energy")

    @property
    def n_atoms(self) -> int:
        """Number of atoms in the cell."""
        if self.atoms is None:
            raise OracleError("energies per atom need structures, and the configuration makes none: give `structure`")
        return len(self.atoms)


class ObjectiveValue(NamedTuple):
    """A value with one standard deviation, both in the objective's unit."""

    value: float
    std: float | None  # None where nobody knows it


Cells = Mapping[str, EvaluatedCell]
References = Mapping[str, float]


@dataclass(frozen=True)
class Objective:
    """One thing to optimise."""

    name: str  # see above
    goal: GoalKind = "min"  # ``min``, ``max``, or ``target``: as near to `target` as possible
    target: float | None = None  # in the objective's unit
    model: str | None = None  # pretrained name or model folder that predicts it in place of the oracle
    mixed: tuple[str, ...] = ()  # of a mixing energy: the variables that are shares of the mixed metals
    # of an energy above the hull: file or folder of competing phases (see `StabilityPredictor`), None for the package's
    entries: str | None = None
    within: float = WITHIN

    @property
    def unit(self) -> str:
        """Unit of the value; empty where only the oracle knows."""
        return OBJECTIVE_UNITS.get(self.name, "")

    def needs(self, point: Point) -> dict[str, Point]:
        """Return the points whose cells the value is computed from, by name."""
        result = {OWN_CELL: point}
        if self.name == "voltage":
            result[_LITHIATED] = {**point, VACANCIES: 0.0}
        if self.name == "mixing_energy_per_atom":
            for metal in self.mixed:
                if point[metal]:
                    ends = {other: float(other == metal) for other in self.mixed}
                    result[metal] = {**point, **ends}
        return result

    def value(self, cells: Cells, references: References | None = None, scale: str | None = None) -> ObjectiveValue:
        """Return the value from the cells, which stand under the names of :meth:`needs`.

        `references` are energies of the elements on the oracle's scale, eV/atom, and `scale` is its name where it is
        known (:mod:`cgcnn_ase.energies.scales`); what an evaluation states of itself comes first. An
        :class:`OracleError` is raised where the oracle has not given what is needed.
        """
        evaluation = cells[OWN_CELL].evaluation
        if self.name not in evaluation.values:
            match self.name:
                case "energy_per_atom":
                    return _energy_per_atom(cells[OWN_CELL])
                case "formation_energy_per_atom":
                    return _formation_energy(cells[OWN_CELL], references or {})
                case "mixing_energy_per_atom":
                    return _mixing_energy(cells, self.mixed)
                case "voltage":
                    return _voltage(cells, references or {})
                case "e_above_hull":
                    return _above_hull(cells[OWN_CELL], scale, self.hull)
                case "p_stable":
                    raise OracleError(
                        "p_stable: the oracle gives no probability of being stable; name a model of the formation "
                        "energy, as `model: formation-energy-per-atom`"
                    )
        return ObjectiveValue(evaluation.values[_given(self.name, evaluation)], evaluation.stds.get(self.name))

    @cached_property
    def hull(self) -> "HullComparison":
        """The hull that formation energies are compared with; a ValueError if the competing phases cannot be used."""
        from cgcnn_ase.stability.predictor import HullComparison

        return HullComparison(within=self.within, entries=self.entries)

    @property
    def wanted(self) -> Literal["min", "max"] | float:
        """Goal as the optimiser takes it: a target is a number."""
        if self.goal != "target":
            return self.goal
        assert self.target is not None
        return self.target


def _energy_per_atom(cell: EvaluatedCell) -> ObjectiveValue:
    return ObjectiveValue(cell.energy / cell.n_atoms, _scaled(cell.energy_std, 1 / cell.n_atoms))


def _formation_energy(cell: EvaluatedCell, references: References) -> ObjectiveValue:
    total = _energy_per_atom(cell)
    assert cell.atoms is not None
    symbols = cell.atoms.get_chemical_symbols()
    if missing := sorted(set(symbols) - set(references)):
        raise OracleError(
            f"a formation energy needs the elements' energies on the oracle's scale, and those of {', '.join(missing)} "
            "are not known: give `references` among the oracle's options (eV/atom)"
        )
    return ObjectiveValue(total.value - sum(references[symbol] for symbol in symbols) / len(symbols), total.std)


def _above_hull(cell: EvaluatedCell, scale: str | None, hull: "HullComparison") -> ObjectiveValue:
    """Compare the formation energy that the oracle gives, or that of its energy, with the hull on the hull's scale."""
    from cgcnn_ase.energies.scales import SCALES, element_energies
    from cgcnn_ase.prediction.results import Prediction

    scale = str(cell.evaluation.info.get("scale") or scale or "")
    if not scale:
        raise OracleError(
            "e_above_hull: the scale of the oracle's energies is not known, so they cannot be compared with those of "
            "the competing phases; name a model of the formation energy (`model: formation-energy-per-atom`), or give "
            "the oracle's option `scale` where it has one"
        )
    if scale not in SCALES:
        raise OracleError(
            f"e_above_hull: the oracle's energies are on the scale {scale}, those of the competing phases on "
            f"{hull.scale}, and energies of two scales are never added; of use are an oracle on {', '.join(SCALES)}, "
            "or a model of the formation energy (`model: formation-energy-per-atom`)"
        )
    name = "formation_energy_per_atom"
    if cell.atoms is None:
        raise OracleError("e_above_hull needs a structure, and the configuration makes none: give `structure`")
    if name in cell.evaluation.values:
        formation = ObjectiveValue(cell.evaluation.values[name], cell.evaluation.stds.get(name))
    else:
        formation = _formation_energy(cell, element_energies(scale))
    row = hull.of(
        Prediction(
            id=str(cell.atoms.symbols), source="", formula=str(cell.atoms.symbols), n_atoms=len(cell.atoms),
            value=formation.value, std=formation.std, unit="eV/atom", scale=scale, property=name, model="the oracle",
            model_sha256="",
        )
    )  # fmt: skip
    if row.e_above_hull is None:
        raise OracleError(f"e_above_hull: {row.error}")
    return ObjectiveValue(row.e_above_hull, row.e_above_hull_std)


def _mixing_energy(cells: Cells, mixed: tuple[str, ...]) -> ObjectiveValue:
    total = _energy_per_atom(cells[OWN_CELL])
    value, stds = total.value, [total.std]
    for metal in mixed:
        if metal in cells:
            share, end = float(cells[OWN_CELL].point[metal]), _energy_per_atom(cells[metal])
            value -= share * end.value
            stds.append(_scaled(end.std, share))
    return ObjectiveValue(value, _quadrature(stds))


def _voltage(cells: Cells, references: References) -> ObjectiveValue:
    from cgcnn_ase.cathodes.voltage import average_voltage, framework
    from cgcnn_ase.energies.energy_model import StoredEnergy

    full, partial = cells[_LITHIATED], cells[OWN_CELL]
    if "Li" not in references:
        raise OracleError("a voltage needs the energy of lithium metal: give `references: {Li: ...}` (eV/atom)")
    lithiated, delithiated = (_with_energy(cell) for cell in (full, partial))
    step = average_voltage(lithiated, delithiated, StoredEnergy(), lithium=references["Li"])
    per_volt = 1 / (framework(lithiated, "Li").n_units * (step.x_from - step.x_to))
    return ObjectiveValue(step.voltage, _quadrature([_scaled(cell.energy_std, per_volt) for cell in (full, partial)]))


def _with_energy(cell: EvaluatedCell) -> "Atoms":
    """The structure, which brings its energy."""
    if cell.atoms is None:
        raise OracleError("a voltage needs structures, and the configuration makes none: give `structure`")
    atoms: Atoms = cell.atoms.copy()
    atoms.info["energy"] = cell.energy
    return atoms


def _given(name: str, evaluation: Evaluation) -> str:
    if name not in evaluation.values:
        raise OracleError(f"the oracle gave no {name}, only {', '.join(evaluation.values)}")
    return name


def _scaled(std: float | None, factor: float) -> float | None:
    return None if std is None else abs(factor) * std


def _quadrature(stds: list[float | None]) -> float | None:
    """Of independent errors; None where one is not known."""
    known = [std for std in stds if std is not None]
    return sqrt(sum(std**2 for std in known)) if len(known) == len(stds) else None
