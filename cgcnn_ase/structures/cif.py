"""CIF files by gemmi: fast, and only where there is no doubt what the file means.

The cell matrix, the order of the atoms and the rounding of 0.3333 to 1/3 are those of pymatgen's reader, so that both
give the same structure. What gemmi cannot be certain of raises `UncertainError`; `readers` then asks pymatgen.
"""

import re
from collections import Counter
from collections.abc import Sequence
from math import cos, radians
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cgcnn_ase.core.arrays import Floats, Ints
from cgcnn_ase.core.elements import symbols
from cgcnn_ase.structures.cif_symmetry import TwoOriginsError, expand, merge_near, operations_of
from cgcnn_ase.structures.cif_values import (
    BRACKET,
    ContradictedError,
    PartialOccupancyError,
    UncertainError,
    element_of_label,
    element_of_symbol,
    first_value,
    number,
    numbers_by_symbol,
    plain,
    rank_by_number,
    value_of,
    without_charge,
)
from cgcnn_ase.structures.composition import formula_problem
from cgcnn_ase.structures.record import RefusedError
from cgcnn_ase.structures.validation import validation_error

if TYPE_CHECKING:
    from ase import Atoms
    from gemmi import cif as gemmi_cif

# 0.3333 is 1/3 within this relative tolerance (pymatgen's frac_tolerance)
FRACTION_TOLERANCE = 1e-4
# an occupancy this near to 1 is 1
FULL = 1e-3

_FORMULA = ("_chemical_formula_sum",)
_CELL = (
    *("_cell_length_a", "_cell_length_b", "_cell_length_c"),
    *("_cell_angle_alpha", "_cell_angle_beta", "_cell_angle_gamma"),
)
_SITE = (
    *("_atom_site_fract_x", "_atom_site_fract_y", "_atom_site_fract_z"),
    *("_atom_site_type_symbol", "_atom_site_label", "_atom_site_occupancy"),
)
_ONES = frozenset(("1", "1.0", "1.00", "1.000", "1.0000", "1.", "."))
_RARE = ("_magn", "_atom_site_moment", "_modulation", "_wave_vector", "_ssg_", "attached_hydrogens")


class Sites(NamedTuple):
    """The rows of the atom list."""

    numbers: list[int]
    charges: list[str]  # type symbols as written where the file states oxidation states, which then sort; else empty
    frac: Floats


def lattice_matrix(a: float, b: float, c: float, alpha: float, beta: float, gamma: float) -> Floats:
    """The cell as rows, Å: c along z, a in the xz plane; bit for bit pymatgen's ``Lattice.from_parameters``."""
    angles = np.radians([alpha, beta, gamma])
    cos_alpha, cos_beta, cos_gamma = np.cos(angles)
    sin_alpha, sin_beta, _ = np.sin(angles)
    if abs(sin_alpha * sin_beta) < 1e-9:
        raise RefusedError(f"the cell angles {alpha:g}, {beta:g}, {gamma:g} enclose no volume")
    value = (cos_alpha * cos_beta - cos_gamma) / (sin_alpha * sin_beta)
    gamma_star = np.arccos(min(max(value, -1.0), 1.0))
    return np.array(
        [
            [a * sin_beta, 0.0, a * cos_beta],
            [-b * sin_alpha * np.cos(gamma_star), b * sin_alpha * np.sin(gamma_star), b * cos_alpha],
            [0.0, 0.0, float(c)],
        ]
    )


def has_atoms(block: "gemmi_cif.Block") -> bool:
    """Say whether a CIF block lists atoms (published files have blocks of text only)."""
    return len(block.find_values("_atom_site_label")) > 0 or len(block.find_values("_atom_site_fract_x")) > 0


def read_block(block: "gemmi_cif.Block", *, rare: bool = True) -> "Atoms":
    """The structure of one CIF block; `rare` tells whether it may be magnetic, modulated or without its hydrogens.

    `UncertainError` is raised where gemmi cannot be certain of it, and a `ValueError` in words where it is wrong.
    """
    if rare:
        refuse_unsupported(block)
    matrix, cell = cell_of(block)
    sites = _sites(block)
    try:
        operations, contradicted = operations_of(block, cell)
    except TwoOriginsError as doubt:
        return _of_likelier_origin(block, sites, doubt, matrix)
    if contradicted:
        raise ContradictedError("the symmetry operations contradict the space group")
    if operations is None:
        atoms = _assemble(sites, sites.frac, None, matrix)
        reason = block_formula_problem(block, atoms.numbers, symmetric=False)
    else:
        atoms, reason = _generated(block, sites, operations, matrix)
    if reason is not None:
        raise RefusedError(reason)
    return atoms


