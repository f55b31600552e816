"""CIF files by gemmi: fast, and only where there is no doubt what the file means.

The cell matrix, the order of the atoms and the rounding of 0.3333 to 1/3 are those of pymatgen's reader, so that both
give the same structure. What gemmi cannot be certain of raises `UncertainError`; `cif_fallback` then asks pymatgen.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache, lru_cache
from math import cos, radians
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..elements import symbols
from .formula import formula_problem

if TYPE_CHECKING:
    from ase import Atoms

Array = npt.NDArray[np.float64]

#: fractional coordinates nearer than this are the same position (pymatgen's site_tolerance)
SITE_TOLERANCE = 1e-4
#: 0.3333 is 1/3 within this relative tolerance (pymatgen's frac_tolerance)
FRACTION_TOLERANCE = 1e-4
#: an occupancy this near to 1 is 1
FULL = 1e-3
#: images of one atom nearer than this, Å, may be one atom on a special position given with too few digits
MERGE = 0.1

_OPERATIONS = (
    "_symmetry_equiv_pos_as_xyz",
    "_space_group_symop_operation_xyz",
    "_symmetry_equiv_pos_as_xyz_",
    "_space_group_symop_operation_xyz_",
)
_NAMES = ("_symmetry_space_group_name_H-M", "_space_group_name_H-M_alt", "_symmetry_space_group_name_H_M")
_NUMBERS = ("_space_group_IT_number", "_symmetry_Int_Tables_number")
_HALL = ("_space_group_name_Hall", "_symmetry_space_group_name_Hall")
_CELL = (
    *("_cell_length_a", "_cell_length_b", "_cell_length_c"),
    *("_cell_angle_alpha", "_cell_angle_beta", "_cell_angle_gamma"),
)
_ONES = frozenset(("1", "1.0", "1.00", "1.000", "1.0000", "1.", "."))
_RARE = ("_magn", "_atom_site_moment", "_modulation", "_wave_vector", "_ssg_", "attached_hydrogens")
_SYMBOL = re.compile(r"([A-Za-z]{1,2})(?:\d*\.?\d*[+-]?|[+-]\d*\.?\d*)(?:,spin=.*)?")
_BRACKET = re.compile(r"\([\d.]*\)?$")

#: by electronegativity, then symbol: the order in which pymatgen sorts the atoms of a CIF
_SORTED = (
    "Fr Cs K Rb Ba Ra Na Sr Li Ca Ac La Tb Yb Ce Pm Pr Nd Sm Eu Gd Dy Y Ho Er Tm Lu Pu Am Bk Cf Cm Es Fm Hf Th Mg Zr Np "
    "Sc U Pa Ta Ti Mn Be Nb Al Tl V Zn Cr Cd In Ga Fe Co Cu Re Si Tc Ni Ag Sn Hg Po Ge Bi B Sb Te Mo As P At H Ir Os Pd "
    "Rn Ru Pt Rh Pb W Au C Se S Xe I Br Kr N Cl O F Ar He Ne"
)


class UncertainError(Exception):
    """gemmi cannot be certain of what the CIF means."""


class ContradictedError(UncertainError):
    """The symmetry operations of the CIF are not those of the space group that it names."""


class PartialOccupancyError(ValueError):
    """Sites that are not fully occupied by one element."""


class Sites(NamedTuple):
    """The rows of the atom list."""

    numbers: list[int]
    charges: list[str]  # type symbols as written where the file states oxidation states, which then sort; else empty
    frac: Array


@cache
def numbers_by_symbol() -> dict[str, int]:
    """Atomic number of each known element."""
    return {symbol: number for number, symbol in enumerate(symbols()) if number}


@cache
def rank_by_number() -> tuple[int, ...]:
    """Place of each element in pymatgen's order, by atomic number."""
    ranks = {symbol: rank for rank, symbol in enumerate(_SORTED.split())}
    return tuple(ranks.get(symbol, -1) for symbol in symbols())


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
        text = _BRACKET.sub("", plain(value))
        try:
            return float(text)
        except ValueError:
            raise ValueError(f"{what} is {plain(value)!r}, not a number") from None


