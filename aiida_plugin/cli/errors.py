"""Errors in words, for all commands. Nothing heavy here: each ``verdi data`` imports it."""

from collections.abc import Iterator
from contextlib import contextmanager

import click
from aiida.cmdline.utils import echo


@contextmanager
def errors_in_words() -> Iterator[None]:
    """One line and exit code 2 for what bad input raises; a bug keeps its traceback."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        echo.echo_error(" ".join(str(error).split()))
        raise click.exceptions.Exit(2) from error