def _generated(
    block: "gemmi_cif.Block", sites: Sites, operations: tuple[Floats, Floats], matrix: Floats
) -> "tuple[Atoms, str | None]":
    """The atoms that the operations generate, and what is wrong with them."""
    atoms = _assemble(sites, *expand(sites.frac, *operations), matrix)
    reason = block_formula_problem(block, atoms.numbers, symmetric=True) or validation_error(atoms)
    if reason is not None and first_value(block, _FORMULA):
        # coordinates of few digits, perhaps: images that should be one atom, if the formula says so
        merged = _assemble(sites, *merge_near(sites.frac, *operations, matrix), matrix)
        if block_formula_problem(block, merged.numbers, symmetric=True) is None and validation_error(merged) is None:
            return merged, None
    return atoms, reason


def _of_likelier_origin(block: "gemmi_cif.Block", sites: Sites, doubt: TwoOriginsError, matrix: Floats) -> "Atoms":
    """The structure by that choice of origin which gives the formula of the file and no overlaps, if just one does."""
    result = [_generated(block, sites, operations, matrix) for operations in doubt.operations]
    good = [atoms for atoms, reason in result if reason is None]
    if len(good) == 2:
        good = [
            atoms for atoms in good if not block_formula_problem(block, atoms.numbers, symmetric=True, doubtful=True)
        ]
    if len(good) == 1:
        return good[0]
    if not good:
        raise RefusedError(str(result[0][1] or "neither choice of origin gives the stated formula and Z"))
    raise RefusedError(
        f"names the space group {doubt.name} without its operations; it has two choices of origin, both possible: "
        f"write {doubt.name}:1 or {doubt.name}:2, or the operations"
    )


def _assemble(sites: Sites, frac: Floats, owner: Ints | None, matrix: Floats) -> "Atoms":
    """Atoms in pymatgen's order: by electronegativity, then as in the file, then by symmetry operation."""
    from ase import Atoms

    numbers = np.array(sites.numbers)
    frac = frac - np.floor(frac)
    ranks = rank_by_number()
    keys = [ranks[number] for number in sites.numbers]
    if sites.charges:
        order = sorted(range(len(keys)), key=lambda k: (keys[k], sites.charges[k]))
    else:
        order = sorted(range(len(keys)), key=keys.__getitem__)
    if owner is None:
        numbers, frac = numbers[order], frac[order]
    else:
        index = np.empty(len(order), dtype=np.int64)
        index[order] = np.arange(len(order))
        by_place = np.argsort(index[owner], kind="stable")
        numbers, frac = numbers[owner[by_place]], frac[by_place]
    return Atoms(numbers=numbers, positions=frac @ matrix, cell=matrix, pbc=True)


def refuse_unsupported(block: "gemmi_cif.Block") -> None:
    """Refuse modulated structures and implicit hydrogens, hand magnetic ones on."""
    tags = set()
    for item in block:
        if isinstance(item.pair, list | tuple):
            tags.add(item.pair[0].lower())
        elif item.loop is not None:
            tags.update(tag.lower() for tag in item.loop.tags)
    if any(tag.startswith(("_cell_modulation", "_cell_wave_vector", "_space_group_ssg")) for tag in tags):
        raise RefusedError("is a modulated (incommensurate) structure; write an ordinary approximant of it")
    if "_atom_site_attached_hydrogens" in tags:
        attached = [plain(value) for value in block.find_values("_atom_site_attached_hydrogens")]
        if any(value not in ("0", ".", "?") for value in attached):
            raise RefusedError("has implicit hydrogens (_atom_site_attached_hydrogens); write them as atoms")
    if any("_magn" in tag or tag.startswith("_atom_site_moment") for tag in tags):
        raise UncertainError("it is a magnetic CIF")


def cell_of(block: "gemmi_cif.Block") -> tuple[Floats, list[float]]:
    """The cell matrix and the six parameters."""
    values = [value_of(block, tag) for tag in _CELL]
    if all(value is None for value in values):
        raise RefusedError("states no unit cell (_cell_length_a, ...)")
    if None in values:
        raise UncertainError("cell lengths or angles are missing")
    cell = [number(value, tag) for value, tag in zip(values, _CELL, strict=True) if value is not None]
    if not all(0 < length < 1e6 for length in cell[:3]):
        raise RefusedError("its cell has no volume: a, b, c = {:g}, {:g}, {:g} Å".format(*cell[:3]))
    if not all(0 < angle < 180 for angle in cell[3:]):
        raise RefusedError("its cell angles {:g}, {:g}, {:g} are not between 0 and 180 degrees".format(*cell[3:]))
    x, y, z = (cos(radians(angle)) for angle in cell[3:])
    if 1 - x * x - y * y - z * z + 2 * x * y * z <= 1e-10:
        raise RefusedError("its cell angles {:g}, {:g}, {:g} enclose no volume".format(*cell[3:]))
    return lattice_matrix(*cell), cell