def lattice_matrix(a: float, b: float, c: float, alpha: float, beta: float, gamma: float) -> Array:
    """The cell as rows, Å: c along z, a in the xz plane; bit for bit pymatgen's ``Lattice.from_parameters``."""
    angles = np.radians([alpha, beta, gamma])
    cos_alpha, cos_beta, cos_gamma = np.cos(angles)
    sin_alpha, sin_beta, _ = np.sin(angles)
    if abs(sin_alpha * sin_beta) < 1e-9:
        raise ValueError(f"the cell angles {alpha:g}, {beta:g}, {gamma:g} enclose no volume")
    value = (cos_alpha * cos_beta - cos_gamma) / (sin_alpha * sin_beta)
    gamma_star = np.arccos(min(max(value, -1.0), 1.0))
    return np.array(
        [
            [a * sin_beta, 0.0, a * cos_beta],
            [-b * sin_alpha * np.cos(gamma_star), b * sin_alpha * np.sin(gamma_star), b * cos_alpha],
            [0.0, 0.0, float(c)],
        ]
    )


def has_atoms(block: Any) -> bool:
    """Whether a CIF block lists atoms (published files have blocks of text only)."""
    return len(block.find_values("_atom_site_label")) > 0 or len(block.find_values("_atom_site_fract_x")) > 0


def read_block(block: Any, *, rare: bool = True) -> "Atoms":
    """The structure of one CIF block; `rare` tells whether it may be magnetic, modulated or without its hydrogens.

    Raises
    ------
    UncertainError
        If gemmi cannot be certain of it.
    ValueError
        If it is wrong, in words.
    """
    if rare:
        refuse_unsupported(block)
    matrix, cell = _cell(block)
    sites = _sites(block)
    operations, contradicted = _operations(block, cell)
    if contradicted:
        raise ContradictedError("the symmetry operations contradict the space group")
    if operations is None:
        atoms = _assemble(sites, sites.frac, None, matrix)
        reason = block_formula_problem(block, atoms.numbers, symmetric=False)
    else:
        atoms = _assemble(sites, *_expand(sites.frac, *operations), matrix)
        reason = block_formula_problem(block, atoms.numbers, symmetric=True)
        if reason is not None:  # coordinates of few digits, perhaps: images that should be one atom
            merged = _assemble(sites, *_merge_near(sites.frac, *operations, matrix), matrix)
            if block_formula_problem(block, merged.numbers, symmetric=True) is None:
                return merged
    if reason is not None:
        raise ValueError(reason)
    return atoms


def _assemble(sites: Sites, frac: Array, owner: npt.NDArray[np.int64] | None, matrix: Array) -> "Atoms":
    """Atoms in pymatgen's order: by electronegativity, then as in the file, then by symmetry operation."""
    from ase import Atoms

    numbers = np.array(sites.numbers)
    frac = frac - np.floor(frac)
    ranks = rank_by_number()
    keys: list[Any] = [ranks[number] for number in sites.numbers]
    if sites.charges:
        keys = list(zip(keys, sites.charges, strict=True))
    order = sorted(range(len(keys)), key=keys.__getitem__)
    if owner is None:
        numbers, frac = numbers[order], frac[order]
    else:
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        by_place = np.argsort(place[owner], kind="stable")
        numbers, frac = numbers[owner[by_place]], frac[by_place]
    return Atoms(numbers=numbers, positions=frac @ matrix, cell=matrix, pbc=True)


def refuse_unsupported(block: Any) -> None:
    """Refuse modulated structures and implicit hydrogens, hand magnetic ones on."""
    tags = set()
    for item in block:
        if item.pair is not None:
            tags.add(item.pair[0].lower())
        elif item.loop is not None:
            tags.update(tag.lower() for tag in item.loop.tags)
    if any(tag.startswith(("_cell_modulation", "_cell_wave_vector", "_space_group_ssg")) for tag in tags):
        raise ValueError("is a modulated (incommensurate) structure; write an ordinary approximant of it")
    if "_atom_site_attached_hydrogens" in tags:
        attached = [plain(value) for value in block.find_values("_atom_site_attached_hydrogens")]
        if any(value not in ("0", ".", "?") for value in attached):
            raise ValueError("has implicit hydrogens (_atom_site_attached_hydrogens); write them as atoms")
    if any("_magn" in tag or tag.startswith("_atom_site_moment") for tag in tags):
        raise UncertainError("it is a magnetic CIF")


