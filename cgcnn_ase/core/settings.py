"""Settings by name, as YAML gives them, into the dataclasses that hold them. It needs no more than Python and YAML."""

import warnings
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

S = TypeVar("S", bound=BaseModel)
Positive = Annotated[float, Field(gt=0)]


class Settings(BaseModel):
    """Settings without unknown names; text is not taken for a number, but for YAML's 1e-3."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def parse_settings(kind: type[S], values: Any, prefix: str = "") -> S:
    """Settings from plain values, as YAML gives them.

    Parameters
    ----------
    kind
        The pydantic model.
    values
        Settings by name.
    prefix
        Where they stand, for messages.

    Raises
    ------
    ValueError
        One sentence for the first problem, that names the setting and what is allowed.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        # an unknown name first: it often is what is missing, misspelt
        problem = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        parts = [str(part) for part in problem["loc"] if str(part).isalnum() or str(part).isidentifier()]
        where = ".".join([*([prefix] if prefix else []), *parts])
        raise ValueError(_error_message(kind, problem, where, parts)) from error


def _error_message(kind: type[BaseModel], problem: Mapping[str, Any], where: str, parts: list[str]) -> str:
    if problem["type"] == "extra_forbidden":
        return f"unknown setting {where}{_allowed(parts[-1], _fields(kind, parts[:-1]))}"
    if problem["type"] == "missing":
        return f"the setting {where} is missing"
    if problem["type"] in ("model_type", "dict_type"):
        return f"{where}: must hold settings by name, not {problem['input']!r}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{where}: {message}" if where else message
    return f"{where}: {message[0].lower()}{message[1:]}, not {problem['input']!r}"


def _fields(kind: type[BaseModel], path: list[str]) -> list[str]:
    """Names that are allowed at a place."""
    for part in path:
        if part.isdigit() or part not in kind.model_fields:
            continue
        inner = _models_in(kind.model_fields[part].annotation)
        if not inner:
            return []
        kind = inner[0]
    return list(kind.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models_in(part)]


def _allowed(name: str, names: list[str]) -> str:
    """``; did you mean ...? allowed: ...``."""
    near = get_close_matches(name, names, n=1)
    guess = f"; did you mean {near[0]}?" if near else ";"
    return f"{guess} allowed: {', '.join(names)}" if names else ""


def unknown_name(what: str, name: str, names: list[str]) -> ValueError:
    """The error for a name that is none of those there are."""
    return ValueError(f"unknown {what} {name!r}{_allowed(name, names)}")


T = TypeVar("T")

# names that settings of a training had in run files of version 1, and today's
OLD_NAMES = {
    "error_folds": "cross_fit_folds",
    "hold_norms": "freeze_batchnorm_stats",
    "select": "checkpoint",
    "trunk_rate": "backbone_lr_scale",
}


def current_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the settings of a training that version 1 called otherwise, with a warning for each.

    Raises
    ------
    ValueError
        If a setting stands under both of its names.

    Examples
    --------
    >>> current_names({"epochs": 30, "checkpoint": "last"})
    {'epochs': 30, 'checkpoint': 'last'}
    """
    result: dict[str, Any] = {}
    for name, value in values.items():
        new = OLD_NAMES.get(name, name)
        if new != name and new in values:
            raise ValueError(f"the settings {name} and {new} are the same; give only {new}")
        if new != name:
            warnings.warn(f"the setting {name} is called {new} now", stacklevel=2)
        result[new] = value
    return result


def read_yaml(file: Path) -> dict[str, Any]:
    """Settings by name.

    Raises
    ------
    ValueError
        If the file holds anything else.
    """
    try:
        read = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not YAML: {error}") from error
    if not isinstance(read, dict):
        raise ValueError(f"{file}: must hold settings by name, such as `epochs: 30`")
    return read


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """One mapping in which a later layer overrides an earlier one, setting by setting, in mappings within too."""
    result: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            below = result.get(name)
            both = isinstance(below, Mapping) and isinstance(value, Mapping)
            result[name] = merged(below, value) if both else value  # type: ignore[arg-type]
    return result


def settings_from(kind: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """A dataclass from plain values, each of them checked.

    Raises
    ------
    ValueError
        Naming the setting and what is allowed.
    """
    allowed = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in allowed:
            raise ValueError(f"unknown setting {where}{name}; allowed: {', '.join(allowed)}")
    for name, field in allowed.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"setting {where}{name} is missing")
    hints = get_type_hints(kind)
    return kind(**{name: _checked(hints[name], value, f"{where}{name}") for name, value in values.items()})


def _checked(hint: Any, value: Any, name: str) -> Any:
    options = get_args(hint)
    if is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ValueError(f"{name}: must hold settings by name, not {value!r}")
        return settings_from(hint, value, f"{name}.")  # type: ignore[arg-type]
    if options and all(map(is_dataclass, options)):
        return _one_of(options, value, name)
    if get_origin(hint) is Literal:
        if value not in options:
            raise ValueError(f"{name}: must be {' or '.join(map(str, options))}, not {value!r}")
        return value
    if type(None) in options:
        return None if value is None else _checked(options[0], value, name)
    if hint is float:
        return _number(value, name)
    if type(value) is not hint:
        raise ValueError(f"{name}: must be {_WORDS[hint]}, not {value!r}")
    return value


def _one_of(kinds: tuple[Any, ...], value: Any, name: str) -> Any:
    """Settings of one of several dataclasses, each with a tag ``architecture``; without a tag of the first."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{name}: must hold settings by name, not {value!r}")
    by_tag = {get_args(get_type_hints(kind)["architecture"])[0]: kind for kind in kinds}
    tag = value.get("architecture", next(iter(by_tag)))
    if not isinstance(tag, str) or tag not in by_tag:
        raise ValueError(f"{name}.architecture: must be {' or '.join(by_tag)}, not {tag!r}")
    return settings_from(by_tag[tag], value, f"{name}.")


_WORDS = {int: "a whole number", bool: "true or false", str: "text"}


def _number(value: Any, name: str) -> float:
    """YAML takes 1e-3 for text; it is meant as a number."""
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    raise ValueError(f"{name}: must be a number, not {value!r}")
