"""One structure read from somewhere, or the reason why there is none."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ase import Atoms


class StructureError(ValueError):
    """A structure that cannot be used: the file, or what else it came from, and what is wrong with it, in words."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(source, reason)
        self.source = source
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


class RefusedError(ValueError):
    """Why a structure is refused, in this package's own words (a foreign reader's error is a plain `ValueError`)."""


class StructureRecord(NamedTuple):
    """One structure, or the reason there is none.

    The id is unique: the file's stem; ``stem:0``, ``stem:1`` where a file holds several; ``stem:7`` for row 7 of an ASE
    database; its own in a packed ``.npz``; the position (or the key of the dict) for objects in memory.
    """

    id: str
    source: str  # the file, or ``<memory>``
    atoms: "Atoms | None"
    error: str | None  # one line that says why there is no structure; it does not repeat the source

    def unwrap(self) -> "Atoms":
        """The structure; the error of a record without one is raised as `StructureError`."""
        if self.atoms is None:
            raise StructureError(self.source, self.error or "holds no structure")
        return self.atoms


def one_line(text: object, *, limit: int = 300) -> str:
    """Words of a foreign error on one line, shortened to `limit` characters.

    >>> one_line(" no   atoms ")
    'no atoms'
    """
    words = " ".join(str(text).split())
    return words if len(words) <= limit else words[: limit - 3] + "..."


@contextmanager
def without_reader_warnings() -> Iterator[None]:
    """Silence what the readers say about repairs they made: what matters of it is checked afterwards."""
    with warnings.catch_warnings():
        for module in ("pymatgen", "ase", "spglib"):
            warnings.filterwarnings("ignore", module=rf"{module}(\.|$)")
        warnings.filterwarnings("ignore", message="Issues encountered while parsing CIF")
        warnings.filterwarnings("ignore", message="No Pauling electronegativity")
        warnings.filterwarnings("ignore", message="No structure parsed for section")
        yield