def _cell(block: Any) -> tuple[Array, list[float]]:
    """The cell matrix and the six parameters."""
    values = [block.find_value(tag) for tag in _CELL]
    if all(value is None for value in values):
        raise ValueError("states no unit cell (_cell_length_a, ...)")
    if None in values:
        raise UncertainError("cell lengths or angles are missing")
    cell = [number(value, tag) for value, tag in zip(values, _CELL, strict=True)]
    if not all(0 < length < 1e6 for length in cell[:3]):
        raise ValueError("its cell has no volume: a, b, c = {:g}, {:g}, {:g} Å".format(*cell[:3]))
    if not all(0 < angle < 180 for angle in cell[3:]):
        raise ValueError("its cell angles {:g}, {:g}, {:g} are not between 0 and 180 degrees".format(*cell[3:]))
    x, y, z = (cos(radians(angle)) for angle in cell[3:])
    if 1 - x * x - y * y - z * z + 2 * x * y * z <= 1e-10:
        raise ValueError("its cell angles {:g}, {:g}, {:g} enclose no volume".format(*cell[3:]))
    return lattice_matrix(*cell), cell


def _sites(block: Any) -> Sites:
    """The rows of the atom list that hold an atom."""
    x, y, z = ([*block.find_values(tag)] for tag in ("_atom_site_fract_x", "_atom_site_fract_y", "_atom_site_fract_z"))
    types = [*block.find_values("_atom_site_type_symbol")]
    labels = [*block.find_values("_atom_site_label")]
    occupancies = [*block.find_values("_atom_site_occupancy")]
    n = len(x)
    if not n and not y and not z:
        if len(block.find_values("_atom_site_Cartn_x")):
            raise ValueError("gives Cartesian coordinates only (_atom_site_Cartn_x); fractional ones are needed")
        raise ValueError("lists atoms without fractional coordinates (_atom_site_fract_x, _y, _z)")
    if not types and not labels:
        raise ValueError("has neither _atom_site_type_symbol nor _atom_site_label: the elements are unknown")
    if any(len(column) not in (0, n) for column in (types, labels, occupancies)) or not len(y) == len(z) == n:
        raise ValueError("the columns of its atom list differ in length")
    kept = _occupied(labels or types, types or labels, occupancies)
    if kept is not None:
        x, y, z, types, labels = ([column[i] for i in kept] if column else [] for column in (x, y, z, types, labels))
        if not x:
            raise ValueError("has no atoms: every site is empty (occupancy 0)")
    charged = bool(types) and len(block.find_values("_atom_type_oxidation_number")) > 0
    return Sites(_elements(types, labels), types if charged else [], _coordinates(x, y, z, labels or types))


def _elements(types: list[str], labels: list[str]) -> list[int]:
    table = numbers_by_symbol()
    try:
        return [table[symbol] for symbol in types or labels]
    except KeyError:
        if types:
            return [_element(plain(symbol)) for symbol in types]
        return [_element_of_label(plain(label)) for label in labels]


def _coordinates(x: list[str], y: list[str], z: list[str], names: list[str]) -> Array:
    try:
        frac = np.array([[*map(float, x)], [*map(float, y)], [*map(float, z)]]).T
    except ValueError:
        rows = zip(names, x, y, z, strict=True)
        frac = np.array([[number(v, f"a coordinate of {plain(name)}") for v in row] for name, *row in rows])
    if not np.abs(frac).max() < 1e6:
        row = int(np.argmax(~(np.abs(frac) < 1e6).all(axis=1)))
        raise ValueError(f"a coordinate of {plain(names[row])} is {frac[row].tolist()}: not a finite number")
    # 0.3333 is 1/3, lest an atom on a special position and its image be two
    thirds = frac * 3
    for whole in (1.0, 2.0):
        near = np.abs(thirds - whole) <= whole * FRACTION_TOLERANCE
        if near.any():
            frac[near] = whole / 3
    return frac


