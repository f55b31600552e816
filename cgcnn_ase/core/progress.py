"""The progress bar: on stderr, where somebody is looking."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


_quiet = False


def set_quiet(quiet: bool) -> None:
    """Show no notes and no progress bars in this process, or show them again."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Tell whether only results, warnings and errors are wanted."""
    return _quiet


def is_terminal() -> bool:
    """Tell whether somebody is looking: progress bars are for them only."""
    return sys.stderr.isatty() and not _quiet


@contextmanager
def progress_bar(what: str, total: int | None = None, *, shown: bool | None = None) -> Iterator[Callable[..., None]]:
    """Show a bar; call what it gives with the number of steps done (1), or with ``total=`` where it becomes known.

    Without a total the count alone is shown; ``shown`` is by default whether stderr is a terminal.
    """
    if not (is_terminal() if shown is None else shown):
        yield lambda *_, **__: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total)

        def step(advance: int = 1, total: int | None = None) -> None:
            progress.update(task, advance=advance, total=total)

        yield step


def with_progress(
    items: Iterable[T],
    what: str,
    total: int | None = None,
    *,
    shown: bool | None = None,
    steps: Callable[[T], int] = lambda _: 1,
) -> Iterator[T]:
    """Hand items on, with a bar; ``steps`` says how far each of them goes, 1 by default."""
    with progress_bar(what, total, shown=shown) as step:
        for item in items:
            yield item
            step(steps(item))
