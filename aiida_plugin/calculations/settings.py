"""Settings in a node, read as options whose names and types are known."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")


def read_settings(values: Mapping[str, Any], kind: type[T], *, besides: Sequence[str] = ()) -> T:
    """The options that a settings node holds.

    Parameters
    ----------
    values
        Its content.
    kind
        The dataclass of the options.
    besides
        Names that are not the options' but may be given.

    Raises
    ------
    ValueError
        If a name is unknown or missing, or a value is of another type; the message says what is allowed.
    """
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    allowed = sorted([*besides, *names])
    if unknown := sorted(set(values) - set(allowed)):
        raise ValueError(f"unknown settings {', '.join(unknown)}; allowed: {', '.join(allowed)}")
    try:
        return TypeAdapter(kind).validate_python({name: values[name] for name in names if name in values})
    except ValidationError as error:
        wrong = error.errors()[0]
        name = str(wrong["loc"][0]) if wrong["loc"] else kind.__name__
        if wrong["type"] == "missing":
            raise ValueError(f"setting {name} is missing") from error
        raise ValueError(f"setting {name} cannot be {values.get(name)!r}: {wrong['msg']}") from error


def versions_of(*packages: str) -> dict[str, str]:
    """The versions of those packages that are installed."""
    result = {}
    for name in packages:
        try:
            result[name] = version(name)
        except PackageNotFoundError:  # noqa: PERF203 - a handful
            continue
    return result
