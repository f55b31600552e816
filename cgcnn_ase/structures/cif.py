"""CIF files by gemmi: fast, and only where there is no doubt what the file means.

The cell matrix, the order of the atoms and the rounding of 0.3333 to 1/3 are those of pymatgen's reader, so that both
give the same structure. What gemmi cannot be certain of raises `UncertainError`; `readers` then asks pymatgen.
"""

from collections.abc import Callable, Sequence
from math import cos, radians
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cgcnn_ase.core.arrays import Floats, Ints
from cgcnn_ase.structures.cif_symmetry import OPERATION_TAGS, Reading, StatedSymmetry, symmetry_of, triplets
from cgcnn_ase.structures.cif_values import (
    NULLS,
    Contents,
    UncertainError,
    contents_problem,
    element_of_label,
    element_of_symbol,
    formula_elements,
    is_confirmed_by,
    number,
    numbers_by_symbol,
    occupied_rows,
    plain,
    rank_by_number,
    value_of,
)
from cgcnn_ase.structures.record import RefusedError, without_reader_warnings
from cgcnn_ase.structures.space_groups import Operations, expand, merge_near, symmetry_dataset
from cgcnn_ase.structures.validation import validation_error

if TYPE_CHECKING:
    from ase import Atoms
    from gemmi import cif as gemmi_cif

# 0.3333 is 1/3 within this relative tolerance (pymatgen's frac_tolerance)
FRACTION_TOLERANCE = 1e-4

_CELL = (
    *("_cell_length_a", "_cell_length_b", "_cell_length_c"),
    *("_cell_angle_alpha", "_cell_angle_beta", "_cell_angle_gamma"),
)
_SITE = (
    *("_atom_site_fract_x", "_atom_site_fract_y", "_atom_site_fract_z"),
    *("_atom_site_type_symbol", "_atom_site_label", "_atom_site_occupancy"),
)
_RARE = ("_magn", "_atom_site_moment", "_modulation", "_wave_vector", "_ssg_", "attached_hydrogens")


class Sites(NamedTuple):
    """The rows of the atom list."""

    numbers: list[int]
    charges: list[str]  # type symbols as written where the file states oxidation states, which then sort; else empty
    frac: Floats
    labels: list[str]  # what the file calls them


class Crystal(NamedTuple):
    """The structure of a block."""

    atoms: "Atoms"
    site_names: Callable[[], list[str]] | None  # the file's labels, atom by atom, for messages; None: none wanted
    notes: tuple[str, ...] = ()  # what was left out, or taken as something else
    valid: bool = False  # `validation_error` found nothing


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
    """Say whether a CIF block lists atoms: published files have blocks of text, and lists of question marks."""
    for tag in ("_atom_site_fract_x", "_atom_site_label", "_atom_site_Cartn_x"):
        column = block.find_values(tag)
        if len(column):
            return column[0] not in NULLS or any(plain(value) not in NULLS for value in column)
    return False


def read_block(block: "gemmi_cif.Block", *, rare: bool = True) -> Crystal:
    """The structure of one CIF block; `rare` tells whether it may hold unusual tags (see `blocks_with_atoms`).

    `UncertainError` is raised where gemmi cannot be certain of it, and a `ValueError` in words where it is wrong.
    """
    if rare:
        refuse_unsupported(block)
    matrix = cell_of(block)
    notes: list[str] = []
    sites = _sites(block, notes)
    symmetry = symmetry_of(block, matrix, rare=rare)
    if symmetry.note is not None:
        notes.append(symmetry.note)
    if symmetry.doubt is None and len(symmetry.readings) == 1:
        crystal, reason = _generated(block, sites, symmetry.readings[0].operations, matrix)
        if reason is not None:
            listed = _as_listed(block, sites, symmetry, matrix) if symmetry.readings[0].operations else None
            if listed is None:
                raise RefusedError(reason)
            notes.append("every atom is listed: the symmetry operations are left out")
            crystal = listed
    elif symmetry.doubt is None:
        crystal = _of_likelier_origin(block, sites, symmetry, matrix)
    else:
        crystal = _settled(block, sites, symmetry, matrix, notes)
    if notes:
        crystal = crystal._replace(notes=(*notes, *crystal.notes))
    return crystal


def _generated(
    block: "gemmi_cif.Block", sites: Sites, operations: Operations | None, matrix: Floats
) -> tuple[Crystal, str | None]:
    """The atoms that the operations generate, and what is wrong with them."""
    contents = Contents(block, symmetric=operations is not None)
    if operations is None:
        crystal = _assemble(sites, sites.frac, None, matrix)
        return crystal, contents_problem(contents, crystal.atoms)
    rotations, translations, _ = operations
    frac, owner = expand(sites.frac, rotations, translations)
    crystal = _assemble(sites, frac, owner, matrix)
    reason = contents_problem(contents, crystal.atoms) or validation_error(crystal.atoms, crystal.site_names)
    if reason is not None and formula_elements(block):
        # coordinates of few digits, perhaps: images that should be one atom, if the formula says so
        near, near_owner = merge_near(sites.frac, rotations, translations, matrix)
        if len(near) < len(frac):
            merged = _assemble(sites, near, near_owner, matrix)
            if contents_problem(contents, merged.atoms) is None and validation_error(merged.atoms) is None:
                return merged._replace(notes=("images of one site within 0.1 Å are taken as one atom",)), None
    return crystal._replace(valid=reason is None), reason


