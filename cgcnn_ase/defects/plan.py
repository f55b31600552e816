"""Plan of a defect, that is its changes at sites of the host; the builder that carries it out; and its manifest.

The manifest is the record of how a defect was made: a row of plain values that travels with the structure.
"""

import csv
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from math import inf, isfinite
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, NamedTuple, cast, get_args, get_origin

import numpy as np

from cgcnn_ase.core.arrays import Ints
from cgcnn_ase.core.elements import symbols
from cgcnn_ase.core.environment import package_version
from cgcnn_ase.defects.host import Host
from cgcnn_ase.defects.supercell import Supercell
from cgcnn_ase.structures import to_structure

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

# the key in ``atoms.info``
KEY = "defect"


def generator_name() -> str:
    """Maker of a structure: ``cgcnn_ase`` and its version."""
    return f"cgcnn_ase {package_version()}"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """How a defective structure was made from its host."""

    id: str  # unique among the defects of one host
    # host, host_sha256: name of the host; hash of its elements, cell and positions (to 0.001 Å), see `host_hash`
    host: str
    host_sha256: str
    # ``vacancy``, ``antisite``, ``substitution``, ``interstitial``, ``cation-mixing``, ``complex``,
    # ``random-vacancy``
    kind: str
    defect: str  # ``v_Li``, ``Ni_Li`` (nickel on a lithium site), ``Li_i``, ``Li_Ni+Ni_Li``
    site_index: int | None = None  # the (first) site, counted in the host; None for an interstitial
    # all sites that were emptied or replaced, counted in the supercell before anything was removed
    sites: tuple[int, ...] = ()
    position: tuple[float, ...] = ()  # Cartesian position of the (first) defect in the supercell, Å
    # removed, added: element symbols, one for each atom taken away or put in
    removed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    wyckoff: str = ""  # Wyckoff letter of the (first) site; empty where there is none
    multiplicity: int = 1  # equivalent defects in the host cell (of random vacancies: 1)
    # the supercell's vectors in those of the host, rows after one another
    supercell: tuple[int, ...] = (1, 0, 0, 0, 1, 0, 0, 0, 1)
    image_distance: float = inf  # from the defect to its nearest periodic image, Å, not counting those across a vacuum
    distance: float | None = None  # the largest distance between two sites of a pair or complex, Å
    charge: int = 0  # charge of this structure, in elementary charges
    charges: tuple[int, ...] = ()  # charge states that are likely, guessed; empty where none were asked for
    oxidation_state: int | None = None  # of the defect, guessed; None where none was asked for
    distortion: str = ""  # local distortion in words; empty where there is none
    seed: int | None = None  # of all that is random; None where nothing is
    generator: str = ""  # ``cgcnn_ase`` and its version
    # formula, n_atoms: of the defective supercell
    formula: str = ""
    n_atoms: int = 0

    def to_info(self) -> dict[str, dict[str, Any]]:
        """For ``atoms.info.update``: one key, `KEY`, with plain values that extended XYZ and ASE databases keep."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        plain["image_distance"] = self.image_distance if isfinite(self.image_distance) else None
        return {KEY: plain}

    @classmethod
    def from_info(cls, info: Mapping[str, object]) -> "Manifest":
        """The manifest in ``atoms.info``; none, or one that is not of this package, is a `ValueError`."""
        plain = info.get(KEY)
        if not isinstance(plain, Mapping):
            raise ValueError(f"atoms.info has no {KEY!r}: the structure was not made by cgcnn_ase.defects")
        unknown = sorted(set(plain) - set(COLUMNS))
        missing = sorted({"id", "host", "host_sha256", "kind", "defect"} - set(plain))
        if unknown or missing:
            which = f"unknown {', '.join(unknown)}" if unknown else f"no {', '.join(missing)}"
            raise ValueError(f"atoms.info[{KEY!r}] is no manifest of a defect: {which}")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list | tuple) else value for name, value in plain.items()
        }
        if values.get("image_distance") is None:
            values["image_distance"] = inf
        return cls(**values)

    def to_row(self) -> dict[str, str]:
        """As text for a CSV file: lists with spaces between, nothing for None."""
        return {name: _to_text(value) for name, value in asdict(self).items()}

    @classmethod
    def from_row(cls, row: Mapping[str, str]) -> "Manifest":
        """The inverse of `to_row`."""
        values: dict[str, Any] = {field.name: _from_text(row[field.name], field.type) for field in fields(cls)}
        return cls(**values)


# the columns of ``manifest.csv``
COLUMNS = tuple(field.name for field in fields(Manifest))


def _from_text(text: str, hint: object) -> object:
    """The value of a column from its text, by the type of the field."""
    kinds = get_args(hint) or (hint,)
    read = cast("Callable[[str], object]", kinds[0])
    if get_origin(hint) is tuple:
        return tuple(map(read, text.split()))
    return None if NoneType in kinds and not text else read(text)


def _to_text(value: object) -> str:
    if value is None:
        return ""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def write_manifest(path: str | Path, manifests: Iterable[Manifest]) -> Path:
    """Write ``manifest.csv``, one row a defect, each as soon as it comes."""
    path = Path(path)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for manifest in manifests:
            writer.writerow(manifest.to_row())
    return path


def read_manifest(path: str | Path) -> list[Manifest]:
    """Read what `write_manifest` wrote.

    Raises
    ------
    ValueError
        If a column is missing or a value cannot be read, with the line.
    """
    with Path(path).open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path}: is no manifest of defects: it has no column {', '.join(missing)}")
        manifests = []
        for row in reader:
            try:
                manifests.append(Manifest.from_row(row))
            except (ValueError, TypeError, AttributeError) as error:  # noqa: PERF203 - a line cut off has None for its last columns
                raise ValueError(f"{path}: line {reader.line_num}: {error}") from error
        return manifests


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