def _sites(block: "gemmi_cif.Block") -> Sites:
    """The rows of the atom list that hold an atom."""
    x, y, z, types, labels, occupancies = columns(block, _SITE)
    n = len(x)
    if not n and not y and not z:
        if len(block.find_values("_atom_site_Cartn_x")):
            raise RefusedError("gives Cartesian coordinates only (_atom_site_Cartn_x); fractional ones are needed")
        raise RefusedError("lists atoms without fractional coordinates (_atom_site_fract_x, _y, _z)")
    if not types and not labels:
        raise RefusedError("has neither _atom_site_type_symbol nor _atom_site_label: the elements are unknown")
    if any(len(column) not in (0, n) for column in (types, labels, occupancies)) or not len(y) == len(z) == n:
        raise RefusedError("the columns of its atom list differ in length")
    kept = _occupied(labels or types, types or labels, occupancies)
    if kept is not None:
        x, y, z, types, labels = ([column[i] for i in kept] if column else [] for column in (x, y, z, types, labels))
        if not x:
            raise RefusedError("has no atoms: every site is empty (occupancy 0)")
    charged = bool(types) and len(block.find_values("_atom_type_oxidation_number")) > 0
    return Sites(_elements(types, labels), types if charged else [], coordinates(x, y, z, labels or types))


def columns(block: "gemmi_cif.Block", tags: Sequence[str]) -> list[list[str]]:
    """The values of each tag; those of the loop of the first one taken all at once, which is quicker."""
    loop = block.find_loop(tags[0]).get_loop()
    if loop is None:
        return [[*block.find_values(tag)] for tag in tags]
    values, width = loop.values, loop.width()
    columns = {tag.lower(): k for k, tag in reversed([*enumerate(loop.tags)])}
    return [values[columns[tag] :: width] if tag in columns else [*block.find_values(tag)] for tag in tags]


def _elements(types: list[str], labels: list[str]) -> list[int]:
    table = numbers_by_symbol()
    try:
        return [table[symbol] for symbol in types or labels]
    except KeyError:
        if types:
            return [element_of_symbol(plain(symbol)) for symbol in types]
        return [element_of_label(plain(label)) for label in labels]


def coordinates(x: list[str], y: list[str], z: list[str], names: list[str]) -> Floats:
    """The (n, 3) fractional coordinates of these columns."""
    try:
        frac = np.array([[*map(float, x)], [*map(float, y)], [*map(float, z)]]).T
    except ValueError:
        rows = zip(names, x, y, z, strict=True)
        frac = np.array([[number(v, f"a coordinate of {plain(name)}") for v in row] for name, *row in rows])
    if not np.abs(frac).max() < 1e6:
        row = int(np.argmax(~(np.abs(frac) < 1e6).all(axis=1)))
        raise RefusedError(f"a coordinate of {plain(names[row])} is {frac[row].tolist()}: not a finite number")
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


def block_formula_problem(
    block: "gemmi_cif.Block", numbers: Ints, *, symmetric: bool, doubtful: bool = False
) -> str | None:
    """Why the atoms do not match the formula that the block states, or None."""
    formula = first_value(block, _FORMULA)
    if formula is None:
        return None
    z = first_value(block, ("_cell_formula_units_Z",))
    names = symbols()
    by_symbol = {names[number]: count for number, count in Counter(numbers.tolist()).items()}
    try:
        units = None if z is None else float(BRACKET.sub("", z))
    except ValueError:
        units = None
    return formula_problem(by_symbol, formula, units or None, symmetric=symmetric, doubtful=doubtful)


def blocks_with_atoms(text: str) -> "tuple[list[gemmi_cif.Block], bool]":
    """The blocks of a CIF that list atoms, and whether the text holds tags that `refuse_unsupported` must look at.

    A text without any, or that is no CIF, is a `ValueError`.
    """
    import gemmi

    if not text.strip():
        raise RefusedError("is empty")
    if "\0" in text:
        raise RefusedError("is binary, not a CIF")
    try:
        document = gemmi.cif.read_string(text)
    except (ValueError, RuntimeError) as error:
        where = re.sub(r"^string:", "line ", str(error))
        raise RefusedError(f"is not a CIF that can be read, or it was cut off ({where})") from error
    blocks = [block for block in document if has_atoms(block)]
    if not blocks:
        raise RefusedError("is a CIF without atoms")
    lower = text.lower()
    return blocks, any(tag in lower for tag in _RARE)
