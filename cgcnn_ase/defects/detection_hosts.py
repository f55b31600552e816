"""The hosts that the detector of defects learns from: published layers and crystals, and cathode materials."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..data.dataset import read_packed, reduced_formula
from ..data.vacancies import jarvis_vacancies
from ..graphs.geometry import Geometry
from .host import check_host

if TYPE_CHECKING:
    from ase import Atoms

#: most atoms of a layer's primitive cell
LARGEST_LAYER = 6


class NamedHost(NamedTuple):
    """A host, and the reduced formula that keeps it in one split."""

    name: str
    atoms: "Atoms"
    formula: str


def layers(data: Path, *, largest: int = LARGEST_LAYER) -> list[NamedHost]:
    """Layers of 2DMatPedia and of JARVIS in the folders ``2dmatpedia_subset`` and ``jarvis_vacancydb`` of DATA.

    Those of at most ``largest`` atoms in the primitive cell, with a vacuum along exactly one cell vector.
    """
    return [host for host in (*_2dmatpedia(data), *_jarvis(data)) if _is_layer(host, largest)]


def crystals(data: Path, *, largest: int = 8, number: int = 400, seed: int = 0) -> list[NamedHost]:
    """Crystals of the training split of ``mp36k``, of two elements or more and different formulas, drawn at random.

    Those of JARVIS that are no layers come on top.
    """
    import pandas as pd

    folder = data / "mp36k"
    ids, structures = read_packed(folder)
    table = pd.read_csv(folder / "properties.csv.gz", keep_default_na=False, na_values=[""])
    rows = np.flatnonzero(table["split"].to_numpy(dtype=str) == "train")
    found: dict[str, NamedHost] = {}
    for row in np.random.default_rng(seed).permutation(rows).tolist():
        structure = structures[row]
        if 2 <= len(structure.numbers) <= largest and len(set(structure.numbers.tolist())) > 1:
            host = _named(f"mp36k:{ids[row]}", structure)
            found.setdefault(host.formula, host)
        if len(found) == number:
            break
    bulk = [host for host in _jarvis(data) if len(host.atoms) <= largest and not any(_vacuum(host))]
    return [*found.values(), *bulk]


def _2dmatpedia(data: Path) -> Iterator[NamedHost]:
    ids, structures = read_packed(data / "2dmatpedia_subset")
    for name, structure in zip(ids.tolist(), structures, strict=True):
        yield _named(f"2dmatpedia:{name}", structure)


def _jarvis(data: Path) -> Iterator[NamedHost]:
    """Primitive cells of the supercells that vacancies were calculated in."""
    import spglib

    seen = set()
    for host in jarvis_vacancies(data / "jarvis_vacancydb").hosts:
        name = host.id.rpartition("-")[0]
        bulk = host.structure
        frac = bulk.positions @ np.linalg.inv(bulk.cell)
        whole: Any = (bulk.cell, frac, bulk.numbers)
        primitive: Any = spglib.find_primitive(whole, symprec=0.01)
        if primitive is None or name in seen:
            continue
        seen.add(name)
        cell, places, numbers = primitive
        periodic = np.ones(3, dtype=bool)
        yield _named(f"jarvis:{name}", Geometry(np.asarray(numbers, dtype=np.int64), places @ cell, cell, periodic))


def _named(name: str, structure: Geometry) -> NamedHost:
    from ase import Atoms

    atoms = Atoms(structure.numbers, positions=structure.positions, cell=structure.cell, pbc=structure.pbc)
    return NamedHost(name, atoms, reduced_formula(structure.numbers))


def _vacuum(host: NamedHost) -> tuple[bool, bool, bool]:
    return check_host(host.atoms, host.name).vacuum


def _is_layer(host: NamedHost, largest: int) -> bool:
    return len(host.atoms) <= largest and sum(_vacuum(host)) == 1
