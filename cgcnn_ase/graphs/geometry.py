"""Structures as plain arrays: what the graph builder reads."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, overload

from cgcnn_ase.core.arrays import Bools, Floats, Ints

if TYPE_CHECKING:
    from ase import Atoms


class Geometry(NamedTuple):
    """A structure as plain arrays, no ASE needed."""

    numbers: Ints  # (N,)
    positions: Floats  # (N, 3) Å
    cell: Floats  # (3, 3) Å, rows
    pbc: Bools  # (3,)


def geometry(atoms: "Atoms") -> Geometry:
    """The arrays of an ``ase.Atoms``."""
    return Geometry(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)


class LazyStructures(Sequence[Geometry]):
    """So many structures that are read, all of them, when the first is asked for, and only once."""

    def __init__(self, n: int, read: Callable[[], Iterable[Geometry]]) -> None:
        self._n, self._read = n, read
        self._structures: list[Geometry] | None = None

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, index: int) -> Geometry: ...
    @overload
    def __getitem__(self, index: slice) -> list[Geometry]: ...
    def __getitem__(self, index: int | slice) -> Geometry | list[Geometry]:
        if self._structures is None:
            self._structures = list(self._read())
        return self._structures[index]
