"""Single values of a CIF, and what a block states of its atoms (formula, Z, volume, density), compared with them."""

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, NamedTuple

from cgcnn_ase.core.elements import symbols
from cgcnn_ase.structures.composition import formula_problem, is_confirmed, parse_formula
from cgcnn_ase.structures.record import RefusedError

if TYPE_CHECKING:
    from ase import Atoms
    from gemmi import cif as gemmi_cif

_SYMBOL = re.compile(r"([A-Za-z]{1,2})(?:\d*\.?\d*[+-]?|[+-]\d*\.?\d*)(?:,spin=.*)?")

# by electronegativity, then symbol: the order in which pymatgen sorts the atoms of a CIF
_SORTED = (
    "Fr Cs K Rb Ba Ra Na Sr Li Ca Ac La Tb Yb Ce Pm Pr Nd Sm Eu Gd Dy Y Ho Er Tm Lu Pu Am Bk Cf Cm Es Fm Hf Th "
    "Mg Zr Np Sc U Pa Ta Ti Mn Be Nb Al Tl V Zn Cr Cd In Ga Fe Co Cu Re Si Tc Ni Ag Sn Hg Po Ge Bi B Sb Te Mo "
    "As P At H Ir Os Pd Rn Ru Pt Rh Pb W Au C Se S Xe I Br Kr N Cl O F Ar He Ne "
)


@cache
def numbers_by_symbol() -> dict[str, int]:
    """Atomic number of each known element."""
    return {symbol: number for number, symbol in enumerate(symbols()) if number}


@cache
def rank_by_number() -> tuple[int, ...]:
    """Place of each element in pymatgen's order, by atomic number."""
    ranks = {symbol: rank for rank, symbol in enumerate(_SORTED.split())}
    return tuple(ranks.get(symbol, -1) for symbol in symbols())


def without_charge(symbol: str) -> str:
    """The element of a type symbol: ``Ni`` of ``Ni2+``."""
    return re.sub(r"[\d+-].*$", "", symbol) or symbol


@cache
def element_of_symbol(symbol: str) -> int:
    """Atomic number of a type symbol such as ``Ni2+``."""
    match = _SYMBOL.fullmatch(symbol)
    number = numbers_by_symbol().get(match[1].capitalize()) if match else None
    if number is not None:
        return number
    if " + " in symbol or "," in symbol:
        raise UncertainError("the element of a site is a mixture")
    raise RefusedError(element_words(symbol))


@cache
def element_of_label(label: str, formula: frozenset[str] | None = None) -> int:
    """Atomic number that a site's label such as ``Ni1`` or ``O2A`` stands for, where no type symbol says it.

    The elements of the file's formula decide between readings (``NI1``, ``OW1``); without a formula only a label that
    has one reading is taken. ``TM1``, ``VAC1``, ``NiCoMn1``, ``Ni/Co1``, ``W1`` (water, or tungsten) are refused.
    """
    letters = re.match(r"[A-Za-z]*", label)
    word = letters[0] if letters else ""
    if re.match(r"vac|wat|dum", word, re.IGNORECASE):
        raise RefusedError(
            f"{element_words(word)}: the label {label} names a vacancy, water or a dummy; {_TYPES_NEEDED}"
        )
    groups = re.match(r"[HD][23]O|NH\d|NO3|[SP]O4", label)
    second = any(part in numbers_by_symbol() for part in re.findall(r"[A-Z][a-z]", label[len(word) :]))
    if second or groups or re.search(r"[/,+&;|]\s*[A-Z]", label) or _several_elements(word, formula):
        raise RefusedError(f"the label {label} names several elements; {_TYPES_NEEDED}")
    readings = _readings(word, formula)
    if len(readings) == 1:
        return numbers_by_symbol()[readings[0]]
    if not readings and formula is None:
        raise RefusedError(f"{element_words(word or label)}: the label {label} names none; {_TYPES_NEEDED}")
    if not readings:
        raise RefusedError(
            f"the label {label} names no element of the formula ({' '.join(sorted(formula or ()))}); {_TYPES_NEEDED}"
        )
    raise RefusedError(f"the label {label} may stand for {' or '.join(readings)}; {_TYPES_NEEDED}")


_TYPES_NEEDED = "state the elements as _atom_site_type_symbol"


def _several_elements(word: str, formula: frozenset[str] | None) -> bool:
    """Say whether a word such as ``NiCoMn`` or ``NiO`` is made of symbols; the formula may know one of ``FeB`` only."""
    parts = re.findall(r"[A-Z][a-z]?", word)
    if len(parts) < 2 or "".join(parts) != word or not all(part in numbers_by_symbol() for part in parts):
        return False
    if any(len(part) == 2 for part in parts[1:]):
        return True
    return len(word) > 2 and (formula is None or any(part in formula for part in parts[1:]))


