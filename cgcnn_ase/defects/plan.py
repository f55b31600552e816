"""Plan of a defect, that is its changes at sites of the host, and the builder that carries it out."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cgcnn_ase.core.arrays import Ints
from cgcnn_ase.core.elements import symbols
from cgcnn_ase.defects.host import Host
from cgcnn_ase.defects.manifest import Manifest, generator_name
from cgcnn_ase.defects.supercell import Supercell
from cgcnn_ase.structures import to_structure

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure


class Defect(NamedTuple):
    """A defective supercell; ``atoms.info`` holds the manifest, too."""

    atoms: "Atoms"
    manifest: Manifest

    @property
    def structure(self) -> "Structure":
        """The supercell as a pymatgen ``Structure``, the manifest among its properties."""
        return to_structure(self.atoms)


class Change(NamedTuple):
    """An atom taken away, replaced or put in."""

    name: str  # ``v_Li``, ``Ni_Li`` or ``Li_i``
    # removed, added: element symbols; empty where nothing is
    removed: str = ""
    added: str = ""
    site: int | None = None  # of the host; None for an interstitial
    cell: tuple[int, ...] = (0, 0, 0)  # of the host, in units of its vectors
    position: tuple[float, ...] = ()  # of an interstitial in the cell at the origin, Å


class Plan(NamedTuple):
    """One or more changes, and how often they occur in the host cell."""

    kind: str
    defect: str
    changes: tuple[Change, ...]
    multiplicity: int
    wyckoff: str = ""
    distance: float | None = None


def vacancy(element: str, site: int, cell: tuple[int, ...] = (0, 0, 0)) -> Change:
    """An atom taken away."""
    return Change(f"v_{element}", element, "", site, cell)


def replacement(old: str, new: str, site: int, cell: tuple[int, ...] = (0, 0, 0)) -> Change:
    """An atom of another element on a site."""
    return Change(f"{new}_{old}", old, new, site, cell)


class DefectBuilder:
    """Makes planned defects in one supercell; numbers those of one name. The seed is for manifests of chance."""

    def __init__(self, host: Host, supercell: Supercell, *, seed: int | None = None) -> None:
        self.host, self.supercell, self.seed = host, supercell, seed
        self.used: dict[str, int] = {}
        self.generator = generator_name()
        self.matrix = tuple(map(int, supercell.matrix.ravel()))

    def make(self, plan: Plan) -> Defect:
        """The defective supercell; a plan that empties it is a `ValueError`."""
        atoms = self.supercell.atoms.copy()
        numbers = atoms.numbers
        sites, gone, positions = [], [], []
        for change in plan.changes:
            if change.site is None:
                positions.append(np.asarray(change.position) + np.asarray(change.cell) @ self.host.cell)
                continue
            index = self.supercell.index(change.site, change.cell)
            sites.append(index)
            positions.append(atoms.positions[index])
            if change.added:
                numbers[index] = _number(change.added)
            else:
                gone.append(index)
        first = tuple(float(x) for x in np.round(positions[0], 6)) if positions else ()
        put_in = [(change, p) for change, p in zip(plan.changes, positions, strict=True) if change.site is None]
        if gone:
            if len(gone) >= len(atoms):
                raise ValueError(
                    f"{plan.defect}: the supercell of {self.host.name} has {_atoms(len(atoms))}, none would be left; "
                    "take a larger supercell"
                )
            del atoms[gone]
        if put_in:
            atoms.extend(
                type(atoms)(numbers=[_number(change.added) for change, _ in put_in], positions=[p for _, p in put_in])
            )
        return Defect(atoms, self._describe(atoms, plan, sites, first))

    def _describe(self, atoms: "Atoms", plan: Plan, sites: list[int], position: tuple[float, ...]) -> Manifest:
        count = self.used.get(plan.defect, 0)
        self.used[plan.defect] = count + 1
        manifest = Manifest(
            id=f"{self.host.name}-{plan.defect}-{count}",
            host=self.host.name,
            host_sha256=self.host.sha256,
            kind=plan.kind,
            defect=plan.defect,
            site_index=plan.changes[0].site,
            sites=tuple(sites),
            position=position,
            removed=tuple(change.removed for change in plan.changes if change.removed),
            added=tuple(change.added for change in plan.changes if change.added),
            wyckoff=plan.wyckoff,
            multiplicity=plan.multiplicity,
            supercell=self.matrix,
            image_distance=round(self.supercell.image_distance, 6),
            distance=None if plan.distance is None else round(plan.distance, 6),
            seed=self.seed,
            generator=self.generator,
            formula=_formula(atoms.numbers),
            n_atoms=len(atoms),
        )
        atoms.info.update(manifest.to_info())
        return manifest


def _number(symbol: str) -> int:
    return symbols().index(symbol)


def _formula(numbers: Ints) -> str:
    """Elements in alphabetical order, as `Atoms.get_chemical_formula` has it without carbon, at a tenth of its time."""
    counts = np.bincount(numbers)
    names = symbols()
    result = sorted((names[z], int(counts[z])) for z in np.flatnonzero(counts))
    return "".join(f"{name}{count if count > 1 else ''}" for name, count in result)


def _atoms(count: int) -> str:
    return "one atom" if count == 1 else f"{count} atoms"
