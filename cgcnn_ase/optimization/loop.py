"""The loop that learns: propose, evaluate, save, learn, until the budget is spent."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from cgcnn_ase.core.progress import progress_bar
from cgcnn_ase.core.settings import parse_settings
from cgcnn_ase.optimization.config import RESUMABLE_SETTINGS, OptimisationConfig, Problem, build_problem, read_config
from cgcnn_ase.optimization.engine import ENGINES, SearchEngine
from cgcnn_ase.optimization.evaluator import Evaluator, Outcome
from cgcnn_ase.optimization.oracles.base import Evaluation, GuardedOracle, Oracle, make_oracle
from cgcnn_ase.optimization.oracles.table import Label, read_labels
from cgcnn_ase.optimization.records import (
    CellRecord,
    OptimisationResult,
    Record,
    RecordingOracle,
    RoundProposal,
    Step,
)
from cgcnn_ase.optimization.run_folder import LogWriter, RunFolder
from cgcnn_ase.optimization.surrogates.base import Surrogate, make_surrogate

# the status and the round of values that were known before
LABEL: Literal["label"] = "label"
INITIAL_ROUND = 0


def optimise(
    config: OptimisationConfig | Mapping[str, object] | str | Path,
    output: str | Path,
    *,
    folder: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
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
    overwrite
        Put a new run in the place of that in `output`.
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
    recipe = None
    if oracle is None:
        recipe = config.oracle.recipe(files)
        oracle = make_oracle(recipe.name, recipe.options, folder=files)
    problem = build_problem(config, oracle, files)
    guard = GuardedOracle(oracle, retries=config.oracle.retries, timeout_s=config.oracle.timeout_s, recipe=recipe)
    state = RunFolder(Path(output))
    try:
        run = _Run(config, problem, guard, state, files, resume=resume, overwrite=overwrite)
        if isinstance(oracle, RecordingOracle):
            oracle.begin(run.as_dict())
        with progress_bar("Evaluating", config.budget.evaluations, shown=progress) as advance:
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


def _engine(config: OptimisationConfig, problem: Problem, folder: Path) -> SearchEngine:
    """Make the engine that proposes the points of each round."""
    gp = config.surrogate.kind == "gp"
    return ENGINES.get(config.engine)(
        problem.space,
        "gp" if gp else [_surrogate(config, problem, objective.name, folder) for objective in problem.objectives],
        config.acquisition.name,
        [objective.wanted for objective in problem.objectives],
        seed=config.seed,
        n_initial=config.budget.initial,
        initial=config.budget.design,
        candidates=problem.candidates,
        kappa=config.acquisition.kappa,
    )


def _surrogate(config: OptimisationConfig, problem: Problem, objective: str, folder: Path) -> Surrogate:
    from cgcnn_ase.models.registry import model_names

    settings = config.surrogate
    chosen = settings.model.get(objective) if isinstance(settings.model, dict) else settings.model
    if chosen is not None:
        model: str | None = str(folder / chosen) if (folder / chosen).exists() else chosen
    else:
        name = objective.replace("_", "-")
        model = name if name in model_names() else None
    return make_surrogate(settings.kind, objective=objective, model=model, structure=problem.make_structure)


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
        overwrite: bool,
    ) -> None:
        self.names = [objective.name for objective in problem.objectives]
        labels = [] if config.labels is None else read_labels(files / config.labels, problem.space, self.names)
        self.engine, self.evaluator = _engine(config, problem, files), Evaluator(problem, guard)
        self.config, self.problem, self.state, self.stopped = config, problem, state, ""
        self.described, self._settings = self.evaluator.describe(), config.as_dict(files)
        state.start(self._settings, self.described, resume=resume, overwrite=overwrite, free=RESUMABLE_SETTINGS)
        self.records, self.proposals = state.records(), state.proposals()
        for record in self.records:
            self.evaluator.add_known_cells(record.known_cells())
        self.log = LogWriter(state.folder, problem.space.names, problem.objectives, self.records)
        for label in labels[sum(record.status == LABEL for record in self.records) :]:
            self._save(self._labelled(label))
        self._tell([record for record in self.records if record.status == LABEL])

    @property
    def n_evaluated(self) -> int:
        """Evaluations so far, those that failed too."""
        return sum(record.status != LABEL for record in self.records)

    def as_dict(self) -> dict[str, object]:
        """Return what decides the run, and where it is, as plain values."""
        objectives = [{"name": o.name, "wanted": o.wanted, "model": o.model} for o in self.problem.objectives]
        folder = str(self.state.folder.resolve())
        return {"config": self._settings, "oracle": self.described, "objectives": objectives, "folder": folder}

    def steps(self, advance: Callable[[int], None]) -> Iterator[Step]:
        """Yield rounds, each when it is complete; first those of the run that is resumed, which are learned again."""
        budget = self.config.budget
        for proposal in self.proposals:
            yield self._finish(proposal, advance)
        while self.n_evaluated < budget.evaluations:
            n = min(budget.batch, budget.evaluations - self.n_evaluated)
            proposal = self._propose(n)
            if not proposal.points:
                self.stopped = "no point is left that was not evaluated"
                return
            self.state.propose(proposal)
            self.proposals.append(proposal)
            yield self._finish(proposal, advance)
        self.stopped = f"the budget of {budget.evaluations} evaluations is spent"

    def result(self) -> OptimisationResult:
        """Return what came of the run."""
        return OptimisationResult(
            tuple(self.records), self.problem.objectives, self.described, self.stopped, self.state.folder
        )

    def _propose(self, n: int) -> RoundProposal:
        """Propose the next round, of so many points, fewer where no more are left."""
        chosen = self.engine.propose(n)
        return RoundProposal(
            round=len(self.proposals) + 1,
            points=[one.point for one in chosen],
            chosen_by=[one.acquisition for one in chosen],
            gain=[one.gain for one in chosen],
            # nothing is predicted of an initial point
            mean=[dict(zip(self.names, one.mean, strict=False)) for one in chosen],
            std=[dict(zip(self.names, one.std, strict=False)) for one in chosen],
        )

    def _tell(self, records: Sequence[Record]) -> None:
        """Learn what came out of a round; a failure is told as a failure, never as a number."""
        known = [record for record in records if record.status != "failed"]
        self.engine.tell(
            [record.point for record in known],
            [[record.values[name] for name in self.names] for record in known],
            # an error bar of 0 is one that nobody knows
            [[record.stds.get(name, 0.0) for name in self.names] for record in known],
            failed=[record.point for record in records if record.status == "failed"],
        )

    def _finish(self, proposal: RoundProposal, advance: Callable[[int], None]) -> Step:
        """Evaluate what of a round is not evaluated yet, and learn from it, in the order of the points."""
        keys = [self.problem.space.key(point) for point in proposal.points]
        done = {record.key: record for record in self.records if record.round == proposal.round}
        missing = [point for key, point in zip(keys, proposal.points, strict=True) if key not in done]
        for outcome in self.evaluator.evaluate(missing):
            key = self.problem.space.key(outcome.point)
            done[key] = self._save(self._evaluated(outcome, key, proposal, keys.index(key)))
            advance(1)
        records = [done[key] for key in keys]
        self._tell(records)
        return Step(proposal.round, proposal, tuple(records), is_new=bool(missing))

    def _save(self, record: Record) -> Record:
        self.state.save(record)
        self.records.append(record)
        self.log.add(record)
        return record

    def _evaluated(self, outcome: Outcome, key: str, proposal: RoundProposal, row: int) -> Record:
        return Record(
            index=len(self.records), round=proposal.round, key=key, point=outcome.point,
            status="failed" if outcome.reason else "done", values=outcome.values, stds=outcome.stds,
            chosen_by=proposal.chosen_by[row], gain=proposal.gain[row], mean=proposal.mean[row], std=proposal.std[row],
            seconds=outcome.seconds, attempts=outcome.attempts, reason=outcome.reason,
            oracle=str(self.described["what"]),
            cells={cell: _cell_record(reply) for cell, reply in outcome.cells.items()},
        )  # fmt: skip

    def _labelled(self, label: Label) -> Record:
        return Record(
            index=len(self.records), round=INITIAL_ROUND, key=self.problem.space.key(label.point), point=label.point,
            status=LABEL, values=label.values, stds=label.stds, chosen_by=LABEL, gain=None, mean={}, std={},
            seconds=0.0, attempts=0, reason="", oracle=str(self.config.labels),
        )  # fmt: skip


def _cell_record(reply: Evaluation | str) -> CellRecord:
    if isinstance(reply, str):
        return {"error": reply}
    return {"values": dict(reply.values), "stds": dict(reply.stds), "info": dict(reply.info)}