def _readings(word: str, formula: frozenset[str] | None) -> list[str]:
    """The elements that the letters of a label can stand for."""
    table = numbers_by_symbol()
    first, two = word[:1], word[:2]
    if word in table and (word != "W" or formula is not None):
        readings = [word]
    elif word == "W":
        readings = [word, "O"]  # tungsten, or the oxygen of water
    elif len(two) == 2 and two.isupper():
        readings = [symbol for symbol in (two.capitalize(), first) if symbol in table]
        if formula is None and two in ("TM", "OH", "OW", "HO", "LN", "RE", "ME"):
            return []
    else:
        readings = [symbol for symbol in (two, first.upper()) if symbol in table][:1]
        if formula is None and (two not in table or (len(word) > 2 and word[2].islower())):
            return []
    return [symbol for symbol in readings if formula is None or symbol in formula]


def element_words(symbol: str) -> str:
    """The message about an element that is none."""
    bare = without_charge(symbol)
    if bare in ("D", "T"):
        return f"unknown element {bare!r}: {'deuterium' if bare == 'D' else 'tritium'} is not told apart; write H"
    return f"unknown element {symbol!r}; elements 1 (H) to 100 (Fm) are known"


class UncertainError(Exception):
    """gemmi cannot be certain of what the CIF means."""


class PartialOccupancyError(RefusedError):
    """Sites that are not fully occupied by one element."""


BRACKET = re.compile(r"\([\d.]*\)?$")

# values that state nothing
NULLS = ("?", ".", "")


def plain(value: str) -> str:
    """A CIF value without its quotes."""
    if value[:1] in "'\"" and len(value) > 1 and value[-1] == value[0]:
        return value[1:-1].strip()
    if value[:1] == ";":
        return value.strip(";\n\r ").strip()
    return value


def number(value: str, what: str) -> float:
    """A CIF number; quotes and a standard uncertainty in brackets are taken off.

    >>> number("'1.234(5)'", "a")
    1.234
    """
    try:
        return float(value)
    except ValueError:
        text = BRACKET.sub("", plain(value))
        try:
            return float(text)
        except ValueError:
            raise RefusedError(f"{what} is {plain(value)!r}, not a number") from None


def uncertainty(value: str) -> float:
    """The standard uncertainty in brackets behind a CIF number, 0 where there is none.

    >>> uncertainty("1.01(2)")
    0.02
    """
    match = re.fullmatch(r"[+-]?\d*\.?(\d*)\((\d+)\)", plain(value))
    return int(match[2]) * 10.0 ** -len(match[1]) if match else 0.0


def value_of(block: "gemmi_cif.Block", tag: str) -> str | None:
    """The value of a tag that stands alone as it is written, None where there is none."""
    return block.find_value(tag)


def first_value(block: "gemmi_cif.Block", tags: Sequence[str]) -> str | None:
    """The value of the first of these tags that states one, without quotes."""
    for tag in tags:
        value = value_of(block, tag)
        if value is not None and plain(value) not in NULLS:
            return plain(value)
    return None


# an occupancy this near to 1 is 1
FULL = 1e-3
_ONES = frozenset(("1", "1.0", "1.00", "1.000", "1.0000", "1.", "."))
_FORMULA = ("_chemical_formula_sum",)
# a volume or density may differ by this much from the stated one; it is rounded, or measured
_VOLUME, _DENSITY = 0.1, 0.2
# g/cm³ of one atomic mass unit in one Å³
_AMU = 1.66053907


class Contents(NamedTuple):
    """A block whose atoms are to be compared with what it states."""

    block: "gemmi_cif.Block"
    symmetric: bool  # the atoms were generated by symmetry operations


def formula_elements(block: "gemmi_cif.Block") -> frozenset[str] | None:
    """The elements of the formula that a block states, None where it states none."""
    text = first_value(block, _FORMULA)
    return None if text is None else _elements_of(text)


@lru_cache(maxsize=256)
def _elements_of(text: str) -> frozenset[str] | None:
    amounts = parse_formula(text)
    capitals = parse_formula(text.title()) if text.isupper() and " " in text else None
    result = {*(amounts or ()), *(capitals or ())}
    return frozenset("H" if symbol in ("D", "T") else symbol for symbol in result) or None


def _z(block: "gemmi_cif.Block") -> float | None:
    text = first_value(block, ("_cell_formula_units_Z",))
    try:
        return None if text is None else float(BRACKET.sub("", text)) or None
    except ValueError:
        return None


def formula_units(block: "gemmi_cif.Block") -> dict[str, float] | None:
    """The atoms of one cell by the formula and Z that a block states; None unless it states both."""
    text, z = first_value(block, _FORMULA), _z(block)
    amounts = parse_formula(text) if text else None
    return None if amounts is None or z is None else {symbol: amount * z for symbol, amount in amounts.items()}


def _element_counts(atoms: "Atoms") -> dict[str, int]:
    names = symbols()
    return {names[number]: count for number, count in Counter(atoms.numbers.tolist()).items()}


def contents_problem(contents: Contents, atoms: "Atoms") -> str | None:
    """Why the atoms and their cell are not what the block states, or None."""
    block, symmetric = contents
    formula = first_value(block, _FORMULA)
    if formula is not None:
        z, counts = _z(block), _element_counts(atoms)
        reason = formula_problem(counts, formula, z, symmetric=symmetric)
        if reason is not None and z is not None and _is_rhombohedral(atoms):  # Z may be that of the centred cell
            reason = formula_problem(counts, formula, z, symmetric=symmetric, primitive=True)
        if reason is not None:
            return reason
    return _volume_problem(block, atoms) or _density_problem(block, atoms)


