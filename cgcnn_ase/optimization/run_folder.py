"""The folder of a run, complete after every evaluation: a killed run goes on as if it had never been killed.

``config.yaml`` is the whole configuration; ``oracle.json`` says who evaluates; ``proposals.jsonl`` has a line for each
round (its points and what was predicted of them), written before they are evaluated; ``evaluations.jsonl`` has a line
for each evaluation, ``log.csv`` a row. A line is on the disk (fsync) before the next thing is done.
"""

import csv
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import yaml

from cgcnn_ase.core.files import atomic_write, check_replaceable, clear_folder
from cgcnn_ase.core.yaml_settings import CONFIG, check_run_folder, check_unchanged
from cgcnn_ase.optimization.objectives import Objective
from cgcnn_ase.optimization.records import Record, RoundProposal

ORACLE, PROPOSALS, EVALUATIONS, LOCK, LOG = "oracle.json", "proposals.jsonl", "evaluations.jsonl", ".lock", "log.csv"

# names in the folder
_FILES = (CONFIG, ORACLE, PROPOSALS, EVALUATIONS, LOCK, LOG, "*.png")


class RunFolder:
    """The folder of one optimisation, which one process at a time writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: IO[bytes] | None = None

    def start(
        self,
        config: Mapping[str, object],
        oracle: Mapping[str, object],
        *,
        resume: bool,
        free: tuple[str, ...],
        overwrite: bool = False,
    ) -> None:
        """Claim a new folder, or with `resume` see that the run in it is the same but for `free` (settings, with dots).

        With `overwrite` an earlier run in it is removed first.

        A ValueError names the reason: the folder is not empty and nothing is to be resumed, another process runs in it,
        the run was started with something else, or what is to be written over is more than a run.
        """
        oracle_file = self.folder / ORACLE
        old = False
        if overwrite:
            self._remove_run()
        else:
            old = check_run_folder(self.folder, config, run="an optimisation", resume=resume, free=free)
        if old and oracle_file.exists():
            before = json.loads(oracle_file.read_text(encoding="utf-8"))
            check_unchanged(self.folder, before, oracle, section="oracle: ")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._acquire_lock()
        atomic_write(oracle_file, json.dumps(dict(oracle), indent=1, allow_nan=False))
        atomic_write(self.folder / CONFIG, yaml.safe_dump(dict(config), sort_keys=False))

    def close(self) -> None:
        """Let another process go on."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def proposals(self) -> list[RoundProposal]:
        """Return the rounds so far."""
        return [RoundProposal(**line) for line in _lines(self.folder / PROPOSALS)]

    def records(self) -> list[Record]:
        """Return the evaluations so far."""
        return [Record(**line) for line in _lines(self.folder / EVALUATIONS)]

    def propose(self, proposal: RoundProposal) -> None:
        """Save a round before it is evaluated."""
        _append(self.folder / PROPOSALS, asdict(proposal))

    def save(self, record: Record) -> None:
        """Save an evaluation."""
        _append(self.folder / EVALUATIONS, asdict(record))

    def _remove_run(self) -> None:
        """Remove an earlier run, unless another process is at it."""
        check_replaceable(self.folder, _FILES, marks=[ORACLE], what="an optimisation")
        if self.folder.exists():
            self._acquire_lock()
            clear_folder(self.folder, keep=[LOCK])

    def _acquire_lock(self) -> None:
        """Lock the folder; the system takes the lock off a process that ends, however it ends."""
        if self._lock is not None:
            return
        self._lock = (self.folder / LOCK).open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise ValueError(f"{self.folder}: another process is running this optimisation; wait, or end it") from error


def _append(file: Path, values: Mapping[str, object]) -> None:
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(values, allow_nan=False) + "\n")
        lines.flush()
        os.fsync(lines.fileno())


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """Read the whole lines of a file; what was being written when the run was killed is cut off."""
    if not file.exists():
        return
    data = file.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        os.truncate(file, len(whole))
    for k, line in enumerate(whole.decode("utf-8").splitlines(), start=1):
        try:
            values: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}, line {k}: not JSON: {error}") from error
        yield values


class LogWriter:
    """``log.csv``, written anew from all evaluations when a run starts or is resumed, a row more after each."""

    def __init__(
        self, folder: Path, variables: Sequence[str], objectives: Sequence[Objective], records: Iterable[Record]
    ) -> None:
        self._file, self._variables, self._names = folder / LOG, variables, [o.name for o in objectives]
        of_each = [f"{n}{ending}" for n in self._names for ending in ("_predicted", "_predicted_std", "", "_std")]
        head = [
            "index", "round", "status", *variables, "chosen_by", "acquisition", *of_each, "seconds", "attempts",
            "oracle", "reason",
        ]  # fmt: skip
        with self._file.open("w", newline="", encoding="utf-8") as lines:
            csv.writer(lines, lineterminator="\n").writerows([head, *map(self._row, records)])

    def add(self, record: Record) -> None:
        """Append one evaluation."""
        with self._file.open("a", newline="", encoding="utf-8") as lines:
            csv.writer(lines, lineterminator="\n").writerow(self._row(record))

    def _row(self, record: Record) -> list[object]:
        """Return the cells of one evaluation; empty where there is nothing."""
        parts = (record.mean, record.std, record.values, record.stds)
        of_each = [numbers.get(name) for name in self._names for numbers in parts]
        return [
            record.index, record.round, record.status, *(record.point[name] for name in self._variables),
            record.chosen_by, record.gain, *of_each, round(record.seconds, 3), record.attempts, record.oracle,
            record.reason,
        ]  # fmt: skip
