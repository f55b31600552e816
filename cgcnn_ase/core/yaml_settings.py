"""Settings by name from YAML files. It needs no more than Python and YAML, as training on prepared data does."""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import yaml

Plain: TypeAlias = dict[str, object]

# names that settings of a training had in run files of version 1, and today's
OLD_NAMES = {
    "error_folds": "cross_fit_folds",
    "hold_norms": "freeze_batchnorm_stats",
    "select": "checkpoint",
    "trunk_rate": "backbone_lr_scale",
}


class _Loader(yaml.SafeLoader):
    """YAML 1.1, in which 1e-3 is a number too, as in YAML 1.2."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_yaml(file: Path) -> Plain:
    """Read settings by name; ValueError if the file holds anything else."""
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file}: must hold settings by name, such as `epochs: 30`")
    return values


def merged(*layers: Mapping[str, object]) -> Plain:
    """Merge layers of settings: a later one overrides an earlier one, setting by setting, in mappings within too."""
    result: Plain = {}
    for layer in layers:
        for name, value in layer.items():
            below = result.get(name)
            result[name] = merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return result


def current_names(values: Mapping[str, object]) -> Plain:
    """Rename the settings of a training that version 1 called otherwise, with a warning for each.

    A setting that stands under both of its names is a ValueError.

    Examples
    --------
    >>> current_names({"epochs": 30, "checkpoint": "last"})
    {'epochs': 30, 'checkpoint': 'last'}
    """
    result: Plain = {}
    for name, value in values.items():
        new = OLD_NAMES.get(name, name)
        if new != name and new in values:
            raise ValueError(f"the settings {name} and {new} are the same; give only {new}")
        if new != name:
            warnings.warn(f"the setting {name} is called {new} now", stacklevel=2)
        result[new] = value
    return result