def _of_likelier_origin(block: "gemmi_cif.Block", sites: Sites, symmetry: StatedSymmetry, matrix: Floats) -> Crystal:
    """The structure by that choice of origin which gives what the file states and no overlaps, if just one does."""
    results = [
        (*_generated(block, sites, reading.operations, matrix), _multiplicity_problem(block, sites.frac, reading))
        for reading in symmetry.readings
    ]
    good = [crystal for crystal, reason, other in results if reason is None and other is None]
    if len(good) > 1:
        good = [crystal for crystal in good if is_confirmed_by(block, crystal.atoms)]
    if len(good) == 1:
        return good[0]
    name = symmetry.readings[0].label.partition(":")[0]
    if not any(reason is None and other is None for _, reason, other in results):
        listed = _as_listed(block, sites, symmetry, matrix)
        if listed is None:
            raise RefusedError(results[0][1] or results[0][2] or f"no choice of origin of {name} gives what is stated")
        return listed
    raise RefusedError(
        f"names the space group {name} without its operations; it has two choices of origin, both possible: "
        f"write {' or '.join(reading.label for reading in symmetry.readings)}, or the operations"
    )


def _multiplicity_problem(block: "gemmi_cif.Block", frac: Floats, reading: Reading) -> str | None:
    """Why the numbers of atoms that a reading makes of the sites are not the stated multiplicities, or None."""
    for tag in ("_atom_site_symmetry_multiplicity", "_atom_site_site_symmetry_multiplicity"):
        texts = [plain(text) for text in block.find_values(tag)]
        if len(texts) == len(frac) and all(text.isdigit() for text in texts) and reading.operations is not None:
            owner = expand(frac, *reading.operations[:2])[1]
            if np.bincount(owner, minlength=len(frac)).tolist() != [int(text) for text in texts]:
                return f"its sites do not have the stated multiplicities by {reading.label}"
    return None


def _settled(
    block: "gemmi_cif.Block", sites: Sites, symmetry: StatedSymmetry, matrix: Floats, notes: list[str]
) -> Crystal:
    """The structure of a block that contradicts itself, if what else it states leaves one reading."""
    good = []
    for reading in symmetry.readings:
        crystal, reason = _generated(block, sites, reading.operations, matrix)
        reason = reason or validation_error(crystal.atoms, crystal.site_names)
        if reason is None and is_confirmed_by(block, crystal.atoms):
            good.append((crystal, reading))
    if len(good) == 1:
        notes.append(f"{symmetry.doubt}; its formula and Z are those by {good[0][1].label}, which is taken")
        return good[0][0]
    listed = _as_listed(block, sites, symmetry, matrix)
    if listed is None:
        raise RefusedError(str(symmetry.doubt))
    notes.append(f"{symmetry.doubt}; the list of atoms has that symmetry already, and is taken as it is")
    return listed


def _as_listed(block: "gemmi_cif.Block", sites: Sites, symmetry: StatedSymmetry, matrix: Floats) -> Crystal | None:
    """The atoms as they are listed, if they have the symmetry that the block states: then none is missing."""
    crystal, reason = _generated(block, sites, None, matrix)
    if reason or validation_error(crystal.atoms) or symmetry.numbers <= {1} or not symmetry.maybe_whole:
        return None
    try:
        with without_reader_warnings():
            number = symmetry_dataset(matrix, crystal.atoms.get_scaled_positions(), crystal.atoms.numbers).number
    except ValueError:
        return None
    return crystal if symmetry.numbers == {number} else None


def _assemble(sites: Sites, frac: Floats, owner: Ints | None, matrix: Floats) -> Crystal:
    """Atoms in pymatgen's order: by electronegativity, then as in the file, then by symmetry operation."""
    from ase import Atoms

    numbers = np.array(sites.numbers)
    frac = frac - np.floor(frac)
    ranks = rank_by_number()
    keys = [ranks[number] for number in sites.numbers]
    owners: list[int] | Ints
    if sites.charges:
        order = sorted(range(len(keys)), key=lambda k: (keys[k], sites.charges[k]))
    else:
        order = sorted(range(len(keys)), key=keys.__getitem__)
    if owner is None:
        numbers, frac = numbers[order], frac[order]
        owners = order
    else:
        index = np.empty(len(order), dtype=np.int64)
        index[order] = np.arange(len(order))
        by_place = np.argsort(index[owner], kind="stable")
        owners = owner[by_place]
        numbers, frac = numbers[owners], frac[by_place]
    atoms = Atoms(numbers=numbers, positions=frac @ matrix, cell=matrix, pbc=True)
    return Crystal(atoms, lambda: [plain(sites.labels[k]) for k in owners])


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