def _occupied(names: list[str], kinds: list[str], occupancies: list[str]) -> list[int] | None:
    """The rows with an atom (None: all), if each of them has a full one."""
    if _ONES.issuperset(occupancies):
        return None
    values = [
        1.0 if plain(v) in (".", "?", "") else number(v, f"the occupancy of {plain(n)}")
        for v, n in zip(occupancies, names, strict=True)
    ]
    for name, value in zip(names, values, strict=True):
        if not -FULL <= value <= 1 + FULL:
            raise ValueError(f"the occupancy of {plain(name)} is {value:g}, not between 0 and 1")
    partial = [i for i, value in enumerate(values) if FULL < value < 1 - FULL]
    if partial:
        raise PartialOccupancyError(
            partial_words([(plain(names[i]), _without_charge(plain(kinds[i])), values[i]) for i in partial])
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


def _without_charge(symbol: str) -> str:
    return re.sub(r"[\d+-].*$", "", symbol) or symbol


@cache
def _element(symbol: str) -> int:
    match = _SYMBOL.fullmatch(symbol)
    found = numbers_by_symbol().get(match[1].capitalize()) if match else None
    if found is not None:
        return found
    if " + " in symbol or "," in symbol:
        raise UncertainError("the element of a site is a mixture")
    raise ValueError(element_words(symbol))


def element_words(symbol: str) -> str:
    """The message about an element that is none."""
    bare = _without_charge(symbol)
    if bare in ("D", "T"):
        return f"unknown element {bare!r}: {'deuterium' if bare == 'D' else 'tritium'} is not told apart; write H"
    return f"unknown element {symbol!r}; elements 1 (H) to 100 (Fm) are known"


@cache
def _element_of_label(label: str) -> int:
    table = numbers_by_symbol()
    letters = re.match(r"[A-Za-z]*", label)
    word = letters[0] if letters else ""
    if word in table:
        return table[word]
    if len(word) >= 2 and word[:2] in table:
        return table[word[:2]]
    if len(word) >= 2 and word[:2].isupper() and word[:2].capitalize() in table:
        raise UncertainError("the element of a label is ambiguous")
    if word[:1] in table and (len(word) < 2 or word[1].isupper()):
        return table[word[:1]]
    raise ValueError(element_words(word or label))


def _first_value(block: Any, tags: Sequence[str]) -> str | None:
    for tag in tags:
        value = block.find_value(tag)
        if value is not None and plain(value) not in ("?", ".", ""):
            return plain(value)
    return None


def _operations(block: Any, cell: Sequence[float]) -> tuple[tuple[Array, Array] | None, bool]:
    """Rotations (n, 3, 3) and translations (n, 3), None for the identity alone; and whether the group says otherwise."""
    name = _first_value(block, _NAMES)
    stated = _first_value(block, _NUMBERS)
    for tag in _OPERATIONS:
        triplets = [plain(value) for value in block.find_values(tag)]
        if triplets and triplets != ["?"]:
            break
    else:
        return _operations_of_name(name, _first_value(block, _HALL), stated, cell), False
    if len(triplets) == 1 and triplets[0].replace(" ", "").lower() in ("x,y,z", "+x,+y,+z"):
        only = (name is None or name.replace(" ", "") == "P1") and stated in (None, "1")
        return None, not only
    rotations, translations, group_number = _parse_operations(tuple(triplets))
    if group_number is not None:
        return (rotations, translations), not _agrees(group_number, name, stated)
    return (rotations, translations), False


def _agrees(group: int, name: str | None, stated: str | None) -> bool:
    """Whether the number of the group that the operations form is the one that the file states."""
    if stated is not None and stated.isdigit() and int(stated) != group:
        return False
    named = _group_by_name(name) if name else None
    return named is None or named == group


@lru_cache(maxsize=256)
def _group_by_name(name: str) -> int | None:
    import gemmi

    group = gemmi.find_spacegroup_by_name(name)
    return None if group is None else int(group.number)


@lru_cache(maxsize=256)
def _parse_operations(triplets: tuple[str, ...]) -> tuple[Array, Array, int | None]:
    import gemmi

    try:
        operations = [gemmi.Op(triplet.replace(" ", "").lower()) for triplet in triplets]
    except (RuntimeError, ValueError) as error:
        raise UncertainError(f"a symmetry operation is unusual ({error})") from error
    if any(
        abs(round(float(f"0{d}") * 24) - float(f"0{d}") * 24) > 0.02 for t in triplets for d in re.findall(r"\.\d+", t)
    ):
        raise UncertainError("a translation is no multiple of 1/24")
    group = gemmi.GroupOps(operations)
    size = len(list(group))
    group.add_missing_elements()
    if len(list(group)) != size or size != len(triplets):
        raise UncertainError("the symmetry operations do not form a group")
    found = gemmi.find_spacegroup_by_ops(group)
    rotations = np.array([op.rot for op in operations], dtype=np.float64) / gemmi.Op.DEN
    translations = np.array([op.tran for op in operations], dtype=np.float64) / gemmi.Op.DEN
    return rotations, translations, None if found is None else int(found.number)


def _operations_of_name(
    name: str | None, hall: str | None, stated: str | None, cell: Sequence[float]
) -> tuple[Array, Array] | None:
    """Operations of a space group that the file only names; `UncertainError` where the name leaves its origin open."""
    import gemmi

    if name is None and hall is None and stated is None:
        return None
    if hall is not None:
        try:
            group = gemmi.find_spacegroup_by_ops(gemmi.symops_from_hall(hall))
        except (RuntimeError, ValueError):
            group = None
    elif name is not None:
        group = gemmi.find_spacegroup_by_name(name, cell[3], cell[5])
    else:
        raise UncertainError("only the number of the space group is given")
    if group is None:
        raise UncertainError(f"space group {hall or name!r} is unknown to gemmi")
    if stated is not None and stated.isdigit() and int(stated) != group.number:
        raise UncertainError("the name and the number of the space group disagree")
    if hall is None and name is not None and group.ext in ("1", "2") and ":" not in name:
        raise UncertainError("the space group has two choices of origin")
    operations = list(group.operations())
    if len(operations) == 1:
        return None
    return (
        np.array([op.rot for op in operations], dtype=np.float64) / gemmi.Op.DEN,
        np.array([op.tran for op in operations], dtype=np.float64) / gemmi.Op.DEN,
    )


def _expand(frac: Array, rotations: Array, translations: Array) -> tuple[Array, npt.NDArray[np.int64]]:
    """All images of each site, equal ones once; and the site each belongs to."""
    images = np.einsum("oij,nj->noi", rotations, frac) + translations  # (sites, operations, 3)
    images -= np.floor(images)
    n_ops = len(rotations)
    to_first = images - images[:, :1]
    to_first -= np.rint(to_first)
    # a site on a special position is mapped onto itself; the factor covers what a rotation does to the tolerance
    special = (np.abs(to_first) < 4 * SITE_TOLERANCE).all(axis=2).sum(axis=1) > 1
    keep = np.ones(images.shape[:2], dtype=bool)
    for site in np.flatnonzero(special):
        own = images[site]
        delta = own[:, None] - own[None]
        delta -= np.rint(delta)
        same = (np.abs(delta) < SITE_TOLERANCE).all(axis=2)
        keep[site] = same.argmax(axis=1) == np.arange(n_ops)
    return images[keep], np.nonzero(keep)[0]


def _merge_near(
    frac: Array, rotations: Array, translations: Array, matrix: Array
) -> tuple[Array, npt.NDArray[np.int64]]:
    """As `_expand`, but images of one site within `MERGE` become one atom at their mean: coordinates of few digits."""
    positions, owners = [], []
    for site, own in enumerate(frac):
        images = rotations @ own + translations
        left = np.ones(len(images), dtype=bool)
        for i in range(len(images)):
            if not left[i]:
                continue
            delta = images - images[i]
            delta -= np.rint(delta)
            near = left & (np.linalg.norm(delta @ matrix, axis=1) < MERGE)
            positions.append(images[i] + delta[near].mean(axis=0))
            owners.append(site)
            left &= ~near
    return np.array(positions), np.array(owners, dtype=np.int64)


def block_formula_problem(
    block: Any, numbers: npt.NDArray[np.int64], *, symmetric: bool, contradicted: bool = False
) -> str | None:
    """Why the atoms do not match the formula that the block states, or None."""
    formula = _first_value(block, ("_chemical_formula_sum",))
    if formula is None:
        return None
    z = _first_value(block, ("_cell_formula_units_Z",))
    names = symbols()
    by_symbol = {names[number]: count for number, count in Counter(numbers.tolist()).items()}
    try:
        units = None if z is None else float(_BRACKET.sub("", z))
    except ValueError:
        units = None
    return formula_problem(by_symbol, formula, units or None, symmetric=symmetric, contradicted=contradicted)


def read_cif_gemmi(text: str) -> "list[Atoms]":
    """The structures of a CIF, one a block that lists atoms, by gemmi alone.

    Raises
    ------
    UncertainError
        If gemmi cannot be certain of one of them.
    ValueError
        If one is wrong, in words.
    """
    blocks, rare = blocks_with_atoms(text)
    return [read_block(block, rare=rare) for block in blocks]


def blocks_with_atoms(text: str) -> tuple[list[Any], bool]:
    """The blocks of a CIF that list atoms, and whether the text holds tags that `refuse_unsupported` must look at.

    Raises
    ------
    ValueError
        If there are none, or the text is not a CIF.
    """
    import gemmi

    if not text.strip():
        raise ValueError("is empty")
    if "\0" in text:
        raise ValueError("is binary, not a CIF")
    try:
        document = gemmi.cif.read_string(text)
    except (ValueError, RuntimeError) as error:
        where = re.sub(r"^string:", "line ", str(error))
        raise ValueError(f"is not a CIF that can be read, or it was cut off ({where})") from error
    blocks = [block for block in document if has_atoms(block)]
    if not blocks:
        raise ValueError("is a CIF without atoms")
    lower = text.lower()
    return blocks, any(tag in lower for tag in _RARE)
