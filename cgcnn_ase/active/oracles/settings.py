"""The options of the oracles, and settings by pydantic with messages in words."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

S = TypeVar("S", bound=BaseModel)

Positive = Annotated[float, Field(gt=0)]


class Settings(BaseModel):
    """Settings without unknown names; text is not taken for a number, but for YAML's 1e-3."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RelaxSettings(Settings):
    """Relax the positions in the fixed cell by FIRE."""

    fmax: Positive = 0.05  #: largest force that may remain, eV/Å
    steps: Annotated[int, Field(gt=0)] = 200  #: more are a failure


class CHGNetSettings(Settings):
    """Of ``chgnet``."""

    relax: RelaxSettings | None = None


class AseSettings(Settings):
    """Of ``ase``."""

    calculator: str
    parameters: dict[str, Any] = {}
    references: dict[str, float] | None = None  #: energies of the elements on the calculator's scale, eV/atom
    relax: RelaxSettings | None = None


class FunctionSettings(Settings):
    """Of ``callable``."""

    function: str
    parameters: dict[str, Any] = {}
    references: dict[str, float] | None = None


class TableSettings(Settings):
    """Of ``table``."""

    file: str


class ModelSettings(Settings):
    """Of ``model``."""

    model: str = "formation-energy-per-atom"


def settings_of(kind: type[S], values: Any, place: str = "") -> S:
    """Settings from plain values, as YAML gives them.

    Parameters
    ----------
    kind
        The pydantic model.
    values
        Settings by name.
    place
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
        where = ".".join([*([place] if place else []), *parts])
        raise ValueError(_in_words(kind, problem, where, parts)) from error


def _in_words(kind: type[BaseModel], problem: Mapping[str, Any], where: str, parts: list[str]) -> str:
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
