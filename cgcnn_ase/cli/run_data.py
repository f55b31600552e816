"""The data of a run on the command line."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cgcnn_ase.cli.messages import is_terminal

if TYPE_CHECKING:
    from cgcnn_ase.data.prepared import PreparedData
    from cgcnn_ase.nn.model import CrystalModel
    from cgcnn_ase.training.config import TrainConfig


def load_prepared(
    data: Path,
    names: list[str],
    task: str,
    unit: str,
    settings: "TrainConfig",
    tuned: "CrystalModel | None" = None,
    *,
    val: float,
    test: float,
    is_part: bool = False,
) -> "PreparedData":
    """Prepared data as it is, or a data set with its graphs built.

    Without a unit, and with no name or that of its target, the target is that of the model to tune.
    """
    from cgcnn_ase.data.cgnn_folder import is_cgnn_folder, load_cgnn_folder
    from cgcnn_ase.data.prepare import prepare
    from cgcnn_ase.data.prepared import PreparedData, is_prepared
    from cgcnn_ase.data.tasks import load_tasks

    if is_prepared(data):
        prepared = PreparedData.load(data)
        has = [target.name for target in prepared.specs]
        if names and names != has:
            raise ValueError(f"{data}: was prepared for {', '.join(has)}, not {', '.join(names)}")
        return prepared
    its_own = tuned is not None and names in ([], [tuned.target.name])
    same_target = tuned is not None and its_own and not unit and task == tuned.target.task
    if is_cgnn_folder(data):
        wanted = [tuned.target.name] if tuned is not None and same_target else names
        graphs = load_cgnn_folder(
            data, wanted, task=task, unit=unit, val=val, test=test, is_part=is_part  # type: ignore[arg-type]
        )  # fmt: skip
        return replace(graphs, specs=(tuned.target,)) if tuned is not None and same_target else graphs
    dataset, specs = load_tasks(data, names, task=task, unit=unit)  # type: ignore[arg-type]
    if tuned is not None and same_target:
        specs = (tuned.target,)
    return prepare(dataset, specs, settings.graph, val=val, test=test, is_part=is_part, progress=is_terminal())


def load_with_replay(
    data: "PreparedData",
    replay: Path,
    names: list[str],
    settings: "TrainConfig",
    tuned: "CrystalModel | None",
    *,
    n: int | None,
) -> "PreparedData":
    """The data with some of what the model to tune has learned before.

    Raises
    ------
    ValueError
        If there is no model to tune, or it learns another property now.
    """
    from cgcnn_ase.training.finetune import keeps_head
    from cgcnn_ase.training.replay import with_replay

    if tuned is None:
        raise ValueError("--replay is of fine-tuning; give the model with --from")
    if not keeps_head(tuned, data.specs):
        raise ValueError(
            f"--replay: the old labels are of {tuned.target.name}, the new of "
            f"{', '.join(spec.name for spec in data.specs)}; only the same property can be replayed"
        )
    column = names or [tuned.target.name]
    old = load_prepared(replay, column, tuned.target.task, "", settings, tuned, val=0.1, test=0.1)
    return with_replay(data, replace(old, specs=data.specs), n=n, seed=settings.seed)
