"""Data and settings of a run: prepared data, a data set, labelled structures, each read once; settings in layers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

import numpy as np

from cgcnn_ase.core.settings import parse_settings
from cgcnn_ase.core.targets import TargetSpec, column_of
from cgcnn_ase.core.yaml_settings import Plain, current_names, merged, read_yaml
from cgcnn_ase.data.cgnn_folder import GRAPH, cgnn_columns, load_cgnn_folder
from cgcnn_ase.data.dataset import Dataset, target_columns
from cgcnn_ase.data.prepare import TaskName, asked_columns, column_for, load_tasks, prepare, target_specs
from cgcnn_ase.data.prepared import CGNN_SPLIT, PreparedData, is_cgnn_folder, is_prepared
from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.graphs.crystal_graph import geometry
from cgcnn_ase.structures.record import ENERGY_PER_ATOM, label_of, settings_converged
from cgcnn_ase.training.config import TrainConfig, is_alignn, translate
from cgcnn_ase.training.config import preset as preset_of
from cgcnn_ase.training.finetune_recipe import with_replay
from cgcnn_ase.training.start_model import can_reuse_head, inherited_settings, own_target

if TYPE_CHECKING:
    from ase import Atoms

    from cgcnn_ase.models.crystal_model import CrystalModel


DataLike: TypeAlias = str | Path | PreparedData | Sequence["Atoms"]


class DataSource:
    """Data of a run. Prepared data are read at once, and no second time; others when their graph is known.

    Columns to learn are NAME or NAME:KIND; without any it is the only one, or that of the model to tune. A column that
    means the model's target by another name (:data:`cgcnn_ase.core.targets.ALIASES`) is learned as it. ``is_part`` is
    of a data set in shards: formulas are split alike in all of them. ``parts`` are those of val and test that the user
    gave. A ValueError is raised where data were prepared for other targets than asked, or have a split and a part is
    given.
    """

    def __init__(
        self,
        data: DataLike,
        target: str | Sequence[str] = (),
        task: TaskName = "regression",
        unit: str = "",
        *,
        val: float = 0.1,
        test: float = 0.1,
        is_part: bool = False,
        model: "CrystalModel | None" = None,
        parts: Sequence[str] = (),
    ) -> None:
        self.data = Path(data) if isinstance(data, str) else data
        self.columns = (target,) if isinstance(target, str) else tuple(target)
        self.task, self.unit, self.val, self.test, self.is_part = task, unit, val, test, is_part
        self.parts = parts
        self.target: TargetSpec | None = None
        self.prepared = self.data if isinstance(self.data, PreparedData) else None
        if isinstance(self.data, Path) and is_prepared(self.data):
            self.prepared = PreparedData.load(self.data)
        if self.prepared is not None:
            self._check_parts()
            self._check_prepared(self.prepared, model)
        elif model is not None:
            self.columns = self.columns or self._columns_of(model.target)
            self.target = own_target(model.target, self.columns, task, unit)

    def _check_prepared(self, prepared: PreparedData, model: "CrystalModel | None") -> None:
        """See that the data are those asked for; what they call the model's target otherwise is given its name."""
        has = tuple(target.name for target in prepared.specs)
        if self.columns and has != tuple(name.partition(":")[0] for name in self.columns):
            raise ValueError(f"{self.data}: was prepared for {', '.join(has)}, not {', '.join(self.columns)}")
        if model is not None and len(prepared.specs) == 1:
            (spec,) = prepared.specs
            kind = "log10" if spec.transform == "log10" else spec.task
            name = model.target.name if spec.name == "target" else spec.name  # of data prepared without a name
            self.target = own_target(model.target, (f"{name}:{kind}",), spec.task, spec.unit)
            if self.target is not None:
                self.prepared = replace(prepared, specs=(self.target,))

    def _check_parts(self) -> None:
        """Refuse parts of data that are divided already."""
        if self.parts:
            options = " and ".join(f"--{part}" for part in self.parts)
            raise ValueError(f"{self.data}: has a split of its own, so {options} would have no effect; leave it out")

    def _columns_of(self, target: TargetSpec) -> tuple[str, ...]:
        """The column of a model's target where none is asked for; none where the only one is meant, whatever its name.

        Several targets are the columns themselves.
        """
        if self.task == "multi":
            return ()
        if isinstance(self.data, Path):
            column = column_for(target, _column_names(self.data), self.data)
            return () if column is None else (column,)
        structures = cast("Sequence[Atoms]", self.data)
        results = [{} if atoms.calc is None else atoms.calc.results for atoms in structures]
        keys = {key for atoms, labels in zip(structures, results, strict=True) for key in (*atoms.info, *labels)}
        keys |= {ENERGY_PER_ATOM} if "energy" in keys else set()
        return tuple(column_of(target.name, sorted(keys))[:1]) or (target.name,)

    def settings(self) -> Plain:
        """Settings of a run that the data decide: the graph, of CGNN's also the architecture."""
        if self.prepared is not None:
            return {"graph": asdict(self.prepared.graph_config)}
        if isinstance(self.data, Path) and is_cgnn_folder(self.data):
            return {"graph": asdict(GRAPH), "network": {"architecture": "cgnn"}}
        return {}

    def only_classes(self) -> bool:
        """Tell whether there is nothing to learn but classifications."""
        if self.prepared is not None:
            return all(target.task == "classification" for target in self.prepared.specs)
        if self.target is not None:
            return self.target.task == "classification"
        kinds = [name.partition(":")[2] or self.task for name in self.columns or ("",)]
        return all(kind == "classification" for kind in kinds)

    def load(self, graph: GraphConfig, *, progress: bool = False) -> PreparedData:
        """Data as prepared, or the structures read and their graphs built."""
        if self.prepared is not None:
            return self.prepared
        model_specs = None if self.target is None else (self.target,)
        if isinstance(self.data, Path) and is_cgnn_folder(self.data):
            if (self.data / CGNN_SPLIT).exists():
                self._check_parts()
            parts = {"val": self.val, "test": self.test}
            data = load_cgnn_folder(
                self.data, self.columns, task=self.task, unit=self.unit, **parts, is_part=self.is_part
            )
            return replace(data, specs=model_specs or data.specs)
        if isinstance(self.data, Path):
            dataset, specs = load_tasks(self.data, self.columns, task=self.task, unit=self.unit)
            if dataset.split is not None:
                self._check_parts()
        else:
            dataset, specs = self._labelled(cast("Sequence[Atoms]", self.data))
        return prepare(
            dataset, model_specs or specs, graph, val=self.val, test=self.test, is_part=self.is_part, progress=progress
        )

    def _labelled(self, structures: "Sequence[Atoms]") -> tuple[Dataset, tuple[TargetSpec, ...]]:
        """Structures with the labels that they carry; of several labels some may be missing, not all."""
        columns, kinds = asked_columns("structures", self.columns, self.task, list)
        columns = columns or ["target"]
        labels = np.array([[label_of(atoms, name) for name in columns] for atoms in structures], dtype=float)
        if len(bare := np.flatnonzero(np.isnan(labels).all(axis=1))):
            names = " or ".join(columns)
            raise ValueError(f"{len(bare)} of {len(labels)} structures have no label {names}, the first {bare[0]}")
        ids = [str(k) for k in range(len(structures))]
        shapes, converged = [geometry(atoms) for atoms in structures], all(map(settings_converged, structures))
        dataset = Dataset(ids, shapes, labels, labels_converged=converged)
        return dataset, target_specs(columns, kinds, labels, self.unit)


