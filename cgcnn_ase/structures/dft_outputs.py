"""Outputs of DFT programs, and files of finished calculations: structure, energy, forces, stress, moments, functional.

VASP (``vasprun.xml``, ``OUTCAR``), Quantum ESPRESSO (``pw.x``), GPAW (text and ``.gpw``) and CP2K, and files that carry
results with structures: extended XYZ, ASE trajectories and databases. Of a relaxation the last step is read, of a file
of structures all. Energies, forces and stress are as ASE defines them: eV a cell, eV/Å, eV/Å³.
"""

import gzip
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cgcnn_ase.core.arrays import AnyArray
from cgcnn_ase.core.elements import symbols
from cgcnn_ase.structures.dft_text import last_step, read_cp2k, read_gpaw_text
from cgcnn_ase.structures.readers import error_message, reader_errors
from cgcnn_ase.structures.record import SCHEME, RefusedError, settings_converged, without_reader_warnings
from cgcnn_ase.structures.validation import validation_error

if TYPE_CHECKING:
    from ase import Atoms

#: results that are kept, by ASE's names; the energy is that extrapolated to no smearing where a program gives it
RESULTS = ("energy", "free_energy", "forces", "stress", "magmoms", "magmom")
# how much of a text is read to see what it is
_HEAD = 16_384
# texts that may be outputs, and what such a one has in its head
_TEXT_SUFFIXES = (".out", ".txt", ".log", ".pwo", ".stdout", "")
_SIGNS = (
    ("espresso", re.compile(r"Program PWSCF")),
    ("cp2k", re.compile(r"^ (CP2K|DBCSR)\|", re.M)),
    ("gpaw", re.compile(r"^\s*___ ___ ___ _ _ _|^ \|__\|\|  \| \|\|/\\\|", re.M)),
)
_CONTAINERS = {".extxyz": "extxyz", ".xyz": "extxyz", ".traj": "traj", ".db": "db"}
#: kinds of outputs of programs; the others are files of structures with results
PROGRAMS = ("vasprun", "outcar", "espresso", "cp2k", "gpaw", "gpw")


@dataclass(frozen=True)
class Calculation:
    """One structure as a program calculated it."""

    id: str
    source: str  # the file
    atoms: "Atoms"  # with a calculator that holds what the file states of :data:`RESULTS`
    program: str = ""  # this and what follows: empty where the file does not say
    version: str = ""
    functional: str = ""
    hubbard_u: Mapping[str, float] = field(default_factory=dict)  # eV by element
    converged: bool | None = None  # whether the last self-consistent field was; None where the file does not say
    settings_converged: bool = True  # False where the file marks them (cutoff, k points, ...) as not: protocol fast


class OutputRecord(NamedTuple):
    """A calculation, or why there is none; the id and the file in either case."""

    id: str
    source: str
    calculation: Calculation | None
    error: str | None


class _Facts(NamedTuple):
    """Program, version, functional and U of a calculation, and whether it and its settings are converged."""

    program: str = ""
    version: str = ""
    functional: str = ""
    hubbard_u: Mapping[str, float] = {}
    converged: bool | None = None
    settings_converged: bool = True


_Read = Iterator[tuple["Atoms", _Facts]]


def output_kind(path: Path) -> str | None:
    """Tell what a file of finished calculations is (one of :data:`PROGRAMS`, or ``ase``); None for any other file."""
    name = path.name.removesuffix(".gz")
    suffix = Path(name).suffix.lower()
    if "vasprun" in name.lower() and ".xml" in name.lower():
        return "vasprun"
    if name.startswith("OUTCAR"):
        return "outcar"
    if suffix == ".gpw":
        return "gpw"
    if suffix in _CONTAINERS:
        return "ase"
    if suffix in _TEXT_SUFFIXES and path.is_file():
        head = _head(path)
        return next((kind for kind, sign in _SIGNS if sign.search(head)), None)
    return None


