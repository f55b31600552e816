"""Symmetry of a CIF block: what it states, and the operations that this can mean."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cgcnn_ase.core.arrays import Floats, Ints
from cgcnn_ase.structures.cif_values import NULLS, UncertainError, first_value, plain
from cgcnn_ase.structures.record import RefusedError, without_reader_warnings
from cgcnn_ase.structures.space_groups import (
    Operations,
    Setting,
    metric_change,
    operations,
    settings_by_hall,
    settings_by_name,
    settings_by_number,
    transformed,
    with_averaging,
)

if TYPE_CHECKING:
    import gemmi
    from gemmi import cif as gemmi_cif

# operations in a cell of any space group, that of a cell of a few primitive ones included
MOST_OPERATIONS = 800
# operations fit a cell whose metric tensor they change by less than this (0.7 degrees in an angle, 0.6 % in a length)
METRIC = 0.012
# of settings that fit, those are looked at that fit as well as the best
_AS_WELL = 1e-3

OPERATION_TAGS = (
    "_symmetry_equiv_pos_as_xyz",
    "_space_group_symop_operation_xyz",
    "_symmetry_equiv_pos_as_xyz_",
    "_space_group_symop_operation_xyz_",
)
_NAMES = ("_symmetry_space_group_name_H-M", "_space_group_name_H-M_alt", "_symmetry_space_group_name_H_M")
_NUMBERS = ("_space_group_IT_number", "_symmetry_Int_Tables_number")
_HALL = ("_space_group_name_Hall", "_symmetry_space_group_name_Hall")
# other tags that state a space group, and tags of these words that state something else
_OTHER = re.compile(r"space_?group|symmetry|symop|spacegroup|spgr")
_NOT_A_GROUP = re.compile(
    r"^_(parent|geom|atom|hbond|publ|refine|refln|diffrn|exptl|journal|audit)|magn|ssg|transform|crystal_system|cell_setting|site_id|_id$|"
    r"multiplicity|wyckoff|details|origin|reference_setting|bravais|laue|patterson|point_group|asym|generator|_code$|"
    r"centring|sg_symbol_|equiv_pos_as_xyz|symop_operation_xyz|entry|tolerance|method|program"
)
_UNKNOWN_WORDS = ("unknown", "none", "n/a", "na", "not given", "not determined", "0")
# bases in which the sites of a centred or hexagonal cell are sometimes listed, in columns
_BASES = (
    ((0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (0.5, 0.5, 0.0)),  # F
    ((-0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.5, 0.5, -0.5)),  # I
    ((0.5, 0.5, 0.0), (-0.5, 0.5, 0.0), (0.0, 0.0, 1.0)),  # C
    ((0.5, -0.5, 0.0), (0.5, 0.5, 0.0), (0.0, 0.0, 1.0)),  # C
    ((1.0, 0.0, 0.0), (0.0, 0.5, -0.5), (0.0, 0.5, 0.5)),  # A
    ((2 / 3, -1 / 3, -1 / 3), (1 / 3, 1 / 3, -2 / 3), (1 / 3, 1 / 3, 1 / 3)),  # R
    ((1.0, 1.0, 0.0), (0.0, 2.0, 0.0), (0.0, 0.0, 1.0)),  # orthohexagonal, b = √3 a
    ((2.0, 0.0, 0.0), (1.0, 1.0, 0.0), (0.0, 0.0, 1.0)),  # orthohexagonal, a = √3 b
    ((1.0, 1.0, 0.0), (-1.0, 1.0, 0.0), (0.0, 0.0, 1.0)),  # a doubled square
)


class Reading(NamedTuple):
    """Operations that what a block states can mean (None: the identity alone)."""

    label: str
    operations: Operations | None


class StatedSymmetry(NamedTuple):
    """The symmetry that a block states, as far as it is understood."""

    readings: tuple[Reading, ...]  # equally likely
    doubt: str | None = (
        None  # what contradicts what, in words: only the rest of the file can say that a reading is right
    )
    numbers: frozenset[int] = frozenset()  # of the space groups that are stated
    note: str | None = None  # what was taken as something else, in words
    maybe_whole: bool = True  # the list may hold all atoms already, and no operation be needed


class _Statement(NamedTuple):
    """The space group that a block states."""

    settings: tuple[Setting, ...]  # that it can be, the likeliest first
    numbers: frozenset[int]
    words: str
    doubt: str | None
    by_name: bool


def symmetry_of(block: "gemmi_cif.Block", matrix: Floats, *, rare: bool = True) -> StatedSymmetry:
    """The symmetry that a block with this cell, (3, 3) Å, states; `rare` tells whether unusual tags may state it.

    A space group that is stated and not understood is a `RefusedError`, never the identity alone.
    """
    for tag in OPERATION_TAGS:
        triplets = [plain(value) for value in block.find_values(tag)]
        if triplets and any(text not in ("?", ".", "") for text in triplets):
            if any(text.count(",") != 2 for text in triplets):  # x, y, z without quotes, in three words
                parts = [part for part in ",".join(triplets).replace(" ", "").split(",") if part]
                triplets = [",".join(parts[k : k + 3]) for k in range(0, len(parts), 3)]
            return _of_operations(tuple(triplets), block, matrix, rare=rare)
    return _of_statement(_stated(block, every=True), matrix)


def _stated(block: "gemmi_cif.Block", *, every: bool) -> _Statement:
    """The space group that the tags of a block state; `every` looks through all tags."""
    names = [text for tag in _NAMES if (text := first_value(block, (tag,)))]
    texts = [text for tag in _NUMBERS if (text := first_value(block, (tag,)))]
    halls = [text for tag in _HALL if (text := first_value(block, (tag,)))] if every else []
    if every:
        _look_through(block, names, texts, halls)
    return _understood(tuple(dict.fromkeys(names)), tuple(dict.fromkeys(texts)), tuple(dict.fromkeys(halls)))


def _look_through(block: "gemmi_cif.Block", names: list[str], texts: list[str], halls: list[str]) -> None:
    """Add the values of tags that are not the usual ones."""
    usual = {tag.lower() for tag in (*_NAMES, *_NUMBERS, *_HALL, *OPERATION_TAGS)}
    for item in block:
        loop: gemmi_cif.Loop | None = getattr(item, "loop", None)
        tags = [str(item.pair[0])] if isinstance(item.pair, list | tuple) else [] if loop is None else loop.tags
        for tag in map(str.lower, tags):
            if tag in usual or not _OTHER.search(tag) or _NOT_A_GROUP.search(tag):
                continue
            if "schoenflies" in tag and (names or texts or halls):  # it says less than they do
                continue
            value = next(map(plain, block.find_values(tag)), "")
            if value not in NULLS:
                (halls if "hall" in tag else texts if "number" in tag or "it_num" in tag else names).append(value)


@lru_cache(maxsize=512)
def _understood(all_names: tuple[str, ...], all_texts: tuple[str, ...], all_halls: tuple[str, ...]) -> _Statement:
    names, texts, halls = (
        [text for text in listed if text.lower() not in _UNKNOWN_WORDS] for listed in (all_names, all_texts, all_halls)
    )
    kinds = (("the space group", names), ("the number", texts), ("the Hall symbol", halls))
    words = " and ".join(f"{kind} {text}" for kind, listed in kinds for text in listed)
    results = [(text, settings_by_hall(text) or settings_by_name(text)) for text in halls]
    results += [(text, settings_by_name(text)) for text in names]
    results += [(text, settings_by_number(int(text)) if text.isdigit() else settings_by_name(text)) for text in texts]
    unknown = [text for text, settings in results if not settings]
    settings = next((settings for _, settings in results if settings), ())
    for _, others in results:  # a Hall symbol or a second name says more than a first
        settings = tuple(s for s in settings if s in others) or settings
    numbers = frozenset(s[0].number for _, s in results if s)
    doubt = None
    if len(numbers) > 1:
        doubt = f"states {words}, which contradict each other"
        settings = tuple(dict.fromkeys(s[0] for _, s in results if s))
    elif unknown:
        doubt = f"states a space group that is not understood ({', '.join(unknown)})"
    return _Statement(settings, numbers, words, doubt, bool(names or halls))


def _of_statement(stated: _Statement, matrix: Floats) -> StatedSymmetry:
    """The operations of a space group that is only named, in the setting that fits the cell."""
    if not stated.words:
        return StatedSymmetry((Reading("P 1", None),))
    if not stated.settings:
        raise RefusedError(
            f"{stated.doubt}, and lists no operations; give its Hermann-Mauguin or Hall symbol, its number, or the "
            "operations"
        )
    if len(stated.numbers) > 1:
        fitting = [s for s in stated.settings if metric_change(operations(s), matrix) <= METRIC]
        return StatedSymmetry(tuple(_reading(s) for s in fitting), stated.doubt, stated.numbers)
    fitting = _fitting(stated.settings, matrix)
    note = None
    if not fitting:
        fitting = _fitting(settings_by_number(stated.settings[0].number), matrix)
        if not fitting:
            return _of_other_basis(stated, matrix)
        note = f"{stated.words} does not fit the cell: {fitting[0].label}, which does, is taken"
        if len({s.name for s in fitting}) > 1:
            doubt = f"states {stated.words}, which does not fit its cell"
            return StatedSymmetry(tuple(map(_reading, fitting)), doubt, stated.numbers)
    same = {s.hall: s for s in reversed(fitting) if s.name == fitting[0].name}
    readings = [*reversed(same.values())]  # of two origins, say
    if not stated.by_name and len(readings) > 1:  # a number stands for the standard axes
        readings = [s for s in readings if s.choice in ("1", "2")] or readings[:1]
    return StatedSymmetry(tuple(map(_reading, readings)), stated.doubt, stated.numbers, note)


def _reading(setting: Setting) -> Reading:
    group = operations(setting)
    return Reading(setting.label, group if len(group.rotations) > 1 else None)


def _fitting(settings: Sequence[Setting], matrix: Floats) -> list[Setting]:
    """The settings whose operations leave the metric of the cell unchanged, as well as the best of them does."""
    changes = [metric_change(operations(setting), matrix) for setting in settings]
    limit = min(METRIC, min(changes, default=0.0) + _AS_WELL)
    return [setting for setting, change in zip(settings, changes, strict=True) if change <= limit]


def _of_other_basis(stated: _Statement, matrix: Floats) -> StatedSymmetry:
    """Operations in another basis than the setting's, if that fits: what else the file states must agree."""
    readings = []
    for setting in stated.settings[:2]:
        for basis in _BASES:
            other = transformed(operations(setting), np.array(basis))
            if other is not None and metric_change(other, matrix) <= METRIC:
                readings.append(Reading(f"{setting.label} in another basis", other))
                break
    doubt = f"states {stated.words}, whose operations do not fit its cell ({_cell_words(matrix)})"
    return StatedSymmetry(tuple(readings), doubt, stated.numbers)


