"""The log of a run as a table: one row an evaluation."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from cgcnn_ase.active.objectives import Objective
from cgcnn_ase.active.state import Record

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