def read_output(path: Path, name: str) -> list[OutputRecord]:
    """Every calculation of a file, at least one record; of several the ids are ``name:0``, ``name:1``, ...

    One that cannot be used has the reason: no energy, a self-consistent field that did not converge, a structure that
    fails `check_atoms`, or what is wrong with the file.
    """
    records: list[OutputRecord] = []
    try:
        kind = output_kind(path)
        if kind is None:
            raise RefusedError("is no output of VASP, Quantum ESPRESSO, GPAW or CP2K, and no extxyz, .traj or .db")
        with without_reader_warnings():
            for atoms, facts in _READERS[kind](path):
                records.append(_record(name, str(path), atoms, facts))
    except reader_errors() as error:
        records.append(OutputRecord(name, str(path), None, error_message(error)))
    if not records:
        records = [OutputRecord(name, str(path), None, "holds no finished calculation")]
    if len(records) == 1:
        return records
    return [_renamed(record, f"{name}:{k}") for k, record in enumerate(records)]


def _renamed(record: OutputRecord, name: str) -> OutputRecord:
    known = record.calculation
    return record._replace(id=name, calculation=None if known is None else replace(known, id=name))


def _record(name: str, source: str, atoms: "Atoms", facts: _Facts) -> OutputRecord:
    from ase.calculators.singlepoint import SinglePointCalculator

    results = {} if atoms.calc is None else atoms.calc.results
    kept = {key: results[key] for key in RESULTS if results.get(key) is not None}
    atoms.calc = None
    atoms.set_constraint()
    reason = validation_error(atoms)
    if reason is None and not np.isfinite(kept.get("energy", np.nan)):
        reason = "holds no energy" + (f" (it has {', '.join(sorted(atoms.info))})" if atoms.info else "")
    if reason is None and facts.converged is False:
        reason = "its last self-consistent field did not converge"
    if reason is not None:
        return OutputRecord(name, source, None, reason)
    atoms.calc = SinglePointCalculator(atoms, **kept)
    return OutputRecord(name, source, Calculation(name, source, atoms, **facts._asdict()), None)


