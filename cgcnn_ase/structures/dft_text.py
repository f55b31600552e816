"""Text files of DFT codes: VASP's POSCAR, its mistakes told in words; results of CP2K, and of GPAW since version 25."""

import re
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypedDict

import numpy as np

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.core.elements import symbols
from cgcnn_ase.structures.record import RefusedError, without_reader_warnings

if TYPE_CHECKING:
    from ase import Atoms


_POSCAR_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eEdD][+-]?\d+)?")
_FORTRAN = re.compile(r"(?<=[\d.])[dD](?=[+-]?\d)")


def read_poscar(text: str, source: str) -> "Atoms":
    """The structure of a POSCAR; `source` is its path, beside which a POTCAR may name the elements.

    A `RefusedError` says in words what is wrong with it.
    """
    lines = _checked(text.splitlines())
    if (plain := _plain_poscar(lines)) is not None:
        return plain
    from ase.io import ParseError
    from ase.io.vasp import read_vasp

    file = StringIO("\n".join(lines) + "\n")
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
    at, names = 5, []
    while at < len(lines) and lines[at].split() and not lines[at].split()[0].isdigit():
        names += lines[at].split("!")[0].split()
        at += 1
        if at > 15:
            break
    counts: list[int] = []
    while at < len(lines) and (words := lines[at].split("!")[0].split()) and words[0].isdigit():
        if counts and len(counts) >= len(names):
            break
        if not all(word.isdigit() for word in words):
            raise RefusedError(f"line {at + 1}: {lines[at].strip()!r} are no numbers of atoms")
        counts += map(int, words)
        at += 1
    if not counts:
        raise RefusedError(f"line {min(at, len(lines)) + 1}: the numbers of atoms are missing")
    if names and len(names) != len(counts):
        raise RefusedError(f"names {len(names)} elements ({' '.join(names)}) but gives {len(counts)} numbers of atoms")
    head += [" ".join(names)] * bool(names) + [" ".join(map(str, counts))]
    if at < len(lines) and lines[at].strip()[:1] in ("s", "S"):
        head.append(lines[at])
        at += 1
    if at >= len(lines) or lines[at].strip()[:1].lower() not in ("d", "c", "k"):
        word = lines[at].strip() if at < len(lines) else ""
        raise RefusedError(f"line {at + 1}: {word!r} is neither Direct nor Cartesian")
    head.append(lines[at])
    return [*head, *_positions(lines, at + 1, sum(counts))]


def _plain_poscar(lines: list[str]) -> "Atoms | None":
    """The structure of checked lines as ASE reads them; None where they are not of VASP 5 with elements and one scale.

    Importing ASE's readers takes a third of a second.
    """
    scale, names, numbers = lines[1].split(), lines[5].split(), lines[6].split()
    if len(scale) != 1 or not float(scale[0]) > 0.0 or not set(names) <= set(symbols()[1:]):
        return None
    from ase import Atoms

    selective = lines[7].strip()[0] in "sS"
    rows = [line.split()[:3] for line in lines[8 + selective :]]
    cell = np.array([line.split()[:3] for line in lines[2:5]], dtype=float) * float(scale[0])
    positions = np.array(rows, dtype=float).reshape(-1, 3)
    species = [name for name, n in zip(names, numbers, strict=True) for _ in range(int(n))]
    atoms = Atoms(species, cell=cell, pbc=True)
    if lines[7 + selective].strip()[0] in "cCkK":
        atoms.set_positions(positions * float(scale[0]))
    else:
        atoms.set_scaled_positions(positions)
    return atoms


def _positions(lines: list[str], start: int, n: int) -> list[str]:
    """The lines of the atoms; velocities and the like after them are left out."""
    positions = []
    for k in range(start, start + n):
        if k >= len(lines) or not lines[k].split():
            raise RefusedError(f"is cut off: it counts {n} atoms and lists {k - start}")
        _numbers(lines[k], k + 1, "a position", 3)
        positions.append(_without_fortran(lines[k]))
    after = lines[start + n].split() if start + n < len(lines) else []
    if after and _POSCAR_NUMBER.fullmatch(after[0]):
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
        if not _POSCAR_NUMBER.fullmatch(word) and word.lower().lstrip("+-") not in ("nan", "inf", "infinity"):
            raise RefusedError(f"line {number}: {word!r} in {what} is not a number")
    if len(words) < least:
        raise RefusedError(f"line {number}: {what} needs {least} numbers, and has {len(words)}")


class TextFacts(TypedDict):
    """Version, functional and U of a calculation, and whether it converged."""

    version: str
    functional: str
    hubbard_u: dict[str, float]
    converged: bool | None


