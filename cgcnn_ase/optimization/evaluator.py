"""From points to the values of the objectives: cells are made, the oracle is asked once for each, answers are kept."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cgcnn_ase.optimization.config import Problem
from cgcnn_ase.optimization.objectives import (
    ABOVE_HULL,
    OF_HULL,
    OWN_CELL,
    P_STABLE,
    WITHIN,
    EvaluatedCell,
    Objective,
    ObjectiveValue,
)
from cgcnn_ase.optimization.oracles.base import (
    BatchOracle,
    Evaluation,
    GuardedOracle,
    Oracle,
    OracleError,
    OracleReply,
    evaluate_checked,
)
from cgcnn_ase.optimization.oracles.calculators import UNRELAXED, ModelOracle, StabilityOracle
from cgcnn_ase.optimization.space.variables import Point

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True)
class Outcome:
    """The evaluation of a point."""

    point: Point
    values: dict[str, float]  # of each objective, in its unit; empty where the evaluation failed
    stds: dict[str, float]  # one standard deviation of those for which it is known
    reason: str  # why it failed
    attempts: int
    seconds: float
    cells: Mapping[str, Evaluation | str]  # of each cell that was asked for now: an evaluation, or why there is none


class Evaluator:
    """Evaluates points, and asks for no cell twice."""

    def __init__(self, problem: Problem, guard: GuardedOracle) -> None:
        self.problem, self.guard = problem, guard
        self._known: dict[str, Evaluation | str] = {}
        self._relaxed: dict[str, tuple[Atoms, dict[str, object]]] = {}
        self._models = _models_of(problem.objectives)

    def add_known_cells(self, cells: Mapping[str, Evaluation | str]) -> None:
        """Take what was said of cells before, by key: those of a run that is resumed."""
        self._known |= cells

    def describe(self) -> dict[str, object]:
        """Say who says what: the oracle, and the models of objectives that have one of their own."""
        description = self.guard.oracle.describe()
        if (relaxer := self.problem.relaxer) is not None:
            of_relaxer = relaxer.describe()
            where = " where it knows their elements" if relaxer.keeps_unknown else ""
            what = f"{description['what']}, of structures relaxed by {of_relaxer['model']}{where}"
            description |= {"what": what, "relaxed_by": of_relaxer}
        for objective in self.problem.objectives:
            if objective.name == ABOVE_HULL and objective.model is None:
                phases = objective.hull.phases
                description |= {"hull": phases.source, "hull_sha256": phases.sha256, "hull_scale": phases.scale}
        if not self._models:
            return description
        models = {name: model.describe() for name, model in self._models.items()}
        whats = [str(description["what"]), *(f"{name}: {model['what']}" for name, model in models.items())]
        return description | {"what": "; ".join(whats), "models": models}

    def evaluate(self, points: Sequence[Point]) -> Iterator[Outcome]:
        """Yield what came of each point, as soon as it is there.

        One after the other in the order given; an oracle that evaluates several at once is given all cells first, and
        the points come in the order in which they are complete.
        """
        left = {self.problem.space.key(point): point for point in points}
        replies: dict[str, OracleReply] = {}
        in_order = not isinstance(self.guard.oracle, BatchOracle)

        def complete() -> Iterator[Outcome]:
            for key, point in list(left.items()):
                cells = self._cells(point)
                if all(cell in replies or cell in self._known for cell in cells):
                    del left[key]
                    new = {cell: replies[cell] for cell in cells if cell not in self._known}
                    yield self._outcome(point, new, side_by_side=not in_order)
                elif in_order:
                    return

        yield from complete()
        cells = {key: cell for point in points for key, cell in self._cells(point).items() if key not in self._known}
        for key, reply in self._replies(cells):
            replies[key] = reply
            yield from complete()

    def _replies(self, cells: Mapping[str, Point]) -> Iterator[tuple[str, OracleReply]]:
        """Yield what came of each cell; at once where no structure can be made."""
        made = {key: (cell, self._structure(cell)) for key, cell in cells.items()}
        yield from ((key, reply) for key, (_, reply) in made.items() if isinstance(reply, OracleReply))
        for key, reply in self.guard.ask_many(
            {k: (cell, a) for k, (cell, a) in made.items() if not isinstance(a, OracleReply)}
        ):
            yield key, self._with_relaxation(key, reply)

    def _structure(self, cell: Point) -> "Atoms | OracleReply | None":
        """Return the structure of a cell, or the reply where there is none to ask about."""
        try:
            return self._evaluated_structure(cell)
        except OracleError as error:
            return OracleReply(None, str(error), 1, 0.0)

    def _evaluated_structure(self, cell: Point) -> "Atoms | None":
        """Return the structure that is evaluated, relaxed where that was asked for; once a cell."""
        if self.problem.relaxer is None:
            return self.problem.structure(cell)
        key = self.problem.space.key(cell)
        if key not in self._relaxed:
            atoms = self.problem.structure(cell)
            assert atoms is not None  # the configuration was checked
            self._relaxed[key] = self.problem.relaxer(atoms)
        return self._relaxed[key][0]

    def _with_relaxation(self, key: str, reply: OracleReply) -> OracleReply:
        """Keep the relaxation's steps with what the oracle says."""
        if key not in self._relaxed or reply.evaluation is None:
            return reply
        info = {**reply.evaluation.info, "relaxation": self._relaxed[key][1]}
        return reply._replace(evaluation=replace(reply.evaluation, info=info))

    def _cells(self, point: Point) -> dict[str, Point]:
        """Return the cells that the oracle is needed for, by key."""
        needed = [o.needs(point).values() for o in self.problem.objectives if o.model is None]
        return {self.problem.space.key(cell): cell for cells in needed for cell in cells}

    def _outcome(self, point: Point, replies: Mapping[str, OracleReply], *, side_by_side: bool) -> Outcome:
        """Return the values of a point from its cells, asked for one after the other or all together."""
        seconds = [reply.seconds for reply in replies.values()]
        new = {key: reply.reason if reply.evaluation is None else reply.evaluation for key, reply in replies.items()}
        self._known |= new
        predicted: dict[int, Evaluation] = {}
        try:
            measured, reason = {o.name: self._measured(o, point, predicted) for o in self.problem.objectives}, ""
        except OracleError as error:
            measured, reason = {}, str(error)
        return Outcome(
            point=point,
            values={name: one.value for name, one in measured.items()},
            stds={name: one.std for name, one in measured.items() if one.std is not None},
            reason=reason,
            attempts=max((reply.attempts for reply in replies.values()), default=0),
            seconds=max(seconds, default=0.0) if side_by_side else sum(seconds),
            cells=new,
        )

    def _measured(self, objective: Objective, point: Point, predicted: dict[int, Evaluation]) -> ObjectiveValue:
        """Return the value of an objective; ``predicted`` holds what models have said of the point already."""
        if objective.model is not None:
            atoms, model = self._evaluated_structure(point), self._models[objective.name]
            if id(model) not in predicted:
                predicted[id(model)] = evaluate_checked(model, point, atoms)
            return objective.value({OWN_CELL: EvaluatedCell(point, atoms, predicted[id(model)])})
        cells: dict[str, EvaluatedCell] = {}
        for name, cell in objective.needs(point).items():
            known = self._known[self.problem.space.key(cell)]
            if isinstance(known, str):
                raise OracleError(known if name == OWN_CELL else f"the cell it is compared with ({name}): {known}")
            cells[name] = EvaluatedCell(cell, self.problem.structure(cell), known)
        check_relaxed_alike(cells)
        oracle = self.guard.oracle
        return objective.value(cells, oracle.references, getattr(oracle, "scale", None))


