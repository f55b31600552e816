"""One reader of settings: from plain values, as YAML and JSON give them, into dataclasses and pydantic models."""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Annotated, TypeVar, cast, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from cgcnn_ase.core.errors import choices

T = TypeVar("T")
Positive = Annotated[float, Field(gt=0)]

_KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
}


class Settings(BaseModel):
    """Settings without unknown names; text is not taken for a number, but for YAML's 1e-3."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def parse_settings(kind: type[T], values: object, path: str = "") -> T:
    """Settings by name, each checked: a pydantic model, or a dataclass, whose values must be of its types as they are.

    ValueError for the first problem: one sentence that names the setting, after the path to it, and what is allowed.
    """
    adapter = TypeAdapter(kind)
    try:
        if is_dataclass(kind):  # strict alone would refuse a mapping in the place of a dataclass, but not in JSON
            return adapter.validate_json(json.dumps(values, default=str), strict=True)
        return adapter.validate_python(values)
    except ValidationError as error:
        # an unknown name first: it often is what is missing, misspelt
        problem = min(error.errors(), key=lambda one: one["type"] not in _UNKNOWN)
        raise ValueError(_error_message(kind, cast("Mapping[str, object]", problem), path)) from error


_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def _error_message(kind: type[object], problem: Mapping[str, object], path: str) -> str:
    parts, within = _path(kind, cast("tuple[str | int, ...]", problem["loc"]))
    where = ".".join([*([path] if path else []), *parts])
    reason, got = str(problem["type"]), problem["input"]
    strict = is_dataclass(kind)
    if reason in _UNKNOWN:
        return f"unknown setting {where}{choices(parts[-1], _fields(within[0]), guess=not strict)}"
    if reason in ("missing", "missing_argument"):
        return f"the setting {where} is missing"
    if reason in ("model_type", "dict_type", "dataclass_type", "union_tag_not_found"):
        return f"{where}: must hold settings by name, not {got!r}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if reason == "value_error":
        return f"{where}: {message}" if where else message
    if reason == "union_tag_invalid" and isinstance(got, Mapping):
        context = cast("Mapping[str, str]", problem["ctx"])
        tag = context["discriminator"].strip("'_()")  # the tag's name, or a function of this name
        return f"{where}.{tag}: must be {_either(context['expected_tags'])}, not {got[tag]!r}"
    if reason == "literal_error" and strict:
        expected = cast("Mapping[str, str]", problem["ctx"])["expected"]
        return f"{where}: must be {_either(expected.replace(' or ', ', '))}, not {got!r}"
    if reason in _KINDS:
        return f"{where}: must be {_KINDS[reason]}, not {got!r}"
    return f"{where}: {message[0].lower()}{message[1:]}, not {got!r}"


def _either(quoted: str) -> str:
    """``'a', 'b', 'c'`` as ``a or b or c``."""
    return " or ".join(name.strip("'") for name in quoted.split(", "))


def _path(kind: type[object], loc: tuple[str | int, ...]) -> tuple[list[str], list[type[object]]]:
    """Names of the settings on the way to a problem, and the kinds of settings that it may stand in."""
    parts: list[str] = []
    within = [kind]
    for k, part in enumerate(loc):
        hints = {name: hint for one in within for name, hint in _fields(one).items()}
        if part in hints:
            parts.append(str(part))
            within = _kinds_in(hints[str(part)]) or within if k + 1 < len(loc) else within
        elif tagged := [one for one in within if part in (getattr(one, name, None) for name in _fields(one))]:
            within = tagged  # the part is the tag of one of several kinds
        elif isinstance(part, int) or k + 1 == len(loc):
            parts.append(str(part))
    return parts, within


def _fields(kind: type[object]) -> dict[str, object]:
    """Types of the settings by name."""
    if issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}  # type: ignore[arg-type]


def _kinds_in(hint: object) -> list[type[object]]:
    if hasattr(hint, "kinds"):  # one of several, told apart by a tag
        return list(hint.kinds().values())
    if isinstance(hint, type) and (is_dataclass(hint) or issubclass(hint, BaseModel)):
        return [hint]
    return [kind for part in getattr(hint, "__args__", ()) for kind in _kinds_in(part)]
