"""SHELX files (``.res``): lattice type, symmetry operations, free variables and occupancies, as a block of a CIF.

The format: G. M. Sheldrick, Acta Cryst. C 71, 3 (2015), and the manual of SHELXL. AIRSS writes this format.
"""

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.core.elements import symbols
from cgcnn_ase.structures.cif_symmetry import group_problem
from cgcnn_ase.structures.record import RefusedError
from cgcnn_ase.structures.space_groups import expand

if TYPE_CHECKING:
    import gemmi
    from gemmi import cif as gemmi_cif

# LATT 1 to 7: primitive, body-centred, rhombohedral (obverse), face-centred, A, B and C
_CENTRINGS = {
    1: ("x,y,z",),
    2: ("x,y,z", "x+1/2,y+1/2,z+1/2"),
    3: ("x,y,z", "x+2/3,y+1/3,z+1/3", "x+1/3,y+2/3,z+2/3"),
    4: ("x,y,z", "x,y+1/2,z+1/2", "x+1/2,y,z+1/2", "x+1/2,y+1/2,z"),
    5: ("x,y,z", "x,y+1/2,z+1/2"),
    6: ("x,y,z", "x+1/2,y,z+1/2"),
    7: ("x,y,z", "x+1/2,y+1/2,z"),
}
_ATOM = re.compile(r"[A-Za-z][\w'\"*+-]*")
# an occupancy this near to 1 is 1: five digits of 1/48
_FULL = 2e-3


class _Site(NamedTuple):
    """One line of an atom."""

    name: str
    element: str
    frac: tuple[float, float, float]
    factor: float  # site occupation factor: occupancy times the site's share of the general multiplicity


def shelx_block(text: str) -> "tuple[gemmi_cif.Block, dict[str, str | float]]":
    """The structure of a SHELX file as a block of a CIF, and what its title says (AIRSS: name, pressure, energy).

    A `RefusedError` says in words what is wrong with it.
    """
    import gemmi

    cards = _cards(text)
    cell = _first_card(cards, "CELL")
    if len(cell) < 7:
        raise RefusedError("has no CELL line with a wavelength, three lengths and three angles")
    elements = _elements(cards)
    sites = _sites(text, cards, elements)
    ops = _operations(cards)
    rotations = np.array([op.rot for op in ops], dtype=float) / ops[0].DEN
    translations = np.array([op.tran for op in ops], dtype=float) / ops[0].DEN
    frac: Floats = np.array([site.frac for site in sites])
    images = np.bincount(expand(frac, rotations, translations)[1], minlength=len(sites))
    block = gemmi.cif.Block("shelx")
    tags = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    for tag, value in zip(tags, cell[1:7], strict=True):
        block.set_pair(f"_cell_{tag}", value)
    loop = block.init_loop("_symmetry_equiv_pos_", ["as_xyz"])
    loop.set_all_values([[gemmi.cif.quote(op.triplet()) for op in ops]])
    full = _are_full(sites, images, len(ops), elements, cards)
    rows = []
    for site, n in zip(sites, images.tolist(), strict=True):
        occupancy = 1.0 if full else site.factor * len(ops) / n
        occupancy = 1.0 if abs(occupancy - 1) <= _FULL else occupancy
        rows.append([site.name, site.element, *(repr(float(x)) for x in site.frac), f"{occupancy:.6g}"])
    loop = block.init_loop("_atom_site_", ["label", "type_symbol", "fract_x", "fract_y", "fract_z", "occupancy"])
    loop.set_all_values([[gemmi.cif.quote(row[k]) for row in rows] for k in range(6)])
    return block, _title(cards)


def _cards(text: str) -> list[list[str]]:
    """The words of each line up to END; lines that go on after ``=`` are one."""
    lines = re.sub(r"=[ \t]*(?:!.*)?\r?\n", " ", text).splitlines()
    cards = []
    for line in lines:
        words = line.split("!")[0].split()
        if not words or words[0].upper().startswith("REM"):
            continue
        if words[0].upper() == "END":
            break
        cards.append(words)
    return cards


def _first_card(cards: list[list[str]], name: str) -> list[str]:
    return next((words[1:] for words in cards if words[0].upper() == name), [])


def _elements(cards: list[list[str]]) -> list[str]:
    """The elements of the SFAC lines, in their order."""
    result: list[str] = []
    known = {symbol.upper(): symbol for symbol in symbols()[1:]}
    for words in cards:
        if words[0].upper() != "SFAC":
            continue
        listed = words[1:2] if len(words) > 2 and re.match(r"[-+.\d]", words[2]) else words[1:]
        for word in listed:
            element = "H" if word.upper() == "D" else known.get(word.upper())
            if element is None:
                raise RefusedError(f"unknown element {word!r} in its SFAC line; elements 1 (H) to 100 (Fm) are known")
            result.append(element)
    if not result:
        raise RefusedError("names no elements (SFAC)")
    return result


