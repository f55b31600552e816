"""What a run leaves on disk after every evaluation, so that a killed run goes on as if it had never been killed.

``config.yaml`` is the whole configuration; ``oracle.json`` says who evaluates; ``proposals.jsonl`` has a line for each
round (its points and what was predicted of them), written before they are evaluated; ``evaluations.jsonl`` has a line
for each evaluation. A line is on the disk (fsync) before the next thing is done.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import yaml

from cgcnn_ase.optimization.records import Record, RoundProposal

if TYPE_CHECKING:
    pass


CONFIG, ORACLE, PROPOSALS, EVALUATIONS = "config.yaml", "oracle.json", "proposals.jsonl", "evaluations.jsonl"
LOCK = ".lock"


class RunFolder:
    """The folder of one optimisation, which one process at a time writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: IO[bytes] | None = None

    def start(
        self, config: Mapping[str, Any], oracle: Mapping[str, Any], *, resume: bool, free: tuple[str, ...]
    ) -> None:
        """Claim a new folder, or see that the run in it is the same.

        Parameters
        ----------
        config
            The whole configuration as plain values.
        oracle
            What the oracle says of itself.
        resume
            Go on with the run in the folder, if there is one.
        free
            Settings that may differ, with dots.

        Raises
        ------
        ValueError
            If the folder is not empty and nothing is to be resumed, another process runs in it, or the run was started
            with something else; the message names it.
        """
        file = self.folder / CONFIG
        used = self.folder.exists() and any(self.folder.iterdir())
        if used and not resume:
            what = "holds an optimisation already; --resume goes on with it" if file.exists() else "is not empty"
            raise ValueError(f"{self.folder}: {what}, or name another folder")
        if used and not file.exists():
            raise ValueError(f"{self.folder}: holds no optimisation to resume: there is no {CONFIG}")
        if used:
            before = yaml.safe_load(file.read_text(encoding="utf-8"))
            _refuse_changes(self.folder, before, config, "", free)
            oracle_file = self.folder / ORACLE
            if oracle_file.exists():
                _refuse_changes(
                    self.folder, json.loads(oracle_file.read_text(encoding="utf-8")), oracle, "oracle: ", ()
                )
        self.folder.mkdir(parents=True, exist_ok=True)
        self._acquire_lock()
        _replace(self.folder / ORACLE, json.dumps(dict(oracle), indent=1, allow_nan=False))
        _replace(file, yaml.safe_dump(dict(config), sort_keys=False))

    def close(self) -> None:
        """Let another process go on."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _acquire_lock(self) -> None:
        """Lock the folder; the system takes the lock off a process that ends, however it ends."""
        self._lock = (self.folder / LOCK).open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise ValueError(f"{self.folder}: another process is running this optimisation; wait, or end it") from error

    def proposals(self) -> list[RoundProposal]:
        """The rounds so far."""
        return [RoundProposal(**line) for line in _lines(self.folder / PROPOSALS)]

    def records(self) -> list[Record]:
        """The evaluations so far."""
        return [Record(**line) for line in _lines(self.folder / EVALUATIONS)]

    def propose(self, proposal: RoundProposal) -> None:
        """Save a round before it is evaluated."""
        _append(self.folder / PROPOSALS, asdict(proposal))

    def save(self, record: Record) -> None:
        """Save an evaluation."""
        _append(self.folder / EVALUATIONS, asdict(record))


def _append(file: Path, values: Mapping[str, Any]) -> None:
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(values, allow_nan=False) + "\n")
        lines.flush()
        os.fsync(lines.fileno())


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file; what was being written when the run was killed is cut off."""
    if not file.exists():
        return
    data = file.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        os.truncate(file, len(whole))
    for k, line in enumerate(whole.decode("utf-8").splitlines(), start=1):
        try:
            result: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}, line {k}: not JSON: {error}") from error
        yield result


def _replace(file: Path, text: str) -> None:
    tmp = file.with_name(f".{file.name}")
    tmp.write_text(text, encoding="utf-8")
    tmp.replace(file)


def _refuse_changes(
    folder: Path, before: Mapping[str, Any], now: Mapping[str, Any], section: str, free: tuple[str, ...]
) -> None:
    was, now_is = dict(_flat(before)), dict(_flat(now))
    for name in [*was, *now_is]:
        if name not in free and was.get(name) != now_is.get(name):
            raise ValueError(
                f"{folder}: the run was started with {section}{name} {was.get(name)!r}, not {now_is.get(name)!r}; "
                "resume with the same, or name another folder"
            )


def _flat(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``("budget.batch", 1)`` and so on."""
    if isinstance(values, Mapping) and values:
        for name, value in values.items():
            yield from _flat(value, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(values, list | tuple) and any(isinstance(value, Mapping) for value in values):
        for k, value in enumerate(values):
            yield from _flat(value, f"{prefix}.{k}")
    else:
        yield prefix, list(values) if isinstance(values, tuple) else values
