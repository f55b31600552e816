"""A command of ``cgcnn-ase``: what all of them have, and what is done with option names that are wrong or old."""

import inspect
from collections import deque
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from functools import wraps
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperCommand

from cgcnn_ase.cli.applicability import in_vain
from cgcnn_ase.cli.messages import echo_note, echo_stderr
from cgcnn_ase.core.progress import set_quiet

if TYPE_CHECKING:
    from typer._click import Context

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