def _column_names(path: Path) -> list[str]:
    return cgnn_columns(path) if is_cgnn_folder(path) else target_columns(path)


def with_old(
    new: PreparedData,
    old: DataLike,
    columns: Sequence[str],
    model: "CrystalModel",
    *,
    n: int | None,
    seed: int,
    progress: bool = False,
) -> PreparedData:
    """New data with some of what the model to tune, of the same property, has learned before; else a ValueError."""
    if not can_reuse_head(model, new.specs):
        raise ValueError(
            f"--replay: the old labels are of {model.target.name}, the new of "
            f"{', '.join(spec.name for spec in new.specs)}; only the same property can be replayed"
        )
    asked = columns
    if isinstance(old, str | Path) and not is_prepared(Path(old)):  # which may call the property otherwise
        known = _column_names(Path(old))
        asked = columns if all(name.partition(":")[0] in known for name in columns) else ()
    source = DataSource(old, asked, model.target.task, model=model)
    past = source.load(new.graph_config, progress=progress)
    new = replace(new, scale=new.scale or model.scale)  # what states no scale is on that of the model
    return with_replay(new, replace(past, specs=new.specs, scale=past.scale or model.scale), n=n, seed=seed)


@dataclass(frozen=True)
class SettingsFile:
    """Content of a file with settings of a run; those of ALIGNN are translated."""

    path: Path | None = None
    settings: Plain = field(default_factory=dict)
    val: float = 0.1  # part for validation
    test: float = 0.1  # part for the test

    @classmethod
    def read(cls, path: Path | None, tell: Callable[[str], None]) -> "SettingsFile":
        """Read a YAML or JSON file, nothing without a path; raises ValueError naming the file and the mistake."""
        if path is None:
            return cls()
        values = read_yaml(path)
        if not is_alignn(values):
            return cls(path, current_names(values))
        try:
            alignn = translate(values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if alignn.unused:
            tell(f"{path}: settings of ALIGNN; without meaning here: {', '.join(alignn.unused)}")
        return cls(path, alignn.settings, alignn.val, alignn.test)

    def parts(self, val: float | None, test: float | None) -> tuple[float, float]:
        """Parts for validation and test: those given, else those of the file."""
        return self.val if val is None else val, self.test if test is None else test


class SettingsLayers(NamedTuple):
    """Settings of a run by name, each layer over those before it."""

    start: Plain  # of prepared data, of the preset or of the model to tune
    file: Plain
    options: Plain  # of the command line or the caller

    def config(self, recipe: Mapping[str, object] | None = None) -> TrainConfig:
        """Lay all of them over the defaults, a ``recipe`` over the start; raises ValueError naming the setting."""
        return parse_settings(TrainConfig, merged(self.start, recipe or {}, self.file, self.options))


def layer_settings(
    source: DataSource,
    file: SettingsFile,
    options: Plain,
    model: "CrystalModel | None" = None,
    *,
    preset: str | None = None,
) -> SettingsLayers:
    """Collect what is asked of a run; a ValueError names the file, the setting and what is allowed.

    Of a model to tune the head that learns its error is left out where there are only classes to learn.
    """
    start = source.settings()
    if preset is not None:
        start = _of_preset(preset, model)
    if model is not None:
        start = inherited_settings(model) | (
            {"mean_variance": False, "quantiles": False} if source.only_classes() else {}
        )
    try:
        if model is not None or preset is not None:
            owner = "the model to tune" if model is not None else f"the preset {preset}"
            _check_architecture(start, file.settings, owner)
        SettingsLayers(start, file.settings, {}).config()
    except ValueError as error:
        raise error if file.path is None else ValueError(f"{file.path}: {error}") from error
    return SettingsLayers(start, file.settings, options)


def _of_preset(name: str, model: "CrystalModel | None") -> Plain:
    """A preset as plain values; beside a model to tune it must be the model's own."""
    graph, network = preset_of(name)
    if model is not None and (graph, network) != (model.graph, model.networks[0].config.architecture):
        raise ValueError(
            f"--preset {name}: the model to tune has another network or graph, and keeps it; leave out --preset"
        )
    return {"graph": asdict(graph), "network": asdict(network)}


def _check_architecture(start: Plain, asked: Plain, owner: str) -> None:
    """Refuse another architecture, which has its own settings and cannot be laid over these."""
    has, wanted = start.get("network"), asked.get("network")
    if not isinstance(has, Mapping) or not isinstance(wanted, Mapping) or "architecture" not in wanted:
        return
    if has["architecture"] != wanted["architecture"]:
        raise ValueError(
            f"network.architecture: {owner} is of the architecture {has['architecture']}, the settings ask for "
            f"{wanted['architecture']}"
        )