def _cell_words(matrix: Floats) -> str:
    lengths = np.linalg.norm(matrix, axis=1)
    cosines = (matrix @ matrix.T) / np.outer(lengths, lengths)
    angles = np.degrees(np.arccos(np.clip([cosines[1, 2], cosines[0, 2], cosines[0, 1]], -1, 1)))
    return "a, b, c = {:.4g}, {:.4g}, {:.4g} Å; angles {:.4g}, {:.4g}, {:.4g}°".format(*lengths, *angles)


def _of_operations(
    triplets: tuple[str, ...], block: "gemmi_cif.Block", matrix: Floats, *, rare: bool
) -> StatedSymmetry:
    """The operations that a block lists, compared with the space group that it states and with its cell."""
    stated = _stated(block, every=rare)
    number: int | None
    if len(triplets) == 1 and triplets[0].replace(" ", "").lower() in ("x,y,z", "+x,+y,+z"):
        reading, number, count = Reading("P 1", None), 1, 1
    else:
        parsed = _parse_operations(triplets)
        group = parsed.operations
        number, count = parsed.number, len(group.rotations)
        reading = Reading("the listed operations", group)
        if parsed.doubt is not None:
            whole = _closed(parsed, stated)
            if whole is None:
                doubt = f"lists operations that {parsed.doubt}{_against(stated)}"
                return StatedSymmetry((reading,), doubt, stated.numbers, maybe_whole=False)
            note = f"lists {len(triplets)} of the {len(whole.rotations)} operations of {stated.words}: all are taken"
            return StatedSymmetry((Reading("the listed operations, completed", whole),), None, stated.numbers, note)
        if metric_change(group, matrix) > METRIC:
            doubt = f"lists {count} symmetry operations that do not fit its cell ({_cell_words(matrix)})"
            return StatedSymmetry((), doubt, stated.numbers or frozenset((number,) if number else ()))
        if number is None and stated.numbers:
            number = _number_by_spglib(group, matrix)
    if number is None or all(other == number for other in stated.numbers):
        return StatedSymmetry((reading,), None, stated.numbers)
    listed = f"lists {count} symmetry operation{'s' if count > 1 else ''} (space group number {number})"
    doubt = f"{listed}, which contradicts {_stated_group(stated)}"
    return StatedSymmetry((reading,), doubt, stated.numbers, maybe_whole=count == 1)


