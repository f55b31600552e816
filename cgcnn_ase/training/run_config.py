"""Settings of a run on the command line: each layer over those before it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cgcnn_ase.cli.messages import echo_stderr, is_terminal

if TYPE_CHECKING:
    from cgcnn_ase.data.prepared import PreparedData
    from cgcnn_ase.models.crystal_model import CrystalModel
    from cgcnn_ase.training.config import TrainConfig
    from cgcnn_ase.training.finetune_defaults import Tuning


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
    from cgcnn_ase.data.cgnn_folder import load_cgnn_folder
    from cgcnn_ase.data.formats import is_cgnn_folder, is_prepared
    from cgcnn_ase.data.prepare import prepare
    from cgcnn_ase.data.prepared import PreparedData
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
    from cgcnn_ase.training.finetune import can_reuse_head
    from cgcnn_ase.training.replay import with_replay

    if tuned is None:
        raise ValueError("--replay is of fine-tuning; give the model with --from")
    if not can_reuse_head(tuned, data.specs):
        raise ValueError(
            f"--replay: the old labels are of {tuned.target.name}, the new of "
            f"{', '.join(spec.name for spec in data.specs)}; only the same property can be replayed"
        )
    column = names or [tuned.target.name]
    old = load_prepared(replay, column, tuned.target.task, "", settings, tuned, val=0.1, test=0.1)
    return with_replay(data, replace(old, specs=data.specs), n=n, seed=settings.seed)


def only_classes(data: Path, names: list[str], task: str) -> bool:
    """Whether there is nothing to learn but classifications."""
    from cgcnn_ase.data.formats import is_prepared
    from cgcnn_ase.data.prepared import PreparedData

    if is_prepared(data):
        return all(target.task == "classification" for target in PreparedData.load(data).specs)
    return all((name.partition(":")[2] or task) == "classification" for name in names or [""])


class SettingsLayers(NamedTuple):
    """Settings of a run by name, each layer over those before it."""

    start: dict[str, Any]  #: of prepared data, of the preset or of the model to tune
    file: dict[str, Any]
    options: dict[str, Any]  #: of the command line

    def config(self, tuning: Mapping[str, Any] | None = None) -> "TrainConfig":
        """All of them over the defaults; those of a ``tuning`` lie over the start.

        Raises
        ------
        ValueError
            Naming the setting and what is allowed.
        """
        from cgcnn_ase.core.settings import merged, settings_from
        from cgcnn_ase.training.config import TrainConfig

        return settings_from(TrainConfig, merged(self.start, tuning or {}, self.file, self.options))


def read_settings(
    data: Path,
    file: Path | None,
    options: dict[str, Any],
    tuned: "CrystalModel | None" = None,
    *,
    preset: str | None = None,
    only_classes: bool = False,
) -> SettingsLayers:
    """What is asked of a run.

    Of a model to tune the head that learns its error is left out where there are ``only_classes``.

    Raises
    ------
    ValueError
        Naming the setting and what is allowed.
    """
    from dataclasses import asdict

    from cgcnn_ase.data.cgnn_folder import GRAPH
    from cgcnn_ase.data.formats import is_cgnn_folder, is_prepared
    from cgcnn_ase.data.prepared import PreparedData
    from cgcnn_ase.training.finetune import inherited_settings

    start: dict[str, Any] = {}
    if is_prepared(data):
        start = {"graph": asdict(PreparedData.load(data).graph_config)}
    elif is_cgnn_folder(data):
        start = {"graph": asdict(GRAPH), "network": {"architecture": "cgnn"}}
    if preset is not None:
        start = _of_preset(preset, tuned)
    if tuned is not None:
        start = inherited_settings(tuned) | ({"mean_variance": False, "quantiles": False} if only_classes else {})
    try:
        asked = {} if file is None else read_file(file)
        if tuned is not None or preset is not None:
            _check_architecture(start, asked, "the model to tune" if tuned is not None else f"the preset {preset}")
        SettingsLayers(start, asked, {}).config()
    except ValueError as error:
        raise error if file is None or str(file) in str(error) else ValueError(f"{file}: {error}") from error
    return SettingsLayers(start, asked, options)


def _of_preset(name: str, tuned: "CrystalModel | None") -> dict[str, Any]:
    """A preset as plain values; beside a model to tune it must be the model's own."""
    from dataclasses import asdict

    from cgcnn_ase.nn.presets import preset

    graph, network = preset(name)
    if tuned is not None and (graph, network) != (tuned.graph, tuned.networks[0].config.architecture):
        raise ValueError(
            f"--preset {name}: the model to tune has another network or graph, and keeps it; leave out --preset"
        )
    return {"graph": asdict(graph), "network": asdict(network)}


def _check_architecture(start: dict[str, Any], asked: dict[str, Any], what: str) -> None:
    """An architecture has its own settings: another one cannot be laid over them."""
    network = asked.get("network")
    if "network" not in start or not isinstance(network, dict) or "architecture" not in network:
        return
    has, wanted = start["network"]["architecture"], network["architecture"]
    if has != wanted:
        raise ValueError(f"network.architecture: {what} is of the architecture {has}, the settings ask for {wanted}")


def read_file(file: Path) -> dict[str, Any]:
    """Settings by name; those of ALIGNN are translated, names of version 1 replaced."""
    from cgcnn_ase.core.settings import current_names, read_yaml
    from cgcnn_ase.training.alignn_config import is_alignn, translate

    values = read_yaml(file)
    if not is_alignn(values):
        return current_names(values)
    wanted = translate(values)
    if wanted.unused:
        echo_stderr(f"{file}: settings of ALIGNN; without meaning here: {', '.join(wanted.unused)}")
    return wanted.settings


def parts(file: Path | None, val: float | None, test: float | None) -> tuple[float, float]:
    """The parts for validation and test: those given, else those of ALIGNN's settings, else a tenth each."""
    from cgcnn_ase.core.settings import read_yaml
    from cgcnn_ase.training.alignn_config import is_alignn, translate

    sizes = (0.1, 0.1)
    if file is not None and is_alignn(values := read_yaml(file)):
        wanted = translate(values)
        sizes = (wanted.val, wanted.test)
    return sizes[0] if val is None else val, sizes[1] if test is None else test


def tuning_of(tuned: "CrystalModel", data: "PreparedData", *, n_replayed: int = 0) -> "Tuning":
    """The defaults for a model to tune and its new training labels, beside so many old ones."""
    import numpy as np

    from cgcnn_ase.training.finetune import can_reuse_head
    from cgcnn_ase.training.finetune_defaults import tuning

    return tuning(
        int(np.isfinite(data.labels("train")).any(axis=1).sum()),
        same_target=can_reuse_head(tuned, data.specs),
        pooling=tuned.networks[0].config.architecture.pooling,
        n_replayed=n_replayed,
    )
