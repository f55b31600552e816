"""Errors that several rooms raise, and the one sentence for a name that there is not."""

from collections.abc import Iterable
from difflib import get_close_matches


def unknown_name(what: str, name: object, allowed: Iterable[str], *, kind: type[ValueError] = ValueError) -> ValueError:
    """Make the error for a name that is none of those there are, to be raised.

    Examples
    --------
    >>> str(unknown_name("engine", "dlg", ["auto", "dgl"]))
    "unknown engine 'dlg'; did you mean dgl? allowed: auto, dgl"
    """
    return kind(f"unknown {what} {name!r}{choices(str(name), allowed)}")


def choices(name: str, allowed: Iterable[str], *, guess: bool = True) -> str:
    """End of a sentence about an unknown name: ``; did you mean ...? allowed: ...``."""
    names = list(allowed)
    near = get_close_matches(name, names, n=1) if guess else []
    return f"; {f'did you mean {near[0]}? ' if near else ''}allowed: {', '.join(names)}"


class DatasetError(ValueError):
    """A data set that cannot be read as it is; the message names the file and what is wrong."""


class FetchError(ValueError):
    """A database that did not give what it was asked for; the message says why, on one line, without any key.

    ``again``: the same request may succeed a moment later (too many requests, a server's own failure, a timeout, an
    answer cut off), or never will (a wrong key, a request that is not understood). ``after``: seconds that the server
    asked to wait (``Retry-After``), None where it did not say.
    """

    def __init__(self, words: str, *, again: bool = False, after: float | None = None) -> None:
        super().__init__(words)
        self.again = again
        self.after = after
