"""Messages for people, on stderr; stdout is for results."""

import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import typer

from cgcnn_ase.core.errors import missing_extra
from cgcnn_ase.core.progress import is_quiet, with_progress
from cgcnn_ase.core.progress import is_terminal as is_terminal

if TYPE_CHECKING:
    from rich.console import Console


class Result(Protocol):
    """Result of one structure, with its name and its file."""

    @property
    def id(self) -> str:
        """Name of the structure."""

    @property
    def source(self) -> str:
        """Its file."""


R = TypeVar("R", bound=Result)

# structures of which something is said one by one; the rest is counted
_NAMED = 50


def echo_stderr(text: str) -> None:
    """One line on stderr: an error or a warning, which ``--quiet`` does not silence."""
    typer.echo(text, err=True)


def echo_note(text: str) -> None:
    """One line on stderr that a user may do without: where the results are, how many more there are."""
    if not is_quiet():
        echo_stderr(text)


def console(width: int = 160, *, highlight: bool = True) -> "Console":
    """A console on stdout, as wide as the terminal or of this width."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else width, highlight=highlight)


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Show each warning that is for the user as one line."""
    with warnings.catch_warnings():
        warnings.showwarning = _warning_in_words
        yield


@contextmanager
def errors_as_usage() -> Iterator[None]:
    """Turn the errors that bad input raises into one line and exit code 2; a bug keeps its traceback.

    Warnings become one line each, too.
    """
    try:
        with warnings_as_lines():
            yield
    except (ValueError, OSError, ImportError) as error:
        told = missing_extra(error, "this command") if isinstance(error, ImportError) else error
        echo_stderr(f"cgcnn-ase: {told}")
        raise typer.Exit(2) from error


def _warning_in_words(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """A UserWarning is for the user; the others are for developers."""
    if issubclass(category, UserWarning):
        echo_stderr(f"cgcnn-ase: warning: {message}")


def display_name(result: Result) -> str:
    """The file, and which of its structures where it holds several."""
    several = ":" in result.id and ":" not in Path(result.source).name
    return f"{result.source} ({result.id})" if several else result.source


class NamedRows:
    """Messages about single structures: the first of each kind at once, the number of the others in the end."""

    def __init__(self) -> None:
        self._n: Counter[str] = Counter()

    def __getitem__(self, kind: str) -> int:
        """How many there are of a kind."""
        return self._n[kind]

    def add(self, kind: str, row: Result, text: str) -> None:
        """Count a structure, and say something of it unless much has been said of its kind."""
        self._n[kind] += 1
        if self._n[kind] <= _NAMED:
            echo_stderr(f"{display_name(row)}: {text}")

    def show_rest(self) -> None:
        """Say of how many more of each kind nothing was said."""
        for kind, n in self._n.items():
            if n > _NAMED:
                echo_stderr(f"... and {n - _NAMED} more {kind}")


def progress_of_files(results: Iterable[R], what: str, files: list[Path]) -> Iterator[R]:
    """Show a progress bar where somebody is looking: of files, and of the structures in packed ones."""
    if not is_terminal():
        yield from results
        return
    from cgcnn_ase.structures import count_structures
    from cgcnn_ase.structures.record import PACKED_SUFFIX, suffix_of

    packed = {str(file) for file in files if suffix_of(file.name) == PACKED_SUFFIX}
    last: tuple[str, str | None] | None = None

    def steps(result: R) -> int:
        nonlocal last
        before, last = last, (result.source, result.id if result.source in packed else None)
        return int(last != before)

    yield from with_progress(results, what, count_structures(files), steps=steps)