def cell_of(block: "gemmi_cif.Block") -> Floats:
    """The cell matrix."""
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
    return lattice_matrix(*cell)


def _sites(block: "gemmi_cif.Block", notes: list[str]) -> Sites:
    """The rows of the atom list that hold an atom."""
    x, y, z, types, labels, occupancies = columns(block, _SITE)
    n = len(x)
    if not n and not y and not z:
        if len(block.find_values("_atom_site_Cartn_x")):
            raise RefusedError("gives Cartesian coordinates only (_atom_site_Cartn_x); fractional ones are needed")
        raise RefusedError("lists atoms without fractional coordinates (_atom_site_fract_x, _y, _z)")
    if types and types[0] in NULLS and all(plain(value) in NULLS for value in types):
        types = []
    if not types and not labels:
        raise RefusedError("has neither _atom_site_type_symbol nor _atom_site_label: the elements are unknown")
    if any(len(column) not in (0, n) for column in (types, labels, occupancies)) or not len(y) == len(z) == n:
        raise RefusedError("the columns of its atom list differ in length")
    kept = occupied_rows(labels or types, types or labels, occupancies, (x, y, z), notes)
    if kept is not None:
        x, y, z, types, labels = ([column[i] for i in kept] if column else [] for column in (x, y, z, types, labels))
        if not x:
            raise RefusedError("has no atoms: every site is empty (occupancy 0)")
    charged = bool(types) and len(block.find_values("_atom_type_oxidation_number")) > 0
    names = labels or types
    numbers = _elements(block, types, names)
    return Sites(numbers, types if charged else [], coordinates(x, y, z, names), names)


def columns(block: "gemmi_cif.Block", tags: Sequence[str]) -> list[list[str]]:
    """The values of each tag; those of the loop of the first one taken all at once, which is quicker."""
    loop = block.find_loop(tags[0]).get_loop()
    if loop is None:
        return [[*block.find_values(tag)] for tag in tags]
    values, width = loop.values, loop.width()
    columns = {tag.lower(): k for k, tag in reversed([*enumerate(loop.tags)])}
    return [values[columns[tag] :: width] if tag in columns else [*block.find_values(tag)] for tag in tags]


def _elements(block: "gemmi_cif.Block", types: list[str], labels: list[str]) -> list[int]:
    """Atomic numbers by type symbols, by labels where there are none."""
    table = numbers_by_symbol()
    if types:
        try:
            return [table[symbol] for symbol in types]
        except KeyError:
            if "TM" in types and "Tm" not in (formula_elements(block) or ()):  # a transition metal, no thulium
                raise RefusedError(
                    "unknown element 'TM'; write thulium as Tm, and any other metal by its symbol"
                ) from None
            return [_element(plain(symbol), plain(label)) for symbol, label in zip(types, labels, strict=True)]
    formula = formula_elements(block)
    return [element_of_label(plain(label), formula) for label in labels]


def _element(symbol: str, label: str) -> int:
    try:
        return element_of_symbol(symbol)
    except RefusedError as error:
        raise RefusedError(f"{error} (the site {label})" if label != symbol else str(error)) from None


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
    # 0.3333 is 1/3, lest an atom on a special position and its image be two; and so are 0.333, 0.666 and 0.667
    thirds = frac * 3
    for whole in (1.0, 2.0):
        away = np.abs(thirds - whole)
        near = away <= 3 * 0.00067
        if near.any():
            thousand = frac * 1000
            near &= (away <= whole * FRACTION_TOLERANCE) | (np.abs(thousand - np.rint(thousand)) < 1e-6)
            frac[near] = whole / 3
    return frac


def with_operations(block: "gemmi_cif.Block", *, rare: bool = True) -> str:
    """The text of a block that lists the symmetry operations of the space group that it names, for other readers.

    A space group that is not understood, or contradicts the cell, is a `RefusedError`.
    """
    from gemmi import cif as gemmi_cif

    if any(len(block.find_values(tag)) for tag in OPERATION_TAGS) or None in [value_of(block, tag) for tag in _CELL]:
        return block.as_string()
    symmetry = symmetry_of(block, cell_of(block), rare=rare)
    if symmetry.doubt is not None:
        raise RefusedError(symmetry.doubt)
    if len(symmetry.readings) > 1:
        names = " or ".join(reading.label for reading in symmetry.readings)
        raise RefusedError(f"has two choices of origin: write {names}, or the operations")
    if symmetry.readings[0].operations is None:
        return block.as_string()
    copy = gemmi_cif.read_string(block.as_string()).sole_block()
    loop = copy.init_loop("_symmetry_equiv_pos_", ["as_xyz"])
    loop.set_all_values([[f"'{text}'" for text in triplets(symmetry.readings[0].operations)]])
    return copy.as_string()
