"""What was found of one part of the set-up, in words, and a part that can be looked at and made."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from aiida.common.exceptions import AiidaException

#: there; made just now; to be made by `SETUP`; not there and not needed by the rest; not as it should be
State = Literal["there", "made", "missing", "optional", "wrong"]

#: the command that makes what is missing
SETUP = "aiida-cgcnn setup"

#: what goes wrong outside of this package and is said in a sentence; a bug keeps its traceback
ERRORS = (AiidaException, OSError, ValueError, ImportError)


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes
    ----------
    what
        The part: ``profile``, ``code pw@localhost``, ...
    state
        See `State`.
    words
        What there is, or what is wrong.
    command
        What to type to have it; empty where nothing is to be done.
    """

    what: str
    state: State
    message: str
    command: str = ""

    @property
    def is_bad(self) -> bool:
        """Whether the rest needs it and does not have it."""
        return self.state in ("missing", "wrong")


@dataclass(frozen=True)
class Part:
    """Something that a set-up has.

    Attributes
    ----------
    what
        Its name in the report.
    look
        What there is; changes nothing.
    make
        Make it; None where people have to.
    """

    what: str
    look: Callable[[], Finding]
    make: Callable[[], None] | None = None


def look(part: Part) -> Finding:
    """What there is of a part; what goes wrong while looking is a finding, too."""
    try:
        return part.look()
    except ERRORS as error:
        return Finding(part.what, "wrong", format_error(error))


def ensure(part: Part) -> Finding:
    """Make a part that is missing, and leave alone one that is there."""
    finding = look(part)
    if finding.state != "missing" or part.make is None:
        return finding
    try:
        part.make()
    except ERRORS as error:
        return Finding(part.what, "wrong", format_error(error))
    made = look(part)
    return Finding(part.what, "made", made.message) if made.state == "there" else made


def ensure_all(parts: Iterator[Part], *, make: bool = True) -> Iterator[Finding]:
    """Each part in turn, whatever became of those before it."""
    for part in parts:
        yield ensure(part) if make else look(part)


def format_error(error: BaseException) -> str:
    """An error as one line."""
    return " ".join(str(error).split()) or type(error).__name__