def _is_rhombohedral(atoms: "Atoms") -> bool:
    """Say whether all lengths and all angles of the cell are the same, as in primitive cells of centred ones."""
    a, b, c, *angles = atoms.cell.cellpar().tolist()
    same = max(a, b, c) - min(a, b, c) < 0.01 * a and max(angles) - min(angles) < 0.5
    return bool(same and abs(angles[0] - 90) > 1)


def is_confirmed_by(block: "gemmi_cif.Block", atoms: "Atoms") -> bool:
    """Say whether formula and Z of the block give just these atoms."""
    return is_confirmed(_element_counts(atoms), first_value(block, _FORMULA), _z(block))


def _stated(block: "gemmi_cif.Block", tag: str) -> float | None:
    """A positive number that a tag states."""
    text = block.find_value(tag)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        try:
            value = float(BRACKET.sub("", plain(text)))
        except ValueError:
            return None
    return value if 0 < value < 1e9 else None


def _volume_problem(block: "gemmi_cif.Block", atoms: "Atoms") -> str | None:
    stated = _stated(block, "_cell_volume")
    if stated is None:
        return None
    volume = _volume(atoms)
    ratio = volume / stated
    if abs(ratio - 1) <= _VOLUME or _is_of_primitive_cell(ratio):
        return None
    density = _stated(block, "_exptl_crystal_density_diffrn")
    if density is not None and abs(_density(atoms) / density - 1) <= 0.02:
        return None  # the volume is the misprint
    unit = "; are the lengths in Bohr?" if abs(ratio * 0.52917721**3 - 1) < 0.02 else ""
    return f"states a volume of {stated:g} Å³ (_cell_volume), but its cell has {volume:.4g} Å³{unit}"


def _is_of_primitive_cell(ratio: float) -> bool:
    """Say whether a ratio of volumes is that of a centred cell and its primitive one."""
    return any(abs(factor - n) < 0.02 * n for n in (2, 3, 4) for factor in (ratio, 1 / ratio))


def _density_problem(block: "gemmi_cif.Block", atoms: "Atoms") -> str | None:
    stated = _stated(block, "_exptl_crystal_density_diffrn")
    if stated is None:
        return None
    density = _density(atoms)
    ratio = density / stated
    if abs(ratio - 1) <= _DENSITY or abs(ratio * 1000 - 1) <= _DENSITY:  # some write kg/m³
        return None
    if is_confirmed_by(block, atoms):
        return None  # formula and Z say that it is a misprint
    return (
        f"states a density of {stated:g} g/cm³ (_exptl_crystal_density_diffrn), but its atoms in its cell have "
        f"{density:.3g} g/cm³"
    )


def _volume(atoms: "Atoms") -> float:
    (a, b, c), (d, e, f), (g, h, i) = atoms.cell.array.tolist()
    return abs(float(a * (e * i - f * h) + b * (f * g - d * i) + c * (d * h - e * g)))


def _density(atoms: "Atoms") -> float:
    return _AMU * float(atoms.get_masses().sum()) / _volume(atoms)


def occupied_rows(
    names: list[str], kinds: list[str], occupancies: list[str], position: tuple[list[str], ...], notes: list[str]
) -> list[int] | None:
    """The rows with an atom (None: all), if each of them has a full one."""
    if _ONES.issuperset(occupancies):
        return None
    values = [
        1.0 if plain(v) in NULLS else number(v, f"the occupancy of {plain(n)}")
        for v, n in zip(occupancies, names, strict=True)
    ]
    places = [*zip(*position, strict=True)]
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        error = uncertainty(occupancies[i])
        # within its uncertainty of a full site: three of it above, where there is nothing, and one below
        full = value != 1 and -3 * error <= 1 - value <= error
        if full and places.count(places[i]) == 1:
            values[i] = 1.0
            notes.append(f"the occupancy {plain(occupancies[i])} of {plain(name)} is taken as 1")
        if not -FULL <= values[i] <= 1 + FULL:
            raise RefusedError(f"the occupancy of {plain(name)} is {value:g}, not between 0 and 1")
    partial = [i for i, value in enumerate(values) if FULL < value < 1 - FULL]
    if partial:
        raise PartialOccupancyError(
            partial_words([(plain(names[i]), without_charge(plain(kinds[i])), values[i]) for i in partial])
        )
    return [i for i, value in enumerate(values) if value >= 1 - FULL]


def partial_words(sites: Sequence[tuple[str, str, float]]) -> str:
    """The message about sites that are not fully occupied: (label, element, occupancy)."""
    named = [
        f"{label} ({element} {occupancy:g})" if label != element else f"{label} {occupancy:g}"
        for label, element, occupancy in sites
    ]
    shown = ", ".join(named[:8]) + (f" and {len(named) - 8} more" if len(named) > 8 else "")
    return (
        f"has partially occupied sites: {shown}; --order-disordered (order_disordered=True) makes one ordered structure"
    )
