"""From points to the values of the objectives: cells are made, the oracle is asked once for each, answers are kept."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from cgcnn_ase.optimization.objectives import OWN_CELL, EvaluatedCell, Objective, ObjectiveValue
from cgcnn_ase.optimization.oracles.base import BatchOracle, Oracle, checked
from cgcnn_ase.optimization.oracles.graph_model import ModelOracle
from cgcnn_ase.optimization.oracles.guarded import GuardedOracle, OracleReply, evaluate_checked
from cgcnn_ase.optimization.records import Evaluation, OracleError

if TYPE_CHECKING:
    from ase import Atoms

    from cgcnn_ase.optimization.problem import Problem
    from cgcnn_ase.optimization.space.variables import Point


@dataclass(frozen=True)
class Outcome:
    """What came of evaluating a point.

    Attributes
    ----------
    values
        Of each objective, in its unit; empty where the evaluation failed.
    stds
        One standard deviation of those for which it is known.
    cells
        What the oracle said of each cell that was asked for now, by the key of its point: an evaluation, or the reason
        why there is none.
    """

    point: "Point"
    values: Mapping[str, float]
    stds: Mapping[str, float]
    reason: str
    attempts: int
    seconds: float
    cells: Mapping[str, Evaluation | str]


class Evaluator:
    """Evaluates points, and asks for no cell twice.

    Parameters
    ----------
    problem
        The space, the structures and the objectives.
    guard
        The oracle.
    """

    def __init__(self, problem: "Problem", guard: GuardedOracle) -> None:
        self.problem, self.guard = problem, guard
        self._known: dict[str, Evaluation | str] = {}
        names = sorted({o.model for o in problem.objectives if o.model is not None})
        self._models: dict[str, Oracle] = {name: ModelOracle(name) for name in names}

    def add_known_cells(self, cells: Mapping[str, Evaluation | str]) -> None:
        """Take what was said of cells before, by key: those of a run that is resumed."""
        self._known |= cells

    def describe(self) -> dict[str, Any]:
        """Who says what: the oracle, and the models of objectives that have one of their own."""
        result = self.guard.oracle.describe()
        if not self._models:
            return result
        models = {o.name: self._models[o.model].describe() for o in self.problem.objectives if o.model is not None}
        whats = [result["what"], *(f"{name}: {model['what']}" for name, model in models.items())]
        return result | {"what": "; ".join(whats), "models": models}

    def evaluate(self, points: "Sequence[Point]") -> "Iterator[Outcome]":
        """Yield what came of each point, as soon as it is there.

        One after the other in the order given; an oracle that evaluates several at once is given all cells first, and
        the points come in the order in which they are complete.
        """
        if isinstance(self.guard.oracle, BatchOracle):
            yield from self._side_by_side(self.guard.oracle, points)
            return
        for point in points:
            yield self._outcome(point, {key: self._ask(cell) for key, cell in self._missing([point]).items()})

    def _side_by_side(self, oracle: BatchOracle, points: "Sequence[Point]") -> "Iterator[Outcome]":
        """All cells at once; those that failed again at once, as often as is configured."""
        answers: dict[str, OracleReply] = {}
        ready: dict[str, tuple[Point, Atoms | None]] = {}
        for key, cell in self._missing(points).items():
            made = self._structure(cell)
            if isinstance(made, OracleReply):
                answers[key] = made
            else:
                ready[key] = (cell, made)
        left = {self.problem.space.key(point): point for point in points}

        def complete() -> "Iterator[Outcome]":
            for key, point in list(left.items()):
                mine = self._cells(point)
                if all(cell in answers or cell in self._known for cell in mine):
                    del left[key]
                    new = {cell: answers[cell] for cell in mine if cell not in self._known}
                    yield self._outcome(point, new, side_by_side=True)

        yield from complete()
        for attempt in range(1, self.guard.retries + 2):
            again: dict[str, tuple[Point, Atoms | None]] = {}
            for key, answer in _answers(oracle, ready, attempt):
                if answer.evaluation is None and attempt <= self.guard.retries:
                    again[key] = ready[key]
                    continue
                answers[key] = answer
                yield from complete()
            ready = again

    def _ask(self, cell: "Point") -> OracleReply:
        made = self._structure(cell)
        return made if isinstance(made, OracleReply) else self.guard.ask(cell, made)

    def _structure(self, cell: "Point") -> "Atoms | OracleReply | None":
        """The structure of a cell, or the answer where there is none to ask about."""
        try:
            return self.problem.structure(cell)
        except OracleError as error:
            return OracleReply(None, str(error), 1, 0.0)

    def _cells(self, point: "Point") -> "dict[str, Point]":
        """The cells that the oracle is needed for, by key."""
        cells: dict[str, Point] = {}
        for objective in self.problem.objectives:
            if objective.model is None:
                cells |= {self.problem.space.key(cell): cell for cell in objective.needs(point).values()}
        return cells

    def _missing(self, points: "Sequence[Point]") -> "dict[str, Point]":
        result: dict[str, Point] = {}
        for point in points:
            result |= {key: cell for key, cell in self._cells(point).items() if key not in self._known}
        return result

    def _outcome(self, point: "Point", answers: Mapping[str, OracleReply], *, side_by_side: bool = False) -> Outcome:
        """The values of a point from its cells, asked for one after the other or all together."""
        seconds = [a.seconds for a in answers.values()]
        replies = {key: a.evaluation if a.evaluation is not None else a.reason for key, a in answers.items()}
        self._known |= replies
        measured: dict[str, ObjectiveValue] = {}
        reason = ""
        try:
            for objective in self.problem.objectives:
                measured[objective.name] = self._measured(objective, point)
        except OracleError as error:
            measured, reason = {}, str(error)
        return Outcome(
            point=point,
            values={name: one.value for name, one in measured.items()},
            stds={name: one.std for name, one in measured.items() if one.std is not None},
            reason=reason,
            attempts=max((a.attempts for a in answers.values()), default=0),
            seconds=max(seconds, default=0.0) if side_by_side else sum(seconds),
            cells=replies,
        )

    def _measured(self, objective: Objective, point: "Point") -> ObjectiveValue:
        if objective.model is not None:
            atoms = self.problem.structure(point)
            reply = checked(evaluate_checked(self._models[objective.model], point, atoms))
            return objective.value({OWN_CELL: EvaluatedCell(point, atoms, reply)})
        cells: dict[str, EvaluatedCell] = {}
        for name, cell in objective.needs(point).items():
            answer = self._known[self.problem.space.key(cell)]
            if isinstance(answer, str):
                raise OracleError(answer if name == OWN_CELL else f"the cell it is compared with ({name}): {answer}")
            cells[name] = EvaluatedCell(cell, self.problem.structure(cell), answer)
        return objective.value(cells, self.guard.oracle.references)


def _answers(
    oracle: BatchOracle, cells: "Mapping[str, tuple[Point, Atoms | None]]", attempt: int
) -> Iterator[tuple[str, OracleReply]]:
    """What came of each cell, by key, as soon as it is there; the reason where nothing came."""
    start = monotonic()
    waiting = list(cells)
    keys = tuple(waiting)
    reason = "the oracle ended without an answer"
    try:
        for k, reply in oracle.evaluate_many([cell for cell, _ in cells.values()], [a for _, a in cells.values()]):
            waiting.remove(keys[k])
            yield keys[k], _answer(reply, attempt, monotonic() - start)
    except OracleError as error:
        reason = str(error)
    for key in waiting:
        yield key, OracleReply(None, reason, attempt, monotonic() - start)


def _answer(reply: Evaluation | OracleError, attempt: int, seconds: float) -> OracleReply:
    try:
        if isinstance(reply, OracleError):
            raise reply
        return OracleReply(checked(reply), "", attempt, seconds)
    except OracleError as error:
        return OracleReply(None, str(error), attempt, seconds)
