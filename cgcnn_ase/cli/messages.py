"""Messages for people, on stderr; stdout is for results."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer


def say(text: str) -> None:
    """One line on stderr."""
    typer.echo(text, err=True)


def is_terminal() -> bool:
    """Whether somebody is looking: progress bars are for them only."""
    return sys.stderr.isatty()


@contextmanager
def errors_as_usage() -> Iterator[None]:
    """Turn the errors that bad input raises into one line and exit code 2; a bug keeps its traceback."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        say(f"cgcnn-ase: {error}")
        raise typer.Exit(2) from error
