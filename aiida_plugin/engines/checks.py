"""Parts of a set-up that can be looked at and made, and findings about them; an engine may have its own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from aiida.common.exceptions import AiidaException

# there; made just now; to be made by `SETUP`; not there and not needed by the rest; not as it should be
State = Literal["there", "made", "missing", "optional", "wrong"]

SETUP = "aiida-cgcnn setup"  # makes what is missing
MAKE_ENGINES = "make engines"  # in a checkout: installs GPAW, Quantum ESPRESSO and CP2K

# errors from outside of this package, told in a sentence; a bug keeps its traceback
ERRORS = (AiidaException, OSError, ValueError, ImportError)


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    what: str  # the part: ``profile``, ``code pw@localhost``, ...
    state: State
    message: str  # what there is, or what is wrong
    command: str = ""  # what to type to have it; empty where nothing is to be done

    @property
    def is_bad(self) -> bool:
        """Tell whether the rest needs it and does not have it."""
        return self.state in ("missing", "wrong")


@dataclass(frozen=True)
class Part:
    """Something that a set-up has."""

    what: str  # its name in the report
    look: Callable[[], Finding]  # finds what there is; changes nothing
    make: Callable[[], object] | None = None  # makes it; None where people have to
    refresh: Callable[[], bool] | None = None  # brings what is there up to date; tells whether anything was to be done
    needs_profile: bool = True  # to be looked at


def look(part: Part) -> Finding:
    """Find what there is of a part; an error while looking is a finding, too."""
    try:
        return part.look()
    except ERRORS as error:
        return Finding(part.what, "wrong", error_line(error))


def ensure(part: Part) -> Finding:
    """Make a part that is missing, and bring up to date one that is there."""
    before = look(part)
    if before.state == "there" and part.refresh is not None and part.refresh():
        return Finding(part.what, "made", before.message)
    if before.state != "missing" or part.make is None:
        return before
    try:
        part.make()
    except ERRORS as error:
        return Finding(part.what, "wrong", error_line(error))
    after = look(part)
    return Finding(part.what, "made", after.message) if after.state == "there" else after


def error_line(error: BaseException) -> str:
    """Put an error into one line."""
    return " ".join(str(error).split()) or type(error).__name__