def check_relaxed_alike(cells: Mapping[str, EvaluatedCell]) -> None:
    """Raise an OracleError where energies of relaxed cells and of others would be compared."""
    infos = [cell.evaluation.info.get("relaxation") for cell in cells.values()]
    notes = [info.get(UNRELAXED) if isinstance(info, Mapping) else None for info in infos]
    if any(notes) and not all(notes):
        raise OracleError(
            f"some of the cells that are compared are not relaxed: {next(note for note in notes if note)}; set "
            "`relax: false`, or another potential"
        )


def _models_of(objectives: Sequence[Objective]) -> dict[str, Oracle]:
    """Return what predicts each objective that names a model, by the objective's name.

    Objectives of one model share it, and of one hull too: ``e_above_hull`` and ``p_stable`` are of one prediction.
    """
    within = next((o.within for o in objectives if o.name == P_STABLE), WITHIN)
    made: dict[tuple[str, bool, str | None], Oracle] = {}
    models: dict[str, Oracle] = {}
    for o in objectives:
        if o.model is None:
            continue
        key = o.model, o.name in OF_HULL, o.entries
        if key not in made:
            of_hull = o.name in OF_HULL
            made[key] = StabilityOracle(o.model, entries=o.entries, within=within) if of_hull else ModelOracle(o.model)
        models[o.name] = made[key]
    return models