def _bytes(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()


def _open_text(path: Path) -> str:
    return _bytes(path).decode("utf-8", errors="replace")


def _head(path: Path) -> str:
    try:
        with gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb") as file:
            return file.read(_HEAD).decode("utf-8", errors="replace")
    except OSError:
        return ""  # what cannot be opened is no output


# VASP

_LEXCH = {"2": "LDA", "7": "PW91", "8": "PBE", "9": "RPBE", "14": "PBEsol", "40": "revPBE"}


def _read_vasprun(path: Path) -> _Read:
    from pymatgen.io.vasp.outputs import Vasprun

    run = Vasprun(str(path), parse_dos=False, parse_eigen=False, parse_potcar_file=False)
    if not run.ionic_steps:
        raise RefusedError("holds no finished step")
    atoms = last_step(BytesIO(_bytes(path)), "vasp-xml")
    functional = run.run_type.removesuffix("+U")
    if functional == "GGA" and all(title.split()[0] == "PAW_PBE" for title in run.potcar_symbols):
        functional = "PBE"  # no GGA tag: the potentials decide
    moments = _outcar_moments(path) if run.parameters.get("ISPIN") == 2 else None
    if moments is not None and len(moments) == len(atoms):
        atoms.calc.results["magmoms"] = moments
    u = {symbol: float(value) for symbol, value in run.hubbards.items() if value}
    yield atoms, _Facts("VASP", str(run.vasp_version).strip(), functional, u, bool(run.converged_electronic))


def _outcar_moments(vasprun: Path) -> AnyArray | None:
    """Magnetic moments of the last step from the OUTCAR beside a vasprun.xml, which has none; None without them."""
    tag = vasprun.name.partition(".xml")[2].removesuffix(".gz")
    for file in (vasprun.with_name(f"OUTCAR{tag}"), vasprun.with_name(f"OUTCAR{tag}.gz")):
        if file.is_file():
            try:
                results: Mapping[str, AnyArray] = last_step(file, "vasp-out").calc.results
            except reader_errors():
                return None
            return results.get("magmoms")
    return None


def _read_outcar(path: Path) -> _Read:
    text = _open_text(path)
    file = StringIO(text)
    file.name = str(path)  # ASE looks for a CONTCAR beside it
    atoms = last_step(file, "vasp-out")
    loops = re.findall(r"aborting loop (because )?EDIFF (is|was not) reached", text)
    version = re.search(r"vasp\.(\S+)", text)
    yield (
        atoms,
        _Facts(
            "VASP",
            "" if version is None else version[1],
            _outcar_functional(text),
            _outcar_u(text),
            loops[-1][1] == "is" if loops else None,
        ),
    )


def _outcar_functional(text: str) -> str:
    def tag(name: str) -> str:
        match = re.search(rf"^\s*{name}\s*=\s*(\S+)", text, re.M)
        return "" if match is None else match[1]

    if tag("LHFCALC") == "T":
        return "HSE06" if tag("HFSCREEN").startswith(("0.2", "0.20")) else "hybrid"
    meta = tag("METAGGA")
    if meta not in ("", "F", "--", "None"):
        return meta
    return _LEXCH.get(tag("LEXCH"), "")


def _outcar_u(text: str) -> dict[str, float]:
    """U − J by element, eV."""
    u, j = (re.search(rf"for each species LDAU{x} =\s*([-\d.\s]+)", text) for x in "UJ")
    potentials = re.findall(r"POTCAR:\s+\S+\s+([A-Z][a-z]?)", text)  # each is named twice
    species = re.findall(r"VRHFIN =\s*([A-Z][a-z]?)", text) or potentials[: len(potentials) // 2]
    if u is None:
        return {}
    less = [0.0] * len(species) if j is None else [float(x) for x in j[1].split()]
    values = [float(x) for x in u[1].split()]
    if not len(values) == len(less) == len(species):
        raise RefusedError(f"it has a Hubbard U for {len(values)} species and potentials of {len(species)}")
    return {s: a - b for s, a, b in zip(species, values, less, strict=True) if a != b}


# Quantum ESPRESSO

# how versions before 6.6 write their functionals
_QE_NAMES = {"SLA PW PBX PBC": "PBE", "SLA PW PSX PSC": "PBEsol", "SLA PZ NOGX NOGC": "LDA", "SLA+PW+PBX+PBC": "PBE",
             "SLA+PW+PSX+PSC": "PBEsol"}  # fmt: skip


def _read_espresso(path: Path) -> _Read:
    text = _open_text(path)
    # ASE stops at bands that it cannot assign to k points; they are not needed
    without_bands = re.sub(r"End of (self-consistent|band structure) calculation", "", text)
    atoms = last_step(StringIO(without_bands), "espresso-out")
    version = re.search(r"Program PWSCF v\.?(\S+)", text)
    stated = re.search(r"Exchange-correlation\s*=\s*([^(\n]+)", text)
    functional = "" if stated is None else " ".join(stated[1].split())
    reached, missed = text.rfind("convergence has been achieved"), text.rfind("convergence NOT achieved")
    yield (
        atoms,
        _Facts(
            "Quantum ESPRESSO",
            "" if version is None else version[1],
            _QE_NAMES.get(functional, functional),
            _espresso_u(text),
            reached > missed if reached >= 0 or missed >= 0 else None,
        ),
    )


def _espresso_u(text: str) -> dict[str, float]:
    """Hubbard U by element, eV: a table up to version 7.0, lines ``U(Ni-3d) = 6.2`` after it."""
    result = {}
    for symbol, value in re.findall(r"^\s*U\(([A-Z][a-z]?)\w*-\w+\)\s*=\s*(\S+)", text, re.M):
        result[symbol] = float(value)
    if result:
        return {symbol: value for symbol, value in result.items() if value}
    table = re.search(r"atomic species\s+L\s+U .*\n((?:\s+[A-Z]\S*\s+\d\s+.*\n)+)", text)
    for line in "" if table is None or table[1] is None else table[1].splitlines():
        name, _, value = line.split()[:3]
        result[_element(name)] = float(value)
    return {symbol: value for symbol, value in result.items() if value}


def _element(label: str) -> str:
    """The element of a label such as ``Ni1``."""
    match = re.match(r"[A-Z][a-z]?", label)
    symbol = "" if match is None else match[0] if match[0] in symbols() else match[0][0]
    if symbol not in symbols()[1:]:
        raise RefusedError(f"{label!r} is no label of an element")
    return symbol


# GPAW, CP2K


def _read_gpaw(path: Path) -> _Read:
    atoms, facts = read_gpaw_text(_open_text(path))
    yield atoms, _Facts("GPAW", **facts)


def _read_gpw(path: Path) -> _Read:
    from ase.io import ulm

    atoms = last_step(path, "gpw")
    with ulm.open(path) as reader:
        parameters = reader.parameters.asdict() if "parameters" in reader else {}
        version = str(reader.gpaw_version) if "gpaw_version" in reader else ""
    xc = parameters.get("xc", "")
    functional = xc.get("name", "") if isinstance(xc, Mapping) else str(xc)
    setups = parameters.get("setups", {})
    u = {
        element: float(value)
        for element, setup in (setups.items() if isinstance(setups, Mapping) else ())
        for value in re.findall(r":[spdf],([\d.]+)", str(setup))
    }
    yield atoms, _Facts("GPAW", version, functional, u, None)


def _read_cp2k(path: Path) -> _Read:
    positions = sorted(path.parent.glob("*-pos-1.xyz"))
    atoms, facts = read_cp2k(_open_text(path), {file.name.removesuffix("-pos-1.xyz"): file for file in positions})
    yield atoms, _Facts("CP2K", **facts)


# Files of structures with results


def _read_ase(path: Path) -> _Read:
    import ase.io
    from ase import Atoms

    kind = _CONTAINERS[Path(path.name.removesuffix(".gz")).suffix.lower()]
    if kind == "db":
        from ase.db import connect

        with connect(str(path), use_lock_file=False) as database:
            for row in database.select():
                atoms = row.toatoms()
                atoms.info.update(row.key_value_pairs)
                yield atoms, _stated(atoms)
        return
    for atoms in ase.io.iread(path, format=kind):
        assert isinstance(atoms, Atoms)
        yield atoms, _stated(atoms)


def _stated(atoms: "Atoms") -> _Facts:
    """Facts that a structure states of its calculation: ``functional`` (or ``xc``), ``hubbard_u``, ``label_scheme``.

    ``converged`` of the structure is of the self-consistent field, that of the scheme of the settings.
    """
    scheme = atoms.info.get(SCHEME)
    info = {**atoms.info, **(scheme if isinstance(scheme, Mapping) else {})}
    calculator = getattr(atoms.calc, "name", "") or ""
    u = info.get("hubbard_u")
    return _Facts(
        program=str(info.get("engine", info.get("program", "" if calculator == "unknown" else calculator))),
        version=str(info.get("engine_version", "")),
        functional=str(info.get("functional", info.get("xc", ""))),
        hubbard_u={str(k): float(v) for k, v in u.items()} if isinstance(u, Mapping) else {},
        converged=bool(stated) if isinstance(stated := atoms.info.get("converged"), bool | np.bool_) else None,
        settings_converged=settings_converged(atoms),
    )


_READERS: dict[str, Callable[[Path], _Read]] = {
    "vasprun": _read_vasprun,
    "outcar": _read_outcar,
    "espresso": _read_espresso,
    "gpaw": _read_gpaw,
    "gpw": _read_gpw,
    "cp2k": _read_cp2k,
    "ase": _read_ase,
}
