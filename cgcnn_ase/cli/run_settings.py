"""Settings of a run on the command line: each layer over those before it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cgcnn_ase.cli.messages import say

if TYPE_CHECKING:
    from cgcnn_ase.data.prepared import PreparedData
    from cgcnn_ase.nn.model import CrystalModel
    from cgcnn_ase.training.config import TrainConfig
    from cgcnn_ase.training.tuning import Tuning


def only_classes(data: Path, names: list[str], task: str) -> bool:
    """Whether there is nothing to learn but classifications."""
    from cgcnn_ase.data.prepared import PreparedData, is_prepared

    if is_prepared(data):
        return all(target.task == "classification" for target in PreparedData.load(data).specs)
    return all((name.partition(":")[2] or task) == "classification" for name in names or [""])


class SettingsLayers(NamedTuple):
    """Settings of a run by name, each layer over those before it."""

    start: dict[str, Any]  #: of prepared data, of the preset or of the model to tune
    file: dict[str, Any]
    given: dict[str, Any]  #: of the command line

    def config(self, tuning: Mapping[str, Any] | None = None) -> "TrainConfig":
        """All of them over the defaults; those of a ``tuning`` lie over the start.

        Raises
        ------
        ValueError
            Naming the setting and what is allowed.
        """
        from cgcnn_ase.training.config import TrainConfig
        from cgcnn_ase.training.settings import merged, settings_from

        return settings_from(TrainConfig, merged(self.start, tuning or {}, self.file, self.given))


def read_settings(
    data: Path,
    file: Path | None,
    given: dict[str, Any],
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

    from cgcnn_ase.data.cgnn_folder import GRAPH, is_cgnn_folder
    from cgcnn_ase.data.prepared import PreparedData, is_prepared
    from cgcnn_ase.training.finetune import settings_of

    start: dict[str, Any] = {}
    if is_prepared(data):
        start = {"graph": asdict(PreparedData.load(data).graph_config)}
    elif is_cgnn_folder(data):
        start = {"graph": asdict(GRAPH), "network": {"architecture": "cgnn"}}
    if preset is not None:
        start = _of_preset(preset, tuned)
    if tuned is not None:
        start = settings_of(tuned) | ({"mean_variance": False, "quantiles": False} if only_classes else {})
    try:
        asked = {} if file is None else read_file(file)
        if tuned is not None or preset is not None:
            _check_architecture(start, asked, "the model to tune" if tuned is not None else f"the preset {preset}")
        SettingsLayers(start, asked, {}).config()
    except ValueError as error:
        raise error if file is None or str(file) in str(error) else ValueError(f"{file}: {error}") from error
    return SettingsLayers(start, asked, given)


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
    """Settings by name, those of ALIGNN translated."""
    from cgcnn_ase.training.alignn_settings import is_alignn, translate
    from cgcnn_ase.training.settings import read_yaml

    values = read_yaml(file)
    if not is_alignn(values):
        return values
    wanted = translate(values)
    if wanted.unused:
        say(f"{file}: settings of ALIGNN; without meaning here: {', '.join(wanted.unused)}")
    return wanted.settings


def parts(file: Path | None, val: float | None, test: float | None) -> tuple[float, float]:
    """The parts for validation and test: those given, else those of ALIGNN's settings, else a tenth each."""
    from cgcnn_ase.training.alignn_settings import is_alignn, translate
    from cgcnn_ase.training.settings import read_yaml

    own = (0.1, 0.1)
    if file is not None and is_alignn(values := read_yaml(file)):
        wanted = translate(values)
        own = (wanted.val, wanted.test)
    return own[0] if val is None else val, own[1] if test is None else test


def tuning_of(tuned: "CrystalModel", data: "PreparedData", *, n_replayed: int = 0) -> "Tuning":
    """The defaults for a model to tune and its new training labels, beside so many old ones."""
    import numpy as np

    from cgcnn_ase.training.finetune import keeps_head
    from cgcnn_ase.training.tuning import tuning

    return tuning(
        int(np.isfinite(data.labels("train")).any(axis=1).sum()),
        same_target=keeps_head(tuned, data.specs),
        pooling=tuned.networks[0].config.architecture.pooling,
        n_replayed=n_replayed,
    )
