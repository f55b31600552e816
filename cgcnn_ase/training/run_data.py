"""Data of a run: prepared data, a data set, a folder of CGNN or labelled structures, each read once."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from cgcnn_ase.core.targets import TargetSpec
from cgcnn_ase.core.yaml_settings import Plain
from cgcnn_ase.data.cgnn_folder import GRAPH, load_cgnn_folder
from cgcnn_ase.data.dataset import Dataset, composition_key
from cgcnn_ase.data.formats import is_cgnn_folder, is_prepared
from cgcnn_ase.data.prepare import prepare
from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.data.tasks import TaskName, asked_columns, load_tasks, target_specs
from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.graphs.geometry import geometry
from cgcnn_ase.structures.labels import label_of
from cgcnn_ase.training.replay import with_replay
from cgcnn_ase.training.start_model import can_reuse_head

if TYPE_CHECKING:
    from ase import Atoms

    from cgcnn_ase.models.crystal_model import CrystalModel

DataLike: TypeAlias = str | Path | PreparedData | Sequence["Atoms"]


@dataclass(frozen=True)
class Question:
    """What is to be learned of a data set, and how it is split where it has no split."""

    columns: tuple[str, ...] = ()  # NAME or NAME:KIND; none: the only one
    task: TaskName = "regression"
    unit: str = ""
    val: float = 0.1
    test: float = 0.1
    is_part: bool = False  # of a data set in shards: formulas are split alike in all of them

    def of_model(self, model: "CrystalModel | None") -> TargetSpec | None:
        """Target of the model to tune, where no other is asked for."""
        if model is None or self.unit or self.task != model.target.task:
            return None
        return model.target if self.columns in ((), (model.target.name,)) else None


class DataSource:
    """Where a run's data are. Prepared data are read at once, and no second time; others when their graph is known.

    Raises
    ------
    ValueError
        If the data were prepared for other targets than asked.
    """

    def __init__(self, data: DataLike, question: Question, model: "CrystalModel | None" = None) -> None:
        self.data = Path(data) if isinstance(data, str) else data
        self.question = question
        self.target = question.of_model(model)
        self.prepared = self.data if isinstance(self.data, PreparedData) else None
        if isinstance(self.data, Path) and is_prepared(self.data):
            self.prepared = PreparedData.load(self.data)
        if self.prepared is not None and question.columns:
            has = [target.name for target in self.prepared.specs]
            if has != list(question.columns):
                raise ValueError(f"{data}: was prepared for {', '.join(has)}, not {', '.join(question.columns)}")

    def settings(self) -> Plain:
        """What of a run's settings the data decide: the graph, of CGNN's also the architecture."""
        if self.prepared is not None:
            return {"graph": asdict(self.prepared.graph_config)}
        if isinstance(self.data, Path) and is_cgnn_folder(self.data):
            return {"graph": asdict(GRAPH), "network": {"architecture": "cgnn"}}
        return {}

    def only_classes(self) -> bool:
        """Whether there is nothing to learn but classifications."""
        if self.prepared is not None:
            return all(target.task == "classification" for target in self.prepared.specs)
        names = self.question.columns or ("",)
        return all((name.partition(":")[2] or self.question.task) == "classification" for name in names)

    def load(self, graph: GraphConfig, *, progress: bool = False) -> PreparedData:
        """Data as prepared, or the structures read and their graphs built."""
        ask, target = self.question, self.target
        if self.prepared is not None:
            return self.prepared
        if isinstance(self.data, Path) and is_cgnn_folder(self.data):
            names = list(ask.columns) if target is None else [target.name]
            data = load_cgnn_folder(
                self.data, names, task=ask.task, unit=ask.unit, val=ask.val, test=ask.test, is_part=ask.is_part
            )
            return data if target is None else replace(data, specs=(target,))
        if isinstance(self.data, Path):
            dataset, specs = load_tasks(self.data, ask.columns, task=ask.task, unit=ask.unit)
        else:
            assert not isinstance(self.data, PreparedData)
            dataset, specs = _labelled(self.data, ask, target)
        return prepare(
            dataset, specs if target is None else (target,), graph,
            val=ask.val, test=ask.test, is_part=ask.is_part, progress=progress,
        )  # fmt: skip


def _labelled(
    structures: "Sequence[Atoms]", question: Question, target: TargetSpec | None
) -> tuple[Dataset, tuple[TargetSpec, ...]]:
    """Structures with the labels that they carry; a part of several labels may be missing, not all."""
    columns, kinds = asked_columns("structures", question.columns, question.task, list)
    columns = columns or ["target" if target is None else target.name]
    labels = np.array([[label_of(atoms, name) for name in columns] for atoms in structures], dtype=float)
    if len(bare := np.flatnonzero(np.isnan(labels).all(axis=1))):
        raise ValueError(
            f"{len(bare)} of {len(labels)} structures have no label {', '.join(columns)}, the first {bare[0]}"
        )
    dataset = Dataset(
        ids=[str(k) for k in range(len(structures))],
        structures=[geometry(atoms) for atoms in structures],
        targets=labels,
        split=None,
        formulas=[composition_key(atoms.numbers) for atoms in structures],
    )
    return dataset, target_specs(columns, kinds, labels, question.unit)


def with_old(
    new: PreparedData,
    old: DataLike,
    question: Question,
    model: "CrystalModel",
    *,
    n: int | None,
    seed: int,
    progress: bool = False,
) -> PreparedData:
    """New data with some of what the model to tune has learned before.

    Raises
    ------
    ValueError
        If the model learns another property now.
    """
    if not can_reuse_head(model, new.specs):
        raise ValueError(
            f"--replay: the old labels are of {model.target.name}, the new of "
            f"{', '.join(spec.name for spec in new.specs)}; only the same property can be replayed"
        )
    ask = Question(question.columns or (model.target.name,), model.target.task)
    past = DataSource(old, ask, model).load(new.graph_config, progress=progress)
    return with_replay(new, replace(past, specs=new.specs), n=n, seed=seed)
