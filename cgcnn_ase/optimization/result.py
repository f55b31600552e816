"""What an optimisation found."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.optimization.objectives import Objective
from cgcnn_ase.optimization.pareto import as_cost, pareto_front
from cgcnn_ase.optimization.records import Record

LOG = "log.csv"


def log_columns(variables: Sequence[str], objectives: Sequence[Objective]) -> list[str]:
    """The columns: of each objective what was predicted, what came out, and its error bar."""
    of_each = [f"{o.name}{ending}" for o in objectives for ending in ("_predicted", "_predicted_std", "", "_std")]
    return [
        "index", "round", "status", *variables, "chosen_by", "acquisition", *of_each, "seconds", "attempts", "oracle",
        "reason",
    ]  # fmt: skip


def log_row(record: Record, variables: Sequence[str], objectives: Sequence[Objective]) -> list[object]:
    """The cells of one evaluation; empty where there is nothing."""
    of_each = [cells.get(o.name) for o in objectives for cells in (record.mean, record.std, record.values, record.stds)]
    return [
        record.index, record.round, record.status, *(record.point[name] for name in variables), record.chosen_by,
        record.gain, *of_each, round(record.seconds, 3), record.attempts, record.oracle, record.reason,
    ]  # fmt: skip


class LogWriter:
    """``log.csv``, written anew from all evaluations when a run starts or is resumed, a row more after each."""

    def __init__(
        self, folder: Path, variables: Sequence[str], objectives: Sequence[Objective], records: Iterable[Record]
    ) -> None:
        self._file, self._variables, self._objectives = folder / LOG, variables, objectives
        with self._file.open("w", newline="", encoding="utf-8") as lines:
            writer = csv.writer(lines, lineterminator="\n")
            writer.writerow(log_columns(variables, objectives))
            writer.writerows(log_row(record, variables, objectives) for record in records)

    def add(self, record: Record) -> None:
        """One evaluation more."""
        with self._file.open("a", newline="", encoding="utf-8") as lines:
            csv.writer(lines, lineterminator="\n").writerow(log_row(record, self._variables, self._objectives))


@dataclass(frozen=True)
class OptimisationResult:
    """All evaluations of a run.

    Attributes
    ----------
    records
        Labels that were given first, then the evaluations, in order.
    objectives
        What was optimised.
    oracle
        What the oracle says of itself.
    stopped
        Why it ended, in words.
    folder
        Where it is saved.
    """

    records: tuple[Record, ...]
    objectives: tuple[Objective, ...]
    oracle: dict[str, Any]
    stopped: str
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
        known = self.known
        if not known:
            return []
        return [known[k] for k in np.argsort(costs(known, self.objectives)[:, 0], kind="stable")]

    @property
    def best(self) -> Record | None:
        """The best by the first objective; None where everything failed."""
        return next(iter(self.ranked), None)

    @property
    def front(self) -> list[Record]:
        """Those that no other is better than in every objective (the Pareto front); with one objective, the best."""
        known = self.known
        if not known:
            return []
        mask = pareto_front(values(known, self.objectives), [o.wanted for o in self.objectives])
        return [record for record, on in zip(known, mask, strict=True) if on]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "oracle": self.oracle,
            "objectives": [
                {"name": o.name, "goal": o.goal, "target": o.target, "unit": o.unit} for o in self.objectives
            ],
            "evaluations": sum(record.status != "label" for record in self.records),
            "labels": sum(record.status == "label" for record in self.records),
            "failed": [{"index": r.index, "point": r.point, "reason": r.reason} for r in self.failed],
            "best": None if self.best is None else _short(self.best),
            "front": [_short(record) for record in self.front] if len(self.objectives) > 1 else None,
            "stopped": self.stopped,
            "folder": str(self.folder),
        }


def values(records: Sequence[Record], objectives: Sequence[Objective]) -> Floats:
    """(n, m) values of records that have them."""
    return np.array([[record.values[o.name] for o in objectives] for record in records], dtype=float)


def costs(records: Sequence[Record], objectives: Sequence[Objective]) -> Floats:
    """(n, m) the same as costs, which are to be low."""
    rows = values(records, objectives)
    return np.stack([as_cost(column, o.wanted) for column, o in zip(rows.T, objectives, strict=True)], axis=1)


def _short(record: Record) -> dict[str, Any]:
    return {
        "index": record.index, "round": record.round, "status": record.status, "point": record.point,
        "values": record.values, "stds": record.stds,
    }  # fmt: skip
