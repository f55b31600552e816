"""Parts that commands share: messages for people on stderr (stdout is for results), ``--quiet``, old option names."""

import inspect
import sys
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol, TypeVar

import typer
from typer.core import TyperCommand

from cgcnn_ase.cli.options import in_vain
from cgcnn_ase.core.errors import missing_extra
from cgcnn_ase.core.progress import is_quiet, set_quiet, with_progress
from cgcnn_ase.core.progress import is_terminal as is_terminal

if TYPE_CHECKING:
    from rich.console import Console
    from typer._click import Context


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


Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Only results, warnings and errors: no notes, no progress bar.")
]

# options by the names that they had, command by command: still read, with a note
RENAMED = {
    "defects": {"--range": "--pair-range"},
    "explain": {"--output": "--plot", "-o": "--plot"},
    "screen": {"--defects": "--kind"},
    "voltage": {"--output": "--plot", "-o": "--plot", "--metal": "--mu"},
}


class Process:
    """Facts of this process."""

    runs_one_command = False  # and then ends, as when started from a shell


PROCESS = Process()


def with_quiet(function: Callable[..., None]) -> Callable[..., None]:
    """Add ``--quiet`` to a command."""

    @wraps(function)
    def command(*args: object, quiet: bool = False, **options: object) -> None:
        set_quiet(quiet)
        function(*args, **options)

    signature = inspect.signature(function)
    added = inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Quiet)
    command.__dict__["__signature__"] = signature.replace(parameters=[*signature.parameters.values(), added])
    command.__annotations__ = {**function.__annotations__, "quiet": Quiet}
    return command


class Command(TyperCommand):
    """A command that reads the names that its options had before, and guesses at a name that is none."""

    def parse_args(self, ctx: "Context", args: list[str]) -> list[str]:
        """Parse the arguments after renaming old options.

        An unknown option is told with the nearest names, and one that has no effect beside the others is refused.
        """
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        rest = super().parse_args(ctx, list(self._with_today_names(ctx, args)))
        self._check_effects(ctx)
        return rest

    def _check_effects(self, ctx: "Context") -> None:
        """Refuse an option that has no effect beside the others, in one line and with exit code 2."""
        typed = {
            parameter.name: parameter.opts[0]
            for parameter in self.get_params(ctx)
            if parameter.name and str(getattr(ctx.get_parameter_source(parameter.name), "name", "")) == "COMMANDLINE"
        }
        if (problem := in_vain(self.name or "", ctx.params, typed)) is not None:
            echo_stderr(f"cgcnn-ase: {problem}")
            raise typer.Exit(2)

    def _with_today_names(self, ctx: "Context", args: list[str]) -> Iterator[str]:
        """Walk through the arguments as the parser will, with the values that belong to each option."""
        n_values = {
            name: 0 if getattr(option, "is_flag", False) else option.nargs
            for option in self.get_params(ctx)
            for name in (*option.opts, *option.secondary_opts)
        }
        renamed = RENAMED.get(self.name or "", {})
        rest = deque(args)
        while rest:
            word = rest.popleft()
            if word == "--":
                yield word
                yield from rest
                return
            typed, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
            option = renamed.get(typed, typed) if typed not in n_values else typed
            if option != typed:
                echo_note(f"{typed} is called {option} now")
            elif typed.startswith("--") and typed not in n_values:
                ctx.fail(f"No such option: {typed}.{_guess(typed, n_values)}")
            yield option + equals + value
            if option == "--supercell" and not equals:
                yield _joined(rest)
            elif not equals:
                for _ in range(min(n_values.get(option, 0), len(rest))):
                    yield rest.popleft()


def _guess(typed: str, names: dict[str, int]) -> str:
    """A sentence with the options that look like a name that is none."""
    near = get_close_matches(typed, [name for name in names if name.startswith("--")])
    return f" Did you mean {' or '.join(near)}?" if near else ""


def _joined(rest: "deque[str]") -> str:
    """Take ``3x3x1`` from the arguments, or ``3 3 1`` (as it was written before) as ``3x3x1``."""
    numbers: list[str] = []
    while rest and len(numbers) < 3 and rest[0].isdecimal():
        numbers.append(rest.popleft())
    if len(numbers) == 2:  # the second is something else, a file that is called 2
        rest.appendleft(numbers.pop())
    if len(numbers) == 3:
        echo_note(f"--supercell {' '.join(numbers)} is written {'x'.join(numbers)} now")
    return "x".join(numbers) if numbers else rest.popleft() if rest else ""
