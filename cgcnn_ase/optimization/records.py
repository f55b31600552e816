"""Records of an optimisation: what a round proposed, what came of each point, and what was found in all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypedDict, runtime_checkable

import numpy as np

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.optimization.objectives import Objective
from cgcnn_ase.optimization.oracles.base import Evaluation, Oracle
from cgcnn_ase.optimization.pareto import costs_of, pareto_front
from cgcnn_ase.optimization.space.variables import Point

Status = Literal["done", "failed", "label"]


@dataclass(frozen=True)
class RoundProposal:
    """The points of one round, and for each point what was known of it before."""

    round: int
    points: list[Point]
    chosen_by: list[str]  # the acquisition, or ``initial``
    gain: list[float | None]  # the value of the acquisition; None in the initial design
    mean: list[dict[str, float]]  # predicted value of each objective, in its unit; empty in the initial design
    std: list[dict[str, float]]


class CellRecord(TypedDict, total=False):
    """An oracle's evaluation of a cell, or the error."""

    values: dict[str, float]
    stds: dict[str, float]
    info: dict[str, object]
    error: str


@dataclass(frozen=True)
class Record:
    """One evaluation, or one value that was known before (``label``)."""

    index: int
    round: int
    key: str
    point: Point
    status: Status
    values: dict[str, float]  # of each objective, in its unit; empty where it failed
    stds: dict[str, float]
    chosen_by: str  # as in :class:`RoundProposal`, like the next three; ``label`` for what was known
    gain: float | None
    mean: dict[str, float]
    std: dict[str, float]
    seconds: float  # that the oracle took
    attempts: int
    reason: str  # why it failed
    oracle: str  # who evaluated, in words
    cells: dict[str, CellRecord] = field(default_factory=dict)  # of each cell, by the key of its point

    def known_cells(self) -> dict[str, Evaluation | str]:
        """Return the cells as the evaluator keeps them."""
        return {
            key: cell["error"] if "error" in cell else Evaluation(cell["values"], cell["stds"], cell["info"])
            for key, cell in self.cells.items()
        }

    def summary(self) -> dict[str, object]:
        """Return what a result shows of it, as plain values."""
        return {
            "index": self.index, "round": self.round, "status": self.status, "point": self.point,
            "values": self.values, "stds": self.stds,
        }  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One round, when it is complete."""

    round: int  # 1, 2, ...
    proposal: RoundProposal
    records: tuple[Record, ...]  # in the order of the points
    is_new: bool = True  # whether any of it was evaluated now, and not before the run was resumed


@runtime_checkable
class RecordingOracle(Oracle, Protocol):
    """An oracle that keeps a record of its own of the run, as AiiDA's provenance graph is one."""

    def begin(self, run: Mapping[str, object]) -> None:
        """Take what decides the run, once before the first evaluation, in plain values.

        ``config``, ``oracle`` (who says what), ``folder`` of the run, and ``objectives``: of each ``name``, ``wanted``
        (min, max or a number) and ``model`` (what predicts it in place of the oracle, or None).
        """

    def on_step(self, step: Step) -> None:
        """Take a round that is complete; of a run that is resumed the earlier rounds come again."""


@dataclass(frozen=True)
class OptimisationResult:
    """All evaluations of a run."""

    records: tuple[Record, ...]  # labels that were given first, then the evaluations, in order
    objectives: tuple[Objective, ...]
    oracle: Mapping[str, object]  # what the oracle says of itself
    stopped: str  # why it ended, in words
    folder: Path

    @property
    def known(self) -> list[Record]:
        """Those with values."""
        return [record for record in self.records if record.status != "failed"]

    @property
    def failed(self) -> list[Record]:
        """Those without."""
        return [record for record in self.records if record.status == "failed"]

    @property
    def ranked(self) -> list[Record]:
        """Those with values, the best by the first objective first."""
        order = np.argsort(costs(self.known, self.objectives)[:, 0], kind="stable")
        return [self.known[k] for k in order]

    @property
    def best(self) -> Record | None:
        """The best by the first objective; None where everything failed."""
        return next(iter(self.ranked), None)

    @property
    def front(self) -> list[Record]:
        """Those that no other is better than in every objective (the Pareto front); with one objective, the best."""
        mask = pareto_front(values(self.known, self.objectives), [o.wanted for o in self.objectives])
        return [record for record, on in zip(self.known, mask, strict=True) if on]

    def to_dict(self) -> dict[str, object]:
        """Return plain values, for JSON."""
        n_labels = sum(record.status == "label" for record in self.records)
        return {
            "oracle": self.oracle,
            "objectives": [
                {"name": o.name, "goal": o.goal, "target": o.target, "unit": o.unit} for o in self.objectives
            ],
            "evaluations": len(self.records) - n_labels,
            "labels": n_labels,
            "failed": [{"index": r.index, "point": r.point, "reason": r.reason} for r in self.failed],
            "best": None if self.best is None else self.best.summary(),
            "front": [record.summary() for record in self.front] if len(self.objectives) > 1 else None,
            "stopped": self.stopped,
            "folder": str(self.folder),
        }


def values(records: Sequence[Record], objectives: Sequence[Objective]) -> Floats:
    """(n, m) values of records that have them."""
    rows = [[record.values[o.name] for o in objectives] for record in records]
    return np.array(rows, dtype=float).reshape(-1, len(objectives))


def costs(records: Sequence[Record], objectives: Sequence[Objective]) -> Floats:
    """(n, m) the same as costs, which are to be low."""
    return costs_of(values(records, objectives), [o.wanted for o in objectives])
