"""Records of an optimisation: proposals, evaluations, steps, and what each point's status may be."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from cgcnn_ase.optimization.space.variables import Point


@dataclass(frozen=True)
class RoundProposal:
    """The points of one round, and what was known of them before.

    Attributes
    ----------
    chosen_by
        For each point the acquisition, or ``initial``.
    gain
        For each point the value of the acquisition; None in the initial design.
    mean, std
        For each point what the surrogate predicts of each objective, in its unit; empty in the initial design.
    """

    round: int
    points: "list[Point]"
    chosen_by: list[str]
    gain: list[float | None]
    mean: list[dict[str, float]]
    std: list[dict[str, float]]


@dataclass(frozen=True)
class Evaluation:
    """What an oracle says of one structure.

    Attributes
    ----------
    values
        Numbers by name: ``energy`` is the total energy of the cell in eV, other names carry their own extent and unit
        (``formation_energy_per_atom``, eV/atom; ``band_gap``, eV).
    stds
        One standard deviation of some or all of them, in the same unit.
    info
        What else is worth keeping, as plain values: steps of a relaxation, an AiiDA node's uuid.
    """

    values: Mapping[str, float]
    stds: Mapping[str, float] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"values": dict(self.values), "stds": dict(self.stds), "info": dict(self.info)}


Status = Literal["done", "failed", "label"]


@dataclass(frozen=True)
class Record:
    """One evaluation, or one value that was known before (``label``).

    Attributes
    ----------
    values, stds
        Of each objective, in its unit; empty where it failed.
    chosen_by, gain, mean, std
        Why the point was proposed and what was predicted, as in :class:`RoundProposal`; ``label`` for what was known.
    seconds, attempts
        What the oracle took.
    reason
        Why it failed.
    oracle
        Who said so, in words.
    cells
        What the oracle said of each cell, by the key of its point: values, stds and info, or the error.
    """

    index: int
    round: int
    key: str
    point: "Point"
    status: Status
    values: dict[str, float]
    stds: dict[str, float]
    chosen_by: str
    gain: float | None
    mean: dict[str, float]
    std: dict[str, float]
    seconds: float
    attempts: int
    reason: str
    oracle: str
    cells: dict[str, dict[str, Any]] = field(default_factory=dict)

    def known_cells(self) -> dict[str, Evaluation | str]:
        """The cells as the evaluator keeps them."""
        return {key: cell["error"] if "error" in cell else Evaluation(**cell) for key, cell in self.cells.items()}


@dataclass(frozen=True)
class Step:
    """One round, when it is complete.

    Attributes
    ----------
    round
        1, 2, ...
    proposal
        Its points and what was predicted of them.
    records
        What came out, in the order of the points.
    is_new
        Whether any of it was evaluated now, and not before the run was resumed.
    """

    round: int
    proposal: RoundProposal
    records: tuple[Record, ...]
    is_new: bool = True


class OracleError(RuntimeError):
    """An evaluation that gave no usable number; the message is the reason that is recorded."""