def last_step(file: "str | Path | IO[Any]", kind: str) -> "Atoms":
    """The last step of a file that ASE reads, with its results."""
    import ase.io
    from ase import Atoms

    steps = ase.io.read(file, index=":", format=kind)
    if not isinstance(steps, list) or not steps:
        raise RefusedError("holds no finished step")
    assert isinstance(steps[-1], Atoms)
    return steps[-1]


def _first(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.M)
    return "" if match is None else next(group for group in match.groups() if group is not None)


def _rows(block: str, columns: slice) -> Floats:
    return np.array([[float(word) for word in line.split()[columns]] for line in block.splitlines()])


# CP2K: atomic units of CODATA 2006 as in its own conversion; those of ASE differ in the eighth digit

_ENERGY = re.compile(r"^ ENERGY\| Total FORCE_EVAL \( QS \) energy \[(?:a\.u\.|hartree)\]:?\s+(\S+)", re.M)
_COORDINATES = re.compile(
    r"ATOMIC COORDINATES IN ANGSTROM\n\n? *Atom +Kind +Element.*\n\n?((?: +\d+ +\d+ +[A-Z][a-z]? +\d+ .*\n)+)", re.M
)
_VECTOR = r"^ CELL(?:_TOP)?\| Vector {} \[angstrom\]:\s+(\S+)\s+(\S+)\s+(\S+)"
_OLD_FORCES = re.compile(
    r"^ ATOMIC FORCES in \[a\.u\.\]\n\n.*\n((?: +\d+ +\d+ +\S+(?: +[-+.\dE]+){3}\n)+)", re.M
)  # until 2024.1
_FORCES = re.compile(r"^ FORCES\| Atomic forces \[hartree/bohr\]\n.*\n((?: FORCES\| +\d+(?: +[-+.\dE]+){4}\n)+)", re.M)
_STRESS = re.compile(
    r"^ STRESS\| Analytical stress tensor \[GPa\]\n.*\n((?: STRESS\| +[xyz](?: +[-+.\dE]+){3}\n){3})", re.M
)
_KIND_U = re.compile(r"Atomic kind:\s+(\S+)(?:(?!Atomic kind:)[\s\S])*?U\(eff\) = \(U - J\) value in \[eV\]:\s+(\S+)")
_SCF = re.compile(r"SCF run (NOT )?converged|outer SCF loop (FAILED to )?converge", re.I)


def read_cp2k(text: str, trajectories: Mapping[str, Path]) -> "tuple[Atoms, TextFacts]":
    """The last step of a run of Quickstep; of a relaxation its positions are in ``PROJECT-pos-1.xyz``.

    Parameters
    ----------
    trajectories
        Such files by the name of their project.
    """
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.units import Bohr, GPa, Hartree

    energies, first = _ENERGY.findall(text), _COORDINATES.search(text)
    if not energies or first is None:
        raise RefusedError(f"holds no {'energy' if first is not None else 'atomic coordinates'} of a finished step")
    rows = [line.split() for line in first[1].splitlines()]
    cell = [re.findall(_VECTOR.format(axis), text, re.M) for axis in "abc"]
    if not all(cell):
        raise RefusedError("does not state its cell vectors")
    periodic = _first(r"^ CELL(?:_TOP)?\| Periodicity\s+(\S+)", text)
    atoms = Atoms(
        [row[2] for row in rows],
        positions=[[float(x) for x in row[4:7]] for row in rows],
        cell=[[float(x) for x in vectors[-1]] for vectors in cell],
        pbc=[axis in periodic for axis in "XYZ"],
    )
    if len(energies) > 1 or _first(r"GLOBAL\| Run type\s+(\S+)", text) in ("GEO_OPT", "CELL_OPT", "MD"):
        project = _first(r"GLOBAL\| Project name\s+(\S+)", text)
        atoms.positions = _last_positions(project, trajectories, len(atoms))
    results: dict[str, object] = {"energy": float(energies[-1]) * Hartree, "free_energy": float(energies[-1]) * Hartree}
    for pattern, columns in ((_OLD_FORCES, slice(3, 6)), (_FORCES, slice(2, 5))):
        if blocks := pattern.findall(text):
            results["forces"] = _rows(blocks[-1], columns) * (Hartree / Bohr)
    if blocks := _STRESS.findall(text):
        pressure = _rows(blocks[-1], slice(2, 5)) * GPa
        results["stress"] = -pressure.ravel()[[0, 4, 8, 5, 2, 1]]
    if (moments := _mulliken(text, len(atoms))) is not None:
        results["magmoms"] = moments
    atoms.calc = SinglePointCalculator(atoms, **results)
    ends = [bool(one or other) for one, other in _SCF.findall(text)]
    return atoms, {
        "version": _first(r"CP2K\| version string:\s+CP2K version (\S+)", text),
        "functional": _first(r"^ FUNCTIONAL\| ([A-Z]\w*):", text),
        "hubbard_u": {re.sub(r"\d.*|_.*", "", kind): float(u) for kind, u in _KIND_U.findall(text)},
        "converged": not ends[-1] if ends else None,
    }


