"""POSCAR and CONTCAR files: what is wrong with one is said in words, and small liberties of programs are understood."""

import re
from io import StringIO
from typing import TYPE_CHECKING

from cgcnn_ase.structures.record import RefusedError, without_reader_warnings

if TYPE_CHECKING:
    from ase import Atoms

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eEdD][+-]?\d+)?")
_FORTRAN = re.compile(r"(?<=[\d.])[dD](?=[+-]?\d)")


def read_poscar(text: str, source: str) -> "Atoms":
    """The structure of a POSCAR; `source` is its path, beside which a POTCAR may name the elements.

    A `RefusedError` says in words what is wrong with it.
    """
    from ase.io import ParseError
    from ase.io.vasp import read_vasp

    file = StringIO("\n".join(_checked(text.splitlines())) + "\n")
    file.name = source  # where a file of VASP 4 names no elements, ASE looks for a POTCAR beside it
    with without_reader_warnings():
        try:
            atoms: Atoms = read_vasp(file)
        except ParseError:
            raise RefusedError(
                "names no elements (it is in the format of VASP 4): write their symbols in a line above the numbers of "
                "atoms"
            ) from None
        except KeyError as error:
            raise RefusedError(f"unknown element {error.args[0]!r}; elements 1 (H) to 100 (Fm) are known") from None
    atoms.set_constraint()
    return atoms


def _checked(lines: list[str]) -> list[str]:
    """The lines as ASE reads them: symbols and counts on one line each, no Fortran numbers, and the atoms counted."""
    if len(lines) < 7:
        raise RefusedError(f"is no POSCAR, or it was cut off: it has {len(lines)} lines")
    _numbers(lines[1], 2, "the scale", 1)
    head = [lines[0], _without_fortran(lines[1])]
    for k in (2, 3, 4):
        _numbers(lines[k], k + 1, "a cell vector", 3)
        head.append(_without_fortran(lines[k]))
    at, symbols = 5, []
    while at < len(lines) and lines[at].split() and not lines[at].split()[0].isdigit():
        symbols += lines[at].split("!")[0].split()
        at += 1
        if at > 15:
            break
    counts: list[int] = []
    while at < len(lines) and (words := lines[at].split("!")[0].split()) and words[0].isdigit():
        if counts and len(counts) >= len(symbols):
            break
        if not all(word.isdigit() for word in words):
            raise RefusedError(f"line {at + 1}: {lines[at].strip()!r} are no numbers of atoms")
        counts += map(int, words)
        at += 1
    if not counts:
        raise RefusedError(f"line {min(at, len(lines)) + 1}: the numbers of atoms are missing")
    if symbols and len(symbols) != len(counts):
        raise RefusedError(
            f"names {len(symbols)} elements ({' '.join(symbols)}) but gives {len(counts)} numbers of atoms"
        )
    head += [" ".join(symbols)] * bool(symbols) + [" ".join(map(str, counts))]
    if at < len(lines) and lines[at].strip()[:1] in ("s", "S"):
        head.append(lines[at])
        at += 1
    if at >= len(lines) or lines[at].strip()[:1].lower() not in ("d", "c", "k"):
        word = lines[at].strip() if at < len(lines) else ""
        raise RefusedError(f"line {at + 1}: {word!r} is neither Direct nor Cartesian")
    head.append(lines[at])
    return [*head, *_positions(lines, at + 1, sum(counts))]


def _positions(lines: list[str], start: int, n: int) -> list[str]:
    """The lines of the atoms; velocities and the like after them are left out."""
    positions = []
    for k in range(start, start + n):
        if k >= len(lines) or not lines[k].split():
            raise RefusedError(f"is cut off: it counts {n} atoms and lists {k - start}")
        _numbers(lines[k], k + 1, "a position", 3)
        positions.append(_without_fortran(lines[k]))
    after = lines[start + n].split() if start + n < len(lines) else []
    if after and _NUMBER.fullmatch(after[0]):
        more = 0
        while start + n + more < len(lines) and lines[start + n + more].split():
            more += 1
        raise RefusedError(
            f"counts {n} atoms and lists {n + more}: line {start + n + 1} is neither empty nor the head of velocities"
        )
    return positions


def _without_fortran(line: str) -> str:
    return _FORTRAN.sub("e", line)


def _numbers(line: str, number: int, what: str, least: int) -> None:
    words = line.split()[:least]
    for word in words:
        if not _NUMBER.fullmatch(word) and word.lower().lstrip("+-") not in ("nan", "inf", "infinity"):
            raise RefusedError(f"line {number}: {word!r} in {what} is not a number")
    if len(words) < least:
        raise RefusedError(f"line {number}: {what} needs {least} numbers, and has {len(words)}")