def _sites(text: str, cards: list[list[str]], elements: list[str]) -> list[_Site]:
    free = [float(word) for words in cards if words[0].upper() == "FVAR" for word in words[1:]]
    start = next(k for k, words in enumerate(cards) if words[0].upper() == "SFAC")
    sites = []
    for words in cards[start + 1 :]:
        if words[0].upper() == "HKLF":
            break
        if len(words) < 5 or not _ATOM.fullmatch(words[0]) or not re.fullmatch(r"-?\d+", words[1]):
            continue
        if words[0].upper()[:4] in _INSTRUCTIONS or re.fullmatch(r"[Qq]\d+", words[0]):  # peaks of the difference map
            continue
        name = words[0]
        if not 1 <= int(words[1]) <= len(elements):
            raise RefusedError(f"{name} is of the element number {words[1]}, but SFAC names {len(elements)}")
        try:
            x, y, z = (_value(word, free, name) for word in words[2:5])
            factor = _value(words[5], free, name) if len(words) > 5 else 1.0
        except ValueError as error:
            if isinstance(error, RefusedError):
                raise
            raise RefusedError(f"a coordinate or occupancy of {name} is no number: {' '.join(words[2:6])}") from None
        sites.append(_Site(name, elements[int(words[1]) - 1], (x, y, z), factor))
    if not sites:
        raise RefusedError("is empty" if not text.strip() else "has no atoms")
    return sites


def _value(word: str, free: list[float], name: str) -> float:
    """A number of an atom: 10 + p is p, fixed; 10 m + p is p times variable m; -10 m - p is p times (1 - m)."""
    value = float(word)
    if not abs(value) < 1e6:
        raise RefusedError(f"a number of {name} is {word}: not finite")
    variable = int((abs(value) + 5) // 10)
    if variable == 0:
        return value
    rest = abs(value) - 10 * variable
    if variable == 1:
        return rest if value > 0 else -rest
    if variable > len(free):
        raise RefusedError(f"{word} of {name} needs the free variable {variable}, but FVAR has {len(free)}")
    return rest * (free[variable - 1] if value > 0 else 1 - free[variable - 1])


def _operations(cards: list[list[str]]) -> "list[gemmi.Op]":
    """The whole group: SYMM lines, the inversion unless LATT is negative, and the centring of LATT."""
    import gemmi

    symm = [" ".join(words[1:]) for words in cards if words[0].upper() == "SYMM"]
    latt = _first_card(cards, "LATT")
    try:
        kind = int(latt[0]) if latt else 1 if symm else -1
    except ValueError:
        kind = 0
    if abs(kind) not in _CENTRINGS:
        raise RefusedError(f"LATT {' '.join(latt)} is no lattice type; allowed are 1 to 7 and -1 to -7")
    try:
        listed = [gemmi.Op("x,y,z"), *(gemmi.Op(text.replace(" ", "").lower()) for text in symm)]
    except (RuntimeError, ValueError):
        raise RefusedError(f"a SYMM line is not understood: {'; '.join(symm)}") from None
    if kind > 0:
        listed += [gemmi.Op("-x,-y,-z") * op for op in listed]
    listed = [(gemmi.Op(shift) * op).wrap() for op in listed for shift in _CENTRINGS[abs(kind)]]
    listed = list({op.triplet(): op for op in listed}.values())
    problem = group_problem(tuple(op.triplet() for op in listed))
    if problem is not None:
        raise RefusedError(f"LATT {kind} and its {len(symm)} SYMM lines {problem}")
    return listed


def _are_full(
    sites: list[_Site],
    images: "np.ndarray[tuple[int], np.dtype[np.int64]]",
    n_ops: int,
    elements: list[str],
    cards: list[list[str]],
) -> bool:
    """Say whether all sites are full though their factors do not hold the share of special positions, by UNIT."""
    if all(site.factor * n_ops <= (1 + _FULL) * n for site, n in zip(sites, images.tolist(), strict=True)):
        return False
    if any(abs(site.factor - 1) > _FULL for site in sites):
        return False
    try:
        unit = [float(word) for word in _first_card(cards, "UNIT")]
    except ValueError:
        return False
    if len(unit) != len(elements):
        return False
    counts = dict.fromkeys(elements, 0.0)
    for site, n in zip(sites, images.tolist(), strict=True):
        counts[site.element] += n
    return all(abs(counts[element] - amount) < 1e-6 for element, amount in zip(elements, unit, strict=True))


def _title(cards: list[list[str]]) -> dict[str, str | float]:
    """Name, pressure and energy of a title of AIRSS: ``TITL name pressure volume energy ...``."""
    words = _first_card(cards, "TITL")
    try:
        return {"name": words[0], "pressure": float(words[1]), "energy": float(words[3])} if len(words) > 5 else {}
    except ValueError:
        return {}


# instructions that look like atoms: a word and numbers
# fmt: off
_INSTRUCTIONS = frozenset((
    "ABIN", "ACTA", "AFIX", "ANIS", "ANSC", "ANSR", "BASF", "BIND", "BLOC", "BOND", "BUMP", "CELL", "CGLS", "CHIV",
    "CONF", "CONN", "DAMP", "DANG", "DEFS", "DELU", "DFIX", "DISP", "EADP", "EQIV", "EXTI", "EXYZ", "FEND", "FLAT",
    "FMAP", "FRAG", "FREE", "FVAR", "GRID", "HFIX", "HKLF", "HTAB", "ISOR", "LATT", "LAUE", "LIST", "MERG", "MORE",
    "MOVE", "MPLA", "NCSY", "NEUT", "OMIT", "PART", "PLAN", "PRIG", "REM", "RESI", "RIGU", "RTAB", "SADI", "SAME",
    "SFAC", "SHEL", "SIMU", "SIZE", "SPEC", "STIR", "SUMP", "SWAT", "SYMM", "TEMP", "TITL", "TWIN", "TWST", "UNIT",
    "WGHT", "WIGL", "WPDB", "XNPD", "ZERR",
))
# fmt: on