def _last_positions(project: str, trajectories: Mapping[str, Path], n_atoms: int) -> Floats:
    if project not in trajectories:
        raise RefusedError(f"is a relaxation whose positions are in {project}-pos-1.xyz, which is not beside it")
    positions: Floats = last_step(trajectories[project], "extxyz").positions
    if len(positions) != n_atoms:
        raise RefusedError(f"has {n_atoms} atoms and {trajectories[project].name} has {len(positions)}")
    return positions


def _mulliken(text: str, n_atoms: int) -> Floats | None:
    """Mulliken's moments of a spin-polarised run, μB; None of another."""
    start = text.rfind("Mulliken Population Analysis")
    if start < 0 or "Spin moment" not in text[start : start + 400]:
        return None
    rows = re.findall(r"^ +\d+ +[A-Z][a-z]? +\d+((?: +[-+.\d]+)+)$", text[start:], re.M)[:n_atoms]
    return np.array([float(row.split()[-1]) for row in rows]) if len(rows) == n_atoms else None


# GPAW

_U = re.compile(r"'?\b([A-Z][a-z]?)'?:\s*'?\w*:[spdf],([\d.]+)")
_NUMBER = r"\s*(-?[\d.]+)\s*"


def read_gpaw_text(text: str) -> "tuple[Atoms, TextFacts]":
    """The last step of GPAW's text; that of versions before 25 by ASE."""
    new = "\nAtoms  #" in text
    atoms = _last_gpaw(text) if new else last_step(StringIO(text), "gpaw-out")
    done, failed = text.rfind("Converged "), text.lower().rfind("did not converge")
    return atoms, {
        "version": _first(r"\|\s+-?\s*(\d+\.\d+\S*)\s*$", text),
        "functional": _first(r"\bxc[=:]\s*(?:XC\()?\s*\{?(?:name[=:]\s*)?'?([\w+]+)|Using the (\S+) Exchange", text),
        "hubbard_u": {symbol: float(u) for symbol, u in _U.findall(text)},
        "converged": done > failed,
    }


def _last_gpaw(text: str) -> "Atoms":
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    # a step begins with its atoms; one that was cut off has no energy
    starts = [match.start() for match in re.finditer(r"^Atoms  #", text, re.M)]
    steps = [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
    finished = [step for step in steps if re.search(r"^\s*Extrapolated:", step, re.M)]
    if not finished:
        raise RefusedError("holds no energy of a finished step")
    step = finished[-1]
    rows = re.findall(rf"^\|\s*\d+ \|\s*([A-Z][a-z]?)[^|]*\|{_NUMBER}\|{_NUMBER}\|{_NUMBER}\|", step, re.M)
    vectors = re.findall(rf"^\|\s*(yes|no) \|{_NUMBER}\|{_NUMBER}\|{_NUMBER}\|", step, re.M)[:3]
    if not rows or len(vectors) < 3:
        raise RefusedError("does not state its atoms and cell")
    atoms = Atoms(
        [row[0] for row in rows],
        positions=[[float(x) for x in row[1:]] for row in rows],
        cell=[[float(x) for x in row[1:]] for row in vectors],
        pbc=[row[0] == "yes" for row in vectors],
    )
    results: dict[str, object] = {
        "energy": float(_first(r"^\s*Extrapolated:\s*(\S+)", step)),
        "free_energy": float(_first(r"^\s*Free energy:\s*(\S+)", step)),
    }
    if (forces := _table(step, "Forces  #", len(atoms))) is not None:
        results["forces"] = forces
    if (stress := _table(step, "Stress tensor  #", 3)) is not None:
        results["stress"] = stress.ravel()[[0, 4, 8, 5, 2, 1]]
    if (moments := _table(step, "Local magnetic moments", len(atoms))) is not None:
        results["magmoms"] = moments[:, 2]
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def _after(step: str, title: str) -> str:
    return step[step.rfind(title) :] if title in step else ""


def _table(step: str, title: str, n: int) -> Floats | None:
    rows = re.findall(rf"^\|{_NUMBER}\|{_NUMBER}\|{_NUMBER}\|", _after(step, title), re.M)[:n]
    return np.array(rows, dtype=float) if len(rows) == n else None
