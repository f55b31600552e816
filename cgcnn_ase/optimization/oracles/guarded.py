"""Ask an oracle so that nothing it does ends the run: retries, a time limit, and every failure in words."""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from cgcnn_ase.core.parallel import Worker, WorkerError
from cgcnn_ase.optimization.oracles.base import (
    BatchOracle,
    Evaluation,
    Oracle,
    OracleError,
    OracleRecipe,
    checked,
    make_oracle,
)
from cgcnn_ase.optimization.space.variables import Point

if TYPE_CHECKING:
    from ase import Atoms

# seconds that a child process has to import what the oracle needs
START_S = 300.0


class OracleReply(NamedTuple):
    """The evaluation of the last attempt, or the reason of its failure."""

    evaluation: Evaluation | None  # None where it failed
    reason: str  # why it failed; empty where it did not
    attempts: int
    seconds: float


class GuardedOracle:
    """Asks an oracle, with so many ``retries`` of what failed.

    With ``timeout_s`` (in s) an evaluation runs in a child process, which makes the same oracle of ``recipe`` and is
    killed with all that it has started where it takes longer. Without it all is asked in this process.
    """

    def __init__(
        self,
        oracle: Oracle,
        *,
        retries: int = 0,
        timeout_s: float | None = None,
        recipe: OracleRecipe | None = None,
    ) -> None:
        if timeout_s is not None and recipe is None:
            raise ValueError("timeout_s: an oracle given as a Python object has no time limit; name one in the file")
        if timeout_s is not None and isinstance(oracle, BatchOracle):
            raise ValueError(f"timeout_s: {oracle.name} evaluates several at once, and has time limits of its own")
        self.oracle, self.retries, self.timeout_s = oracle, retries, timeout_s
        self._recipe = json.dumps(recipe and [recipe.name, dict(recipe.options), str(recipe.folder.resolve())])
        self._worker = Worker()

    def ask(self, point: Point, atoms: "Atoms | None") -> OracleReply:
        """Return the evaluation of a point, or why there is none."""
        start, attempt = monotonic(), 1
        while True:
            reply = _reply(partial(self._evaluate, point, atoms), attempt, start)
            if reply.evaluation is not None or attempt > self.retries:
                return reply
            attempt += 1

    def ask_many(self, cells: "Mapping[str, tuple[Point, Atoms | None]]") -> Iterator[tuple[str, OracleReply]]:
        """Yield what came of each cell, by key, as soon as it is there.

        One after the other; an oracle that evaluates several at once gets all together, and those that failed again.
        """
        if not isinstance(self.oracle, BatchOracle):
            for key, (point, atoms) in cells.items():
                yield key, self.ask(point, atoms)
            return
        for attempt in range(1, self.retries + 2):
            failed: dict[str, tuple[Point, Atoms | None]] = {}
            for key, reply in _ask_batch(self.oracle, cells, attempt):
                if reply.evaluation is None and attempt <= self.retries:
                    failed[key] = cells[key]
                else:
                    yield key, reply
            cells = failed

    def close(self) -> None:
        """End the child process."""
        self._worker.close()

    def _evaluate(self, point: Point, atoms: "Atoms | None") -> Evaluation:
        if self.timeout_s is None:
            return evaluate_checked(self.oracle, point, atoms)
        try:
            if not self._worker.is_running:
                self._worker.ask(_prepare, self._recipe, timeout_s=START_S)
            return self._worker.ask(_in_child, self._recipe, point, atoms, timeout_s=self.timeout_s)
        except TimeoutError as error:
            raise OracleError(f"{error} (timeout_s); its process was ended") from error
        except WorkerError as error:
            raise OracleError(f"the oracle's process died: {error}") from error


def evaluate_checked(oracle: Oracle, point: Point, atoms: "Atoms | None") -> Evaluation:
    """Ask an oracle; whatever other people's code raises becomes an :class:`OracleError` that says what."""
    try:
        return checked(oracle.evaluate(point, atoms))
    except OracleError:
        raise
    except Exception as error:  # the oracle is anybody's code, and the reason is recorded with the point
        raise OracleError(f"{type(error).__name__}: {error}") from error


def _ask_batch(
    oracle: BatchOracle, cells: "Mapping[str, tuple[Point, Atoms | None]]", attempt: int
) -> Iterator[tuple[str, OracleReply]]:
    """Yield what came of each cell, by key, as soon as it is there; the reason where nothing came."""
    start = monotonic()
    keys, waiting = tuple(cells), set(cells)
    reason = "the oracle ended without an answer"
    try:
        for k, reply in oracle.evaluate_many([point for point, _ in cells.values()], [a for _, a in cells.values()]):
            waiting.remove(keys[k])
            yield keys[k], _reply(partial(_value, reply), attempt, start)
    except OracleError as error:
        reason = str(error)
    for key in keys:
        if key in waiting:
            yield key, OracleReply(None, reason, attempt, monotonic() - start)


def _reply(evaluate: Callable[[], Evaluation], attempt: int, start: float) -> OracleReply:
    try:
        return OracleReply(checked(evaluate()), "", attempt, monotonic() - start)
    except OracleError as error:
        return OracleReply(None, str(error), attempt, monotonic() - start)


def _value(reply: Evaluation | OracleError) -> Evaluation:
    if isinstance(reply, OracleError):
        raise reply
    return reply


def _prepare(recipe: str) -> None:
    """Make the oracle, in the child process; it is no part of an evaluation's time."""
    _oracle_of(recipe)


def _in_child(recipe: str, point: Point, atoms: "Atoms | None") -> Evaluation:
    """Ask the oracle that the child process keeps."""
    return evaluate_checked(_oracle_of(recipe), point, atoms)


@lru_cache(maxsize=1)
def _oracle_of(recipe: str) -> Oracle:
    name, options, folder = json.loads(recipe)
    return make_oracle(name, options, folder=Path(folder))