def _against(stated: _Statement) -> str:
    return f", and that contradict {_stated_group(stated)}" if stated.settings else ""


def _stated_group(stated: _Statement) -> str:
    if not stated.settings:
        return stated.words
    return f"{stated.words} ({len(operations(stated.settings[0]).rotations)} operations)"


class _Parsed(NamedTuple):
    operations: Operations
    number: int | None
    doubt: str | None
    closed: Operations | None  # the group that the operations generate, where they are none
    closed_number: int | None


@lru_cache(maxsize=256)
def _parse_operations(triplets: tuple[str, ...]) -> _Parsed:
    import gemmi

    try:
        listed = [gemmi.Op(triplet.replace(" ", "").lower()) for triplet in triplets]
    except (RuntimeError, ValueError) as error:
        raise UncertainError(f"a symmetry operation is unusual ({error})") from error
    if any(
        abs(round(float(f"0{d}") * 24) - float(f"0{d}") * 24) > 0.02 for t in triplets for d in re.findall(r"\.\d+", t)
    ):
        raise UncertainError("a translation is no multiple of 1/24")
    distinct = list({op.wrap().triplet(): op for op in listed}.values())
    result: gemmi.SpaceGroup | None = gemmi.find_spacegroup_by_ops(gemmi.GroupOps(distinct))
    if result and len(list(result.operations())) == len(distinct):
        return _Parsed(_matrices(distinct), result.number, None, None, None)
    whole = _generated_group(distinct)
    if whole is None:
        return _Parsed(_matrices(distinct), None, "form no group", None, None)
    generated: gemmi.SpaceGroup | None = gemmi.find_spacegroup_by_ops(gemmi.GroupOps(whole))
    number = generated.number if generated else None
    if len(whole) != len(distinct):
        return _Parsed(_matrices(distinct), None, "form no group (some are missing)", _matrices(whole), number)
    return _Parsed(_matrices(distinct), number, None, None, None)


