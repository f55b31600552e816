"""Settings of a run: each layer over those before it."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cgcnn_ase.core.settings import parse_settings
from cgcnn_ase.core.yaml_settings import Plain, current_names, merged, read_yaml
from cgcnn_ase.training.alignn_config import is_alignn, translate
from cgcnn_ase.training.config import TrainConfig
from cgcnn_ase.training.config import preset as preset_of
from cgcnn_ase.training.run_data import DataSource
from cgcnn_ase.training.start_model import inherited_settings

if TYPE_CHECKING:
    from cgcnn_ase.models.crystal_model import CrystalModel


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
