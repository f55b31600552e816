"""Single values of a CIF, and what can be wrong with a block."""

import re
from collections.abc import Sequence
from typing import Any

from .record import RefusedError


class UncertainError(Exception):
    """gemmi cannot be certain of what the CIF means."""


class ContradictedError(UncertainError):
    """The symmetry operations of the CIF are not those of the space group that it names."""


class PartialOccupancyError(RefusedError):
    """Sites that are not fully occupied by one element."""


BRACKET = re.compile(r"\([\d.]*\)?$")


def plain(value: str) -> str:
    """A CIF value without its quotes."""
    if value[:1] in "'\"" and len(value) > 1 and value[-1] == value[0]:
        return value[1:-1].strip()
    if value[:1] == ";":
        return value.strip(";\n\r ").strip()
    return value


def number(value: str, what: str) -> float:
    """A CIF number; quotes and a standard uncertainty in brackets are taken off.

    >>> number("'1.234(5)'", "a")
    1.234
    """
    try:
        return float(value)
    except ValueError:
        text = BRACKET.sub("", plain(value))
        try:
            return float(text)
        except ValueError:
            raise RefusedError(f"{what} is {plain(value)!r}, not a number") from None


def first_value(block: Any, tags: Sequence[str]) -> str | None:
    """The value of the first of these tags that states one, without quotes."""
    for tag in tags:
        value = block.find_value(tag)
        if value is not None and plain(value) not in ("?", ".", ""):
            return plain(value)
    return None
