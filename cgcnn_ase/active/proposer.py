"""The optimiser as a configuration describes it: told of records, it proposes rounds."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cgcnn_ase.active.optimizer import Optimizer
from cgcnn_ase.active.state import Proposal, Record
from cgcnn_ase.active.surrogates import make_surrogate

if TYPE_CHECKING:
    from cgcnn_ase.active.config import OptimisationConfig
    from cgcnn_ase.active.objectives import Objective
    from cgcnn_ase.active.problem import Problem
    from cgcnn_ase.active.surrogate import Surrogate


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

    def propose(self, number: int, n: int) -> Proposal:
        """A round of so many points, fewer where no more are left."""
        found = self._optimizer.propose(n)
        return Proposal(
            round=number,
            points=[one.point for one in found],
            chosen_by=[one.acquisition for one in found],
            gain=[one.gain for one in found],
            mean=[self._named(one.mean) for one in found],
            std=[self._named(one.std) for one in found],
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

    def _named(self, numbers: Sequence[float]) -> dict[str, float]:
        return dict(zip(self._names, numbers, strict=True)) if numbers else {}


def _surrogate(config: "OptimisationConfig", problem: "Problem", objective: "Objective", folder: Path) -> "Surrogate":
    from cgcnn_ase.registry import model_names

    settings = config.surrogate
    if settings.kind == "gp":
        return make_surrogate("gp")
    given = settings.model.get(objective.name) if isinstance(settings.model, dict) else settings.model
    model = objective.name.replace("_", "-") if given is None else given
    if given is not None and (folder / given).exists():
        model = str(folder / given)
    elif given is None and model not in model_names():
        raise ValueError(
            f"surrogate {settings.kind}: no pretrained model predicts {objective.name}; give `model`, or one for each "
            "objective by name, or take the surrogate gp"
        )
    return make_surrogate(settings.kind, model=model, structure=problem.make_structure)
