"""Symmetry operations of a CIF, and the atoms that they generate."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from cgcnn_ase.core.arrays import Floats, Ints
from cgcnn_ase.structures.cif_values import UncertainError, first_value, plain

if TYPE_CHECKING:
    import gemmi
    from gemmi import cif as gemmi_cif

# fractional coordinates nearer than this are the same position (pymatgen's site_tolerance)
SITE_TOLERANCE = 1e-4
# images of one atom nearer than this, Å, may be one atom on a special position given with too few digits
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


class TwoOriginsError(UncertainError):
    """The file names a space group that has two choices of origin, and gives no operations."""

    def __init__(self, name: str, operations: tuple[tuple[Floats, Floats], tuple[Floats, Floats]]) -> None:
        super().__init__(f"{name} has two choices of origin")
        self.name = name
        self.operations = operations


def operations_of(block: "gemmi_cif.Block", cell: Sequence[float]) -> tuple[tuple[Floats, Floats] | None, bool]:
    """Rotations (n, 3, 3) and translations (n, 3), None for the identity; and whether the group says otherwise."""
    name = first_value(block, _NAMES)
    stated = first_value(block, _NUMBERS)
    for tag in _OPERATIONS:
        triplets = [plain(value) for value in block.find_values(tag)]
        if triplets and triplets != ["?"]:
            break
    else:
        return _operations_of_name(name, first_value(block, _HALL), stated, cell), False
    if len(triplets) == 1 and triplets[0].replace(" ", "").lower() in ("x,y,z", "+x,+y,+z"):
        only = (name is None or name.replace(" ", "") == "P1") and stated in (None, "1")
        return None, not only
    rotations, translations, group_number = _parse_operations(tuple(triplets))
    if group_number is not None:
        return (rotations, translations), not _agrees(group_number, name, stated)
    return (rotations, translations), False


def _agrees(group: int, name: str | None, stated: str | None) -> bool:
    """Compare the number of the group that the operations form with the one that the file states."""
    if stated is not None and stated.isdigit() and int(stated) != group:
        return False
    named = _group_by_name(name) if name else None
    return named is None or named == group


@lru_cache(maxsize=256)
def _group_by_name(name: str) -> int | None:
    import gemmi

    group: gemmi.SpaceGroup | None = gemmi.find_spacegroup_by_name(name)
    return None if group is None else group.number


@lru_cache(maxsize=256)
def _parse_operations(triplets: tuple[str, ...]) -> tuple[Floats, Floats, int | None]:
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
    result: gemmi.SpaceGroup | None = gemmi.find_spacegroup_by_ops(group)
    return *_matrices(operations), None if result is None else result.number


def _operations_of_name(
    name: str | None, hall: str | None, stated: str | None, cell: Sequence[float]
) -> tuple[Floats, Floats] | None:
    """Operations of a space group that the file only names; `UncertainError` where the name leaves its origin open."""
    import gemmi

    if name is None and hall is None and stated is None:
        return None
    if hall is not None:
        try:
            group = gemmi.find_spacegroup_by_ops(gemmi.symops_from_hall(hall))
        except (RuntimeError, ValueError):
            group = None
    else:
        if name is None:
            numbered = gemmi.find_spacegroup_by_number(int(stated)) if stated and stated.isdigit() else None
            name = numbered.hm if numbered is not None else str(stated)
        group = gemmi.find_spacegroup_by_name(name, cell[3], cell[5])
    if group is None:
        raise UncertainError(f"space group {hall or name!r} is unknown to gemmi")
    if stated is not None and stated.isdigit() and int(stated) != group.number:
        raise UncertainError("the name and the number of the space group disagree")
    if hall is None and name is not None and group.ext in ("1", "2") and ":" not in name:
        first, second = (gemmi.find_spacegroup_by_name(f"{group.hm}:{choice}") for choice in "12")
        raise TwoOriginsError(group.hm, (_matrices(first.operations()), _matrices(second.operations())))
    return None if len(group.operations()) == 1 else _matrices(group.operations())


def _matrices(operations: "Iterable[gemmi.Op]") -> tuple[Floats, Floats]:
    """Rotations (n, 3, 3) and translations (n, 3) of gemmi's operations."""
    listed = list(operations)
    rotations = np.array([op.rot for op in listed], dtype=np.float64) / listed[0].DEN
    return rotations, np.array([op.tran for op in listed], dtype=np.float64) / listed[0].DEN


def expand(frac: Floats, rotations: Floats, translations: Floats) -> tuple[Floats, Ints]:
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
        site_images = images[site]
        delta = site_images[:, None] - site_images[None]
        delta -= np.rint(delta)
        same = (np.abs(delta) < SITE_TOLERANCE).all(axis=2)
        keep[site] = same.argmax(axis=1) == np.arange(n_ops)
    return images[keep], np.nonzero(keep)[0]


def merge_near(frac: Floats, rotations: Floats, translations: Floats, matrix: Floats) -> tuple[Floats, Ints]:
    """As `expand`, but images of one site within `MERGE` become one atom at their mean: coordinates of few digits."""
    positions, owners = [], []
    for site, site_frac in enumerate(frac):
        images = rotations @ site_frac + translations
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
