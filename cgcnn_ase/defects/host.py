"""The crystal or layer that gets defects: checked, named, with its vacuum and its equivalent sites found."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from cgcnn_ase.core.arrays import Floats, Ints
from cgcnn_ase.core.elements import symbols
from cgcnn_ase.structures.inputs import from_object
from cgcnn_ase.structures.record import StructureError
from cgcnn_ase.structures.space_groups import orbits, symmetry_dataset
from cgcnn_ase.structures.validation import completed_cell, heights_and_inverse

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure


# a gap between the atoms wider than this, along one cell vector, is a vacuum, Å
VACUUM = 6.0
# room put around a layer in a direction that is not periodic, Å
_ROOM = 20.0

# a site of the infinite crystal: what is done there, site of the host, and cell
Member = tuple[str, int, int, int, int]


@dataclass(frozen=True)
class Host:
    """A checked host."""

    atoms: "Atoms"  # the host, without calculator and constraints
    name: str  # what the manifests call it
    vacuum: tuple[bool, bool, bool]  # for each cell vector whether a vacuum, or nothing at all, lies along it
    cell: Floats  # (3, 3) Å, periodic in all directions: where the host is not, with room around it

    @cached_property
    def sha256(self) -> str:
        """See `host_hash`."""
        return host_hash(self.atoms)

    @cached_property
    def frac(self) -> Floats:
        """(N, 3) positions in `cell`."""
        return np.asarray(self.atoms.positions @ np.linalg.inv(self.cell), dtype=np.float64)

    @cached_property
    def elements(self) -> tuple[str, ...]:
        """Its elements in order of appearance."""
        return tuple(dict.fromkeys(self.atoms.get_chemical_symbols()))

    def chosen(self, elements: Iterable[str] | None) -> tuple[str, ...]:
        """The elements asked for, all by default; a `ValueError` names those of the host where one is not in it."""
        asked = self.elements if elements is None else tuple(dict.fromkeys(elements))
        for symbol in asked:
            if symbol not in self.elements:
                raise ValueError(f"{self.name} has no {symbol}; its elements are {', '.join(self.elements)}")
        if not asked:
            raise ValueError(f"no element is given; those of {self.name} are {', '.join(self.elements)}")
        return asked


def check_host(host: "Atoms | Structure", name: str = "host") -> Host:
    """Check a host: a crystal, layer or wire; a pymatgen ``Structure`` is taken, too.

    A `StructureError` with its name says that it is a molecule, has partially occupied sites, or fails `check_atoms`.
    """
    atoms = from_object(host, source=name)
    if _partially_occupied(atoms):
        raise StructureError(
            name,
            "has partially occupied sites; order it first: read_structures(..., order_disordered=True), "
            "on the command line --order-disordered",
        )
    if not atoms.pbc.any():
        raise StructureError(name, "is periodic in no direction; defects are made in crystals, layers and wires")
    atoms.set_constraint()
    vacuum, cell = _vacuum(atoms)
    return Host(atoms, name, vacuum, cell)


def check_elements(names: Iterable[str], what: str) -> tuple[str, ...]:
    """Return element symbols, each once; a `ValueError` names one that is no element."""
    elements = tuple(dict.fromkeys(names))
    for name in elements:
        if name not in symbols()[1:]:
            raise ValueError(f"{what} {name!r}: is no symbol of an element (Li, Mg, ...)")
    return elements


def host_hash(atoms: "Atoms") -> str:
    """sha256 of elements, periodic directions, cell and positions to 0.001 Å, which a round trip to a file keeps."""
    digest = hashlib.sha256()
    digest.update(np.asarray(atoms.numbers, dtype="<i8").tobytes())
    digest.update(np.asarray(atoms.pbc, dtype=np.uint8).tobytes())
    for lengths in (atoms.cell.array, atoms.positions):
        digest.update(np.rint(np.asarray(lengths) * 1000).astype("<i8").tobytes())
    return digest.hexdigest()


def _partially_occupied(atoms: "Atoms") -> bool:
    """True where ASE's CIF reader noted partial occupancies, of which it keeps the main element only."""
    occupancy = atoms.info.get("occupancy")
    if not isinstance(occupancy, dict):
        return False
    return any(len(site) > 1 or min(site.values(), default=1) < 1 - 1e-8 for site in occupancy.values())


