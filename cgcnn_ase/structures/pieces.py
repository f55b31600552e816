"""Structure files cut into pieces of work: a file each, and of a packed file so many structures each."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from .files import PACKED_SUFFIX, iter_file, record_of, suffix_of
from .packed import PackedStructures, count_packed, iter_rows, load_packed
from .record import RefusedError, StructureRecord


class PackedPiece(NamedTuple):
    """Some rows of a packed file."""

    source: str
    rows: PackedStructures


Piece = Path | PackedPiece


def count_structures(paths: Iterable[Path]) -> int:
    """How many structures there are at least: those of packed files, and one for each other file."""
    return sum(count_packed(path) if suffix_of(path.name) == PACKED_SUFFIX else 1 for path in paths)


def iter_pieces(paths: Iterable[Path], size: int) -> Iterator[list[Piece]]:
    """The pieces of files in order, in lists of about `size` structures; a packed file is loaded when it is reached.

    One that cannot be read is a piece as a whole: `iter_piece` says what is wrong with it.
    """
    files: list[Piece] = []
    for path in paths:
        if suffix_of(path.name) == PACKED_SUFFIX and (packed := _loaded(path)) is not None:
            if files:
                yield files
                files = []
            for start in range(0, len(packed.ids), size):
                yield [PackedPiece(str(path), packed.rows(start, start + size))]
            continue
        files.append(path)
        if len(files) == size:
            yield files
            files = []
    if files:
        yield files


def iter_piece(piece: Piece, *, order_disordered: bool = False) -> Iterator[StructureRecord]:
    """The structures of a piece, as `iter_file` gives them."""
    if isinstance(piece, Path):
        return iter_file(piece, order_disordered=order_disordered)
    return (record_of(name, piece.source, atoms) for name, atoms in iter_rows(piece.rows))


def _loaded(path: Path) -> PackedStructures | None:
    try:
        return load_packed(path)
    except (RefusedError, OSError):
        return None
