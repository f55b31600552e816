"""Settings by name from YAML files, and folders of runs, which go on with the settings they were started with only.

It needs no more than Python and YAML, as training on prepared data does.
"""

import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import yaml

Plain: TypeAlias = dict[str, object]

# the file with all settings that decide the run
CONFIG = "config.yaml"

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


def check_run_folder(
    folder: Path, settings: Mapping[str, object], *, run: str, resume: bool, free: tuple[str, ...] = ()
) -> bool:
    """Say whether `folder` holds a run to resume; if not, a new one may start in it. Nothing is written.

    Parameters
    ----------
    settings
        Of the run that is to start or to go on, as they will stand in its ``config.yaml``.
    run
        What a run is called in messages, with its article: ``an optimisation``.
    resume
        Whether a run in the folder is to go on; a new one starts if there is none.
    free
        Settings that may differ from those of the run to resume, with dots: ``budget.evaluations``.

    Raises
    ------
    ValueError
        If the folder is not empty and nothing is to be resumed, holds no run, or one with other settings.
    """
    file = folder / CONFIG
    if not folder.exists() or not any(folder.iterdir()):
        return False
    if not resume:
        reason = (
            f"holds {run} already; --resume goes on with it, --overwrite replaces it"
            if file.exists()
            else "is not empty"
        )
        raise ValueError(f"{folder}: {reason}, or name another folder")
    if not file.exists():
        raise ValueError(f"{folder}: holds no {run.partition(' ')[2]} to resume: there is no {CONFIG}")
    check_unchanged(folder, current_names(read_yaml(file)), settings, free=free)
    return True


def check_unchanged(
    folder: Path,
    before: Mapping[str, object],
    now: Mapping[str, object],
    *,
    section: str = "",
    free: tuple[str, ...] = (),
) -> None:
    """Raise a ValueError that names the first setting that is not what it was, but for those of `free`."""
    was, now_is = dict(_flat(before)), dict(_flat(now))
    for name in [*was, *now_is]:
        if name not in free and was.get(name) != now_is.get(name):
            raise ValueError(
                f"{folder}: the run was started with {section}{name} {was.get(name)!r}, not {now_is.get(name)!r}; it "
                "does not go on with other settings or data; resume with the same, or name another folder"
            )


def _flat(values: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield ``("budget.batch", 1)`` and so on."""
    if isinstance(values, Mapping) and values:
        for name, value in values.items():
            yield from _flat(value, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(values, list | tuple) and any(isinstance(value, Mapping) for value in values):
        for k, value in enumerate(values):
            yield from _flat(value, f"{prefix}.{k}")
    else:
        yield prefix, list(values) if isinstance(values, tuple) else values