def _vacuum(atoms: "Atoms") -> tuple[tuple[bool, bool, bool], Floats]:
    """Along which vectors there is vacuum, and the cell with room in the directions that are not periodic."""
    cell = np.array(completed_cell(atoms.cell.array, atoms.pbc), dtype=np.float64)
    for axis in np.flatnonzero(~atoms.pbc):
        along = atoms.positions @ (cell[axis] / np.linalg.norm(cell[axis]))
        cell[axis] *= (np.ptp(along) + _ROOM) / np.linalg.norm(cell[axis])
    heights = heights_and_inverse(cell)[0]
    frac = (atoms.positions @ np.linalg.inv(cell)) % 1.0
    gaps = [largest_gap(frac[:, axis])[0] * heights[axis] for axis in range(3)]
    a, b, c = (bool(not periodic or gap > VACUUM) for periodic, gap in zip(atoms.pbc, gaps, strict=True))
    if a and b and c:  # a crystal of few, large and distant atoms or molecules has no vacuum to spare
        return (False, False, False), cell
    return (a, b, c), cell


def largest_gap(fractions: Floats) -> tuple[float, float]:
    """The widest gap between fractional coordinates on a circle of length 1, and where it ends.

    >>> largest_gap(np.array([0.1, 0.3, 0.9]))
    (0.6000000000000001, 0.9)
    """
    ordered = np.sort(fractions % 1.0)
    gaps = np.diff(ordered, append=ordered[0] + 1.0)
    widest = int(np.argmax(gaps))
    return float(gaps[widest]), float(ordered[(widest + 1) % len(ordered)])


@dataclass(frozen=True)
class Symmetry:
    """Space group operations of a host and what they do to its sites."""

    orbit: Ints  # (N,) index of the first site equivalent to each in the crystal
    wyckoff: tuple[str, ...]  # Wyckoff letter of each site
    # rotations, translations: (M, 3, 3) and (M, 3), on fractional coordinates; centring translations are among them.
    # Those of the host's cell: fewer than those of the crystal where the shape of a supercell breaks its symmetry
    rotations: Ints
    translations: Floats
    frac: Floats  # (N, 3) the sites

    @cached_property
    def multiplicity(self) -> Ints:
        """(N,) number of sites equivalent to each, itself among them."""
        return np.bincount(self.orbit, minlength=len(self.orbit))[self.orbit]

    def representatives(self) -> list[int]:
        """The first site of each orbit."""
        return [int(site) for site in np.unique(self.orbit)]

    @cached_property
    def site_images(self) -> tuple[Ints, Ints]:
        """Images of the sites under each operation: (M, N) sites, (M, N, 3) cells; two on one are a `ValueError`."""
        moved = np.einsum("mij,nj->mni", self.rotations, self.frac) + self.translations[:, None]
        sites = np.empty(moved.shape[:2], dtype=np.int64)
        cells = np.empty(moved.shape, dtype=np.int64)
        for m, places in enumerate(moved):
            delta = places[:, None] - self.frac[None]
            whole = np.rint(delta)
            best = np.abs(delta - whole).max(axis=2).argmin(axis=1)
            rows = np.arange(len(best))
            if len(np.unique(best)) != len(best):
                raise ValueError("a symmetry operation takes two sites to one; the structure is too distorted")
            sites[m], cells[m] = best, whole[rows, best].astype(np.int64)
        return sites, cells

    def group_images(self, members: Iterable[Member]) -> set[tuple[Member, ...]]:
        """The groups of sites, by `translated` names, that symmetry makes equal to one: as many as in a cell."""
        group = list(members)
        sites = np.array([member[1] for member in group])
        shift = np.array([member[2:] for member in group])
        images, cells = self.site_images
        moved = cells[:, sites] + np.einsum("mij,nj->mni", self.rotations, shift)
        return {
            translated([(member[0], s, *t) for member, s, t in zip(group, row, places, strict=True)])
            for row, places in zip(images[:, sites].tolist(), moved.tolist(), strict=True)
        }


def translated(members: Iterable[Member]) -> tuple[Member, ...]:
    """The group of sites moved by whole cells so that its name does not depend on where it lies."""
    group = list(members)
    result = []
    for _, _, a, b, c in group:
        result.append(tuple(sorted((label, site, x - a, y - b, z - c) for label, site, x, y, z in group)))
    return min(result)


def find_symmetry(host: Host) -> Symmetry:
    """The symmetry of a host, by spglib; a `ValueError` if there is none."""
    try:
        data = symmetry_dataset(host.cell, host.frac, host.atoms.numbers)
    except ValueError as error:
        raise ValueError(f"{host.name}: {error}") from error
    return Symmetry(
        orbit=orbits(data),
        wyckoff=tuple(data.wyckoffs),
        rotations=np.asarray(data.rotations, dtype=np.int64),
        translations=np.asarray(data.translations, dtype=np.float64),
        frac=host.frac,
    )
