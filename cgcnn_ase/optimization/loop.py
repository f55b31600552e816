"""The loop that learns: propose, evaluate, save, learn, until the budget is spent."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cgcnn_ase.core.settings import parse_settings
from cgcnn_ase.optimization.config import RESUMABLE_SETTINGS, OptimisationConfig, read_config
from cgcnn_ase.optimization.evaluator import Evaluator, Outcome
from cgcnn_ase.optimization.known_values import Label, read_labels
from cgcnn_ase.optimization.optimizer import Optimizer
from cgcnn_ase.optimization.oracles.base import Oracle, RecordingOracle
from cgcnn_ase.optimization.oracles.guarded import GuardedOracle
from cgcnn_ase.optimization.oracles.registry import make_oracle
from cgcnn_ase.optimization.problem import Problem, build_problem
from cgcnn_ase.optimization.records import Evaluation, Record, RoundProposal, Step
from cgcnn_ase.optimization.result import LogWriter, OptimisationResult
from cgcnn_ase.optimization.run_folder import RunFolder
from cgcnn_ase.optimization.surrogates.graph_network import make_surrogate

if TYPE_CHECKING:
    from cgcnn_ase.optimization.config import OptimisationConfig
    from cgcnn_ase.optimization.objectives import Objective
    from cgcnn_ase.optimization.problem import Problem
    from cgcnn_ase.optimization.surrogates.base import Surrogate


class Proposer:
    """Proposes the points of each round.

    Parameters
    ----------
    config
        Surrogate, acquisition, initial design and seed.
    problem
        The space and the objectives.
    folder
        Where a model that the configuration names is looked for.

    Raises
    ------
    ValueError
        If a network is to be the surrogate and there is no model or no structure for it.
    """

    def __init__(self, config: "OptimisationConfig", problem: "Problem", folder: Path) -> None:
        self._names = [objective.name for objective in problem.objectives]
        self._optimizer = Optimizer(
            problem.space,
            [_surrogate(config, problem, objective, folder) for objective in problem.objectives],
            config.acquisition.name,
            [objective.wanted for objective in problem.objectives],
            seed=config.seed,
            n_initial=config.budget.initial,
            initial=config.budget.design,
            candidates=problem.candidates,
            kappa=config.acquisition.kappa,
        )

    def propose(self, number: int, n: int) -> RoundProposal:
        """A round of so many points, fewer where no more are left."""
        result = self._optimizer.propose(n)
        return RoundProposal(
            round=number,
            points=[one.point for one in result],
            chosen_by=[one.acquisition for one in result],
            gain=[one.gain for one in result],
            mean=[self._by_objective(one.mean) for one in result],
            std=[self._by_objective(one.std) for one in result],
        )

    def tell(self, records: Sequence[Record]) -> None:
        """Learn what came out of a round; a failure is told as a failure, never as a number."""
        known = [record for record in records if record.status != "failed"]
        self._optimizer.tell(
            [record.point for record in known],
            [[record.values[name] for name in self._names] for record in known],
            # an error bar of 0 is one that nobody knows
            [[record.stds.get(name, 0.0) for name in self._names] for record in known],
            failed=[record.point for record in records if record.status == "failed"],
        )

    def _by_objective(self, numbers: Sequence[float]) -> dict[str, float]:
        return dict(zip(self._names, numbers, strict=True)) if numbers else {}


def _surrogate(config: "OptimisationConfig", problem: "Problem", objective: "Objective", folder: Path) -> "Surrogate":
    from cgcnn_ase.models.registry import model_names

    settings = config.surrogate
    if settings.kind == "gp":
        return make_surrogate("gp")
    model_name = settings.model.get(objective.name) if isinstance(settings.model, dict) else settings.model
    model = objective.name.replace("_", "-") if model_name is None else model_name
    if model_name is not None and (folder / model_name).exists():
        model = str(folder / model_name)
    elif model_name is None and model not in model_names():
        raise ValueError(
            f"surrogate {settings.kind}: no pretrained model predicts {objective.name}; give `model`, or one for each "
            "objective by name, or take the surrogate gp"
        )
    return make_surrogate(settings.kind, model=model, structure=problem.make_structure)


#: the status and the round of values that were known before
LABEL: Literal["label"] = "label"
INITIAL_ROUND = 0


def optimise(
    config: "OptimisationConfig | Mapping[str, Any] | str | Path",
    output: str | Path,
    *,
    folder: str | Path | None = None,
    resume: bool = False,
    oracle: Oracle | None = None,
    progress: bool = False,
    on_step: Callable[[Step], None] | None = None,
) -> OptimisationResult:
    """Search a space for the points that are best by one or several objectives, evaluating as few as possible.

    Everything is saved in `output` after each evaluation. What is proposed depends on the seed and on what is known
    alone, so that a run that was killed and resumed evaluates the same points as one that was not.

    Parameters
    ----------
    config
        A YAML file, its content as a dict, or the checked configuration.
    output
        Folder of the run, new or empty: ``config.yaml``, ``oracle.json``, ``proposals.jsonl``, ``evaluations.jsonl``,
        ``log.csv``.
    folder
        Where the files that the configuration names are looked for; that of the YAML file, else the current one.
    resume
        Go on with the run in `output`, if there is one.
    oracle
        In place of the one that the configuration names, of whose settings only ``retries`` counts then.
    progress
        Whether to show a progress bar on stderr.
    on_step
        Called after each round that is evaluated now, not for those of a run that is resumed.

    Returns
    -------
    All evaluations, the best, and why it ended. An evaluation that failed is among them with its reason.

    Raises
    ------
    ValueError
        If the configuration is not allowed, `output` is taken, or the run in it was started with another configuration
        or oracle.
    ImportError
        If a package that the surrogate or the oracle needs is missing.
    """
    if isinstance(config, str | Path):
        folder = Path(config).parent if folder is None else folder
        config = read_config(config)
    elif not isinstance(config, OptimisationConfig):
        config = parse_settings(OptimisationConfig, config)
    files = Path() if folder is None else Path(folder)
    recipe = None if oracle is not None else config.oracle.recipe(files)
    if oracle is None:
        oracle = make_oracle(config.oracle.name, config.oracle.model_extra or {}, folder=files)
    problem = build_problem(config, oracle, files)
    guard = GuardedOracle(oracle, retries=config.oracle.retries, timeout_s=config.oracle.timeout_s, recipe=recipe)
    state = RunFolder(Path(output))
    try:
        run = _Run(config, problem, guard, state, files, resume=resume)
        if isinstance(oracle, RecordingOracle):
            oracle.begin(run.as_dict())
        with _bar(progress, config.budget.evaluations) as advance:
            advance(run.n_evaluated)
            for step in run.steps(advance):
                if isinstance(oracle, RecordingOracle):
                    oracle.on_step(step)
                if on_step is not None and step.is_new:
                    on_step(step)
    finally:
        guard.close()
        state.close()
    return run.result()


class _Run:
    """One run, new or resumed."""

    def __init__(
        self,
        config: OptimisationConfig,
        problem: Problem,
        guard: GuardedOracle,
        state: RunFolder,
        files: Path,
        *,
        resume: bool,
    ) -> None:
        names = [objective.name for objective in problem.objectives]
        labels = [] if config.labels is None else read_labels(files / config.labels, problem.space, names)
        self.proposer = Proposer(config, problem, files)
        evaluator = Evaluator(problem, guard)
        self.config, self.problem, self.state, self.evaluator = config, problem, state, evaluator
        self.described = evaluator.describe()
        self._settings = config.as_dict(files)
        state.start(self._settings, self.described, resume=resume, free=RESUMABLE_SETTINGS)
        self.records, self.proposals = state.records(), state.proposals()
        for record in self.records:
            evaluator.add_known_cells(record.known_cells())
        self.log = LogWriter(state.folder, problem.space.names, problem.objectives, self.records)
        for label in labels[sum(record.status == LABEL for record in self.records) :]:
            self._save(self._labelled(label))
        self.proposer.tell([record for record in self.records if record.status == LABEL])
        self.stopped = ""

    @property
    def n_evaluated(self) -> int:
        """Evaluations so far, those that failed too."""
        return sum(record.status != LABEL for record in self.records)

    def as_dict(self) -> dict[str, Any]:
        """What decides the run, and where it is, as plain values."""
        return {
            "config": self._settings,
            "oracle": self.described,
            "objectives": [
                {"name": one.name, "wanted": one.wanted, "model": one.model} for one in self.problem.objectives
            ],
            "folder": str(self.state.folder.resolve()),
        }

    def steps(self, advance: Callable[[int], None]) -> Iterator[Step]:
        """Rounds, each when it is complete; first those of the run that is resumed, which are learned again."""
        budget = self.config.budget
        for proposal in self.proposals:
            yield from self._finish(proposal, advance)
        while self.n_evaluated < budget.evaluations:
            n = min(budget.batch, budget.evaluations - self.n_evaluated)
            proposal = self.proposer.propose(len(self.proposals) + 1, n)
            if not proposal.points:
                self.stopped = "no point is left that was not evaluated"
                return
            self.state.propose(proposal)
            self.proposals.append(proposal)
            yield from self._finish(proposal, advance)
        self.stopped = f"the budget of {budget.evaluations} evaluations is spent"

    def result(self) -> OptimisationResult:
        """What was found."""
        return OptimisationResult(
            tuple(self.records), self.problem.objectives, self.described, self.stopped, self.state.folder
        )

    def _finish(self, proposal: RoundProposal, advance: Callable[[int], None]) -> Iterator[Step]:
        """Evaluate what of a round is not evaluated yet, and learn from it, in the order of the points."""
        key = self.problem.space.key
        done = {record.key: record for record in self.records if record.round == proposal.round}
        missing = [point for point in proposal.points if key(point) not in done]
        places = {key(point): k for k, point in enumerate(proposal.points)}
        for outcome in self.evaluator.evaluate(missing):
            name = key(outcome.point)
            done[name] = self._save(self._evaluated(outcome, proposal, places[name]))
            advance(1)
        records = [done[key(point)] for point in proposal.points]
        self.proposer.tell(records)
        yield Step(proposal.round, proposal, tuple(records), is_new=bool(missing))

    def _save(self, record: Record) -> Record:
        self.state.save(record)
        self.records.append(record)
        self.log.add(record)
        return record

    def _evaluated(self, outcome: Outcome, proposal: RoundProposal, position: int) -> Record:
        return Record(
            index=len(self.records),
            round=proposal.round,
            key=self.problem.space.key(outcome.point),
            point=outcome.point,
            status="failed" if outcome.reason else "done",
            values=dict(outcome.values),
            stds=dict(outcome.stds),
            chosen_by=proposal.chosen_by[position],
            gain=proposal.gain[position],
            mean=proposal.mean[position],
            std=proposal.std[position],
            seconds=outcome.seconds,
            attempts=outcome.attempts,
            reason=outcome.reason,
            oracle=str(self.described["what"]),
            cells={key: _cell_record(reply) for key, reply in outcome.cells.items()},
        )

    def _labelled(self, label: Label) -> Record:
        return Record(
            index=len(self.records), round=INITIAL_ROUND, key=self.problem.space.key(label.point), point=label.point,
            status=LABEL, values=label.values, stds=label.stds, chosen_by=LABEL, gain=None, mean={}, std={},
            seconds=0.0, attempts=0, reason="", oracle=str(self.config.labels),
        )  # fmt: skip


def _cell_record(reply: Evaluation | str) -> dict[str, Any]:
    return {"error": reply} if isinstance(reply, str) else reply.as_dict()


@contextmanager
def _bar(shown: bool, total: int) -> Iterator[Callable[[int], None]]:
    """What moves a progress bar by so many evaluations."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=not shown) as progress:
        task = progress.add_task("Evaluating", total=total)
        yield lambda n: progress.advance(task, n)
