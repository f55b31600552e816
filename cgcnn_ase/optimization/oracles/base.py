"""Oracles: who says, at a price, what the value of a point is. What they must have, their registry, and asking them.

Each is a class and a factory, ``factory(options, *, folder) -> Oracle``; other packages register theirs as entry points
of the group ``cgcnn_ase.oracles``. Every DFT engine (``cgcnn.engines``) is an oracle of the same name, too. They are
asked so that nothing an oracle does ends the run: retries, a time limit, and every failure in words.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib.metadata import EntryPoint
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from cgcnn_ase.core.parallel import Worker, WorkerError
from cgcnn_ase.core.registry import Registry, entry_points
from cgcnn_ase.optimization.space.variables import Point

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True)
class Evaluation:
    """An oracle's values of one structure.

    ``energy`` is the total energy of the cell in eV, other names carry their own extent and unit
    (``formation_energy_per_atom``, eV/atom; ``band_gap``, eV).
    """

    values: Mapping[str, float]  # by name
    stds: Mapping[str, float] = field(default_factory=dict)  # one standard deviation of some or all of them
    # what else is worth keeping, as plain values: steps of a relaxation, an AiiDA node's uuid; ``scale`` is that of the
    # energies, by name, where it is not the oracle's
    info: Mapping[str, object] = field(default_factory=dict)


class OracleError(RuntimeError):
    """An evaluation that gave no usable number; the message is the reason that is recorded."""


@runtime_checkable
class Oracle(Protocol):
    """Anything that evaluates points.

    An oracle that computes many at once (parallel DFT) also has ``evaluate_many``: see :class:`BatchOracle`.
    """

    name: str
    # energies of the elements on the scale of ``energy``, eV/atom; None where they are not known
    references: Mapping[str, float] | None

    def describe(self) -> dict[str, object]:
        """Return what it is: ``what`` in words for people, versions and settings. It goes into every output.

        A run is resumed only by an oracle of the same description.
        """

    def evaluate(self, point: Point, atoms: "Atoms | None") -> Evaluation:
        """Return the values of one point; an :class:`OracleError` says in words why there are none.

        `atoms` is the point's structure, None in a space without structures.
        """


@runtime_checkable
class BatchOracle(Oracle, Protocol):
    """An oracle that evaluates several structures side by side."""

    def evaluate_many(
        self, points: Sequence[Point], structures: "Sequence[Atoms | None]"
    ) -> Iterator[tuple[int, Evaluation | OracleError]]:
        """Yield the place in `points` and what came out, each once and as soon as it is there, in any order.

        Those that failed are asked for again as configured (``retries``); time limits are the oracle's own affair.
        """


class _OracleRegistry(Registry[Callable[..., Oracle]]):
    """With an oracle for each DFT engine that is installed, if AiiDA's part of this project makes one of it."""

    def _entry_points(self) -> dict[str, EntryPoint]:
        engines = [entry.name for entry in entry_points(group="cgcnn.engines")]
        oracles = {name: EntryPoint(name, f"aiida_plugin.oracles:{name}", self.group) for name in engines}
        return oracles | super()._entry_points()


_HERE = "cgcnn_ase.optimization.oracles"
ORACLES = _OracleRegistry(
    "oracle",
    "cgcnn_ase.oracles",
    {
        "ase": f"{_HERE}.calculators:ase_oracle",
        "callable": f"{_HERE}.python_function:function_oracle",
        "chgnet": f"{_HERE}.calculators:chgnet_oracle",
        "model": f"{_HERE}.calculators:model_oracle",
        "potential": f"{_HERE}.calculators:potential_oracle",
        "table": f"{_HERE}.table:table_oracle",
    },
)


@dataclass(frozen=True)
class OracleRecipe:
    """The name, the options and the folder by which an oracle is made, here or in another process."""

    name: str
    options: Mapping[str, object] = field(default_factory=dict)
    folder: Path = Path()


def make_oracle(name: str, options: Mapping[str, object] | None = None, *, folder: Path | None = None) -> Oracle:
    """Make the oracle with a name, of its own options.

    Files that the options name are looked for in `folder`, by default the current one. There is a ValueError where no
    such name or option is known.
    """
    return ORACLES.get(name)(dict(options or {}), folder=folder or Path())


def needs_structure(who: str, atoms: "Atoms | None") -> "Atoms":
    """Return the structure, or raise :class:`OracleError` in a space that has none."""
    if atoms is None:
        raise OracleError(f"{who} needs a structure, and the configuration makes none: give `structure`")
    return atoms


def checked(evaluation: Evaluation) -> Evaluation:
    """Return the same evaluation in plain numbers, or raise :class:`OracleError` where one is no finite number."""
    values, stds = _finite(evaluation.values, ""), _finite(evaluation.stds, "the std of ")
    if not values:
        raise OracleError("the oracle gave no value")
    for name, std in stds.items():
        if std < 0:
            raise OracleError(f"the std of {name} is negative: {std:g}")
    try:
        info = json.loads(json.dumps(dict(evaluation.info), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise OracleError(f"info holds what cannot be saved: {error}") from error
    return Evaluation(values, stds, info)


def _finite(numbers: Mapping[str, float], what: str) -> dict[str, float]:
    """Return numbers of any library as Python's."""
    for name, number in numbers.items():
        try:
            finite = math.isfinite(number)
        except TypeError as error:
            raise OracleError(f"{what}{name} is {number!r}, not a number") from error
        if not finite:
            raise OracleError(f"{what}{name} is {float(number)!r}, not a finite number")
    return {str(name): float(number) for name, number in numbers.items()}


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
