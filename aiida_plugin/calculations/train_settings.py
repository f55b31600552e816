"""What the settings of a training may hold, and what is wrong with those given, in words."""

from collections.abc import Mapping
from typing import Any

from aiida_plugin.data.labels import UNITS

#: how the sets become the data of a run
DATA = ("val", "test", "split_by", "split_seed", "unlabelled", "mixed_labels")
#: options of the command that stand in no settings file
OPTIONS = ("task", "unit", "freeze", "preset", "workers", "name")

_CHOICES = {
    "task": ("regression", "log10", "classification"),
    "freeze": ("none", "embedding", "convolutions"),
    "unlabelled": ("error", "skip"),
}


def problem(settings: Mapping[str, Any], *, tunes: bool) -> str | None:
    """What is wrong with the settings of a run, None if nothing is.

    Parameters
    ----------
    settings
        By name: :data:`DATA`, :data:`OPTIONS` and what the settings file of ``cgcnn-ase train`` takes.
    tunes
        Whether there is a model to start from.
    """
    from dataclasses import fields

    from cgcnn_ase.training.config import TrainConfig
    from cgcnn_ase.training.settings import settings_from

    own = [*DATA, *OPTIONS]
    of_run = [field.name for field in fields(TrainConfig)]
    if unknown := sorted(set(settings) - {*own, *of_run}):
        return f"unknown settings {', '.join(unknown)}; allowed: {', '.join([*own, *of_run])}"
    for name, allowed in _CHOICES.items():
        if name in settings and settings[name] not in allowed:
            return f"{name} {settings[name]!r}; allowed: {', '.join(allowed)}"
    for name in ("val", "test"):
        part = settings.get(name, 0.1)
        if isinstance(part, bool) or not isinstance(part, int | float) or not 0 <= part < 1:
            return f"{name} must be a part from 0 to less than 1, not {part!r}"
    for name, least in (("workers", 1), ("split_seed", 0)):
        value = settings.get(name, least)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            return f"{name} must be a whole number from {least}, not {value!r}"
    if not isinstance(settings.get("mixed_labels", False), bool):
        return f"mixed_labels must be true or false, not {settings['mixed_labels']!r}"
    if not tunes and settings.get("freeze", "none") != "none":
        return "freeze needs a model to start from"
    # what network and graph may hold depends on preset and model, and the command checks it
    plain = {name: settings[name] for name in of_run if name in settings and name not in ("network", "graph")}
    try:
        settings_from(TrainConfig, plain)
    except ValueError as error:
        return str(error)
    return None


def of_file(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What goes into the settings file of the command."""
    return {name: value for name, value in settings.items() if name not in (*DATA, *OPTIONS)}


def arguments(settings: Mapping[str, Any], target: str, model: Mapping[str, str] | None) -> list[str]:
    """The options of the command.

    Parameters
    ----------
    settings
        Those of the run.
    target
        What is learned.
    model
        ``target``, ``unit``, ``task`` and ``name`` of the model to start from.

    Raises
    ------
    ValueError
        If unit or task are others than those of a model that is to learn its own target on.
    """
    task = settings.get("task", "regression")
    unit = settings.get("unit", UNITS.get(target, ""))
    if model is not None and target == model["target"]:
        for name in ("unit", "task"):
            asked = settings.get(name, model[name])
            if asked != model[name] and not (name == "task" and (asked, model[name]) == ("log10", "regression")):
                raise ValueError(f"{name} {asked!r}: the model to tune has {target} with the {name} {model[name]!r}")
        found = ["--target", target, "--task", model["task"]]
    else:
        found = ["--target", f"{target}:{task}"]
        found += ["--unit", unit] if unit and task != "classification" else []
    default = f"{target.replace('_', '-')}" if model is None else f"{model['name']}-tuned"
    found += ["--name", str(settings.get("name", default))]
    for name in ("freeze", "preset", "workers"):
        if name in settings:
            found += [f"--{name}", str(settings[name])]
    return found
