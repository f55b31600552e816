"""Ask an oracle so that nothing it does ends the run: retries, a time limit, and every failure in words."""

import json
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cgcnn_ase.core.parallel import Worker, WorkerError
from cgcnn_ase.optimization.oracles.base import BatchOracle, Oracle, checked
from cgcnn_ase.optimization.records import Evaluation, OracleError

if TYPE_CHECKING:
    from ase import Atoms

    from cgcnn_ase.optimization.oracles.registry import OracleRecipe
    from cgcnn_ase.optimization.space.variables import Point


#: seconds that a child process has to import what the oracle needs
START_S = 300.0


class OracleReply(NamedTuple):
    """What came of asking."""

    evaluation: Evaluation | None  #: None where it failed
    reason: str  #: why it failed; empty where it did not
    attempts: int
    seconds: float


class GuardedOracle:
    """Asks an oracle with retries, in a process of its own where there is a time limit.

    Parameters
    ----------
    oracle
        Who is asked, in this process.
    retries
        How often an evaluation that failed is tried again.
    timeout_s
        Seconds after which an evaluation is given up: it then runs in a child process, which is killed with all that
        it has started. None for no limit, and no child process.
    recipe
        What the child process makes the same oracle of; needed with a time limit.
    """

    def __init__(
        self,
        oracle: Oracle,
        *,
        retries: int = 0,
        timeout_s: float | None = None,
        recipe: "OracleRecipe | None" = None,
    ) -> None:
        if timeout_s is not None and recipe is None:
            raise ValueError("timeout_s: an oracle given as a Python object has no time limit; name one in the file")
        if timeout_s is not None and isinstance(oracle, BatchOracle):
            raise ValueError(f"timeout_s: {oracle.name} evaluates several at once, and has time limits of its own")
        self.oracle, self.retries, self.timeout_s = oracle, retries, timeout_s
        self._recipe = recipe
        self._worker = Worker()

    def ask(self, point: "Point", atoms: "Atoms | None") -> OracleReply:
        """The evaluation of a point, or why there is none."""
        start = time.monotonic()
        attempt = 1
        reply = self._once(point, atoms)
        while isinstance(reply, OracleError) and attempt <= self.retries:
            attempt += 1
            reply = self._once(point, atoms)
        seconds = time.monotonic() - start
        if isinstance(reply, OracleError):
            return OracleReply(None, str(reply), attempt, seconds)
        return OracleReply(reply, "", attempt, seconds)

    def close(self) -> None:
        """End the child process."""
        self._worker.close()

    def _once(self, point: "Point", atoms: "Atoms | None") -> Evaluation | OracleError:
        try:
            return checked(self._evaluate(point, atoms))
        except OracleError as error:
            return error

    def _evaluate(self, point: "Point", atoms: "Atoms | None") -> Evaluation:
        if self.timeout_s is None:
            return evaluate_checked(self.oracle, point, atoms)
        assert self._recipe is not None
        try:
            if not self._worker.is_running:
                self._worker.ask(_prepare, self._recipe.as_json(), timeout_s=START_S)
            return self._worker.ask(_in_child, self._recipe.as_json(), point, atoms, timeout_s=self.timeout_s)
        except TimeoutError as error:
            raise OracleError(f"{error} (timeout_s); its process was ended") from error
        except WorkerError as error:
            raise OracleError(f"the oracle's process died: {error}") from error


def evaluate_checked(oracle: Oracle, point: "Point", atoms: "Atoms | None") -> Evaluation:
    """Ask an oracle; whatever other people's code raises becomes an :class:`OracleError` that says what."""
    try:
        return oracle.evaluate(point, atoms)
    except OracleError:
        raise
    except Exception as error:  # the oracle is anybody's code, and the reason is recorded with the point
        raise OracleError(f"{type(error).__name__}: {error}") from error


def _prepare(recipe: str) -> None:
    """Of the child process: make the oracle, which is no part of an evaluation's time."""
    _oracle_of(recipe)


def _in_child(recipe: str, point: "Point", atoms: "Atoms | None") -> Evaluation:
    """Of the child process, which keeps its oracle."""
    return checked(evaluate_checked(_oracle_of(recipe), point, atoms))


@lru_cache(maxsize=1)
def _oracle_of(recipe: str) -> Oracle:
    from cgcnn_ase.optimization.oracles.registry import make_oracle

    made: Mapping[str, Any] = json.loads(recipe)
    return make_oracle(made["name"], made["options"], folder=Path(made["folder"]))