def _generated_group(distinct: "list[gemmi.Op]") -> "list[gemmi.Op] | None":
    """The operations, in their order, and all products of them; None where they are more than any space group has."""
    den = distinct[0].DEN
    rotations = np.array([op.rot for op in distinct]) // den
    translations = np.array([op.tran for op in distinct]) % den
    key = np.concatenate([3 ** np.arange(9), 3**9 * 25 ** np.arange(3)])

    def keys(rotation: Ints, translation: Ints) -> Ints:
        codes: Ints = np.hstack([rotation.reshape(-1, 9) + 1, translation % den]) @ key
        return codes

    while True:
        known = keys(rotations, translations)
        products = np.einsum("aij,bjk->abik", rotations, rotations).reshape(-1, 3, 3)
        shifts = (np.einsum("aij,bj->abi", rotations, translations) + translations[:, None]).reshape(-1, 3) % den
        new, first = np.unique(keys(products, shifts), return_index=True)
        first = first[~np.isin(new, known)]
        if not len(first):
            break
        if len(first) + len(known) > MOST_OPERATIONS or np.abs(products).max() > 1:
            return None
        rotations = np.concatenate([rotations, products[first]])
        translations = np.concatenate([translations, shifts[first]])
    extra = []
    for rotation, translation in zip(rotations[len(distinct) :], translations[len(distinct) :], strict=True):
        op = type(distinct[0])()
        op.rot, op.tran = (rotation * den).tolist(), translation.tolist()
        extra.append(op)
    return [*distinct, *extra]


def _closed(parsed: _Parsed, stated: _Statement) -> Operations | None:
    """The group that the listed operations generate, if it is the one that the block states."""
    if parsed.closed is None or not stated.settings or stated.numbers != {parsed.closed_number}:
        return None
    same = len(parsed.closed.rotations) == len(operations(stated.settings[0]).rotations)
    # a handful generates groups, too: most must be there, or the file was cut off in their list
    return parsed.closed if same and 4 * len(parsed.operations.rotations) >= len(parsed.closed.rotations) else None


def _number_by_spglib(group: Operations, matrix: Floats) -> int | None:
    """The number of a group in an unusual setting."""
    import spglib

    with without_reader_warnings():
        kind = spglib.get_spacegroup_type_from_symmetry(group.rotations, group.translations, lattice=matrix)
    return None if kind is None else kind.number


def group_problem(triplets: tuple[str, ...]) -> str | None:
    """Why these operations are no space group, or None."""
    return _parse_operations(triplets).doubt


def triplets(group: Operations) -> list[str]:
    """Operations as ``x,y+1/2,z``."""
    import gemmi

    texts = []
    for rotation, translation in zip(group.rotations, group.translations, strict=True):
        op = gemmi.Op()
        op.rot = np.rint(rotation * op.DEN).astype(int).tolist()
        op.tran = np.rint(translation * op.DEN).astype(int).tolist()
        texts.append(op.triplet())
    return texts


def _matrices(listed: "Iterable[gemmi.Op]") -> Operations:
    """Gemmi's operations as arrays."""
    ops = list(listed)
    rotations = np.array([op.rot for op in ops], dtype=np.float64) / ops[0].DEN
    return with_averaging(rotations, np.array([op.tran for op in ops], dtype=np.float64) / ops[0].DEN)
