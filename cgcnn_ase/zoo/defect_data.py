"""Training data of the pretrained models of defects: vacancy formation energies, and cells to detect defects in.

Of the sets of neutral vacancy formation energies that one model learns together there are

``witman``
    Witman et al., Nat. Comput. Sci. 3, 675 (2023): relaxed vacancies of 16 elements in oxides, PBE+U.
``kumagai``
    Kumagai et al., Phys. Rev. Materials 5, 123803 (2021): oxygen vacancies in oxides without open d shells.
``jarvis``
    Choudhary and Sumpter, AIP Advances 13, 095109 (2023): vacancies in elements and compounds, OptB88vdW.
``chgnet``
    Unrelaxed vacancies of all elements in oxides by the interatomic potential CHGNet, which is not DFT: many and cheap,
    they teach what the published sets are too small for. Made by ``scripts/label_vacancies.py``.

The detectors learn from layers, crystals and cathodes with and without a defect.
"""

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from ase import Atoms

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.core.elements import symbols
from cgcnn_ase.core.errors import DatasetError
from cgcnn_ase.core.targets import Level, TargetSpec
from cgcnn_ase.data.dataset import hash_of_samples, read_packed
from cgcnn_ase.data.graph_store import build_store
from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.data.site_labels import (
    LabelledHost,
    SiteSet,
    labelled_host,
    prepare_sites,
    with_splits,
    without_held_out,
)
from cgcnn_ase.data.splits import group_split
from cgcnn_ase.defects.host import check_host
from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.graphs.crystal_graph import Geometry, geometry
from cgcnn_ase.structures.composition import composition_key
from cgcnn_ase.zoo.detection_cells import DetectionCell, DetectionConfig, cathode_cells, detection_cells, elements_of

# folder, column of the host and column of the energy (eV) of each packed set
_PACKED = {
    "witman": ("oxide_vacancies_witman", "compound_name", "dH_eV"),
    "kumagai": ("oxide_O_vacancies_kumagai", "host", "vacancy_formation_energy"),
}
_JARVIS = "jarvis_vacancydb"

VACANCY_SETS = (*_PACKED, "jarvis", "chgnet")


def load_vacancies(data: Path, labelled: Path) -> list[SiteSet]:
    """Load all sets, each less what another holds out (see :func:`cgcnn_ase.data.site_labels.without_held_out`).

    ``data`` is the folder of the published sets, ``labelled`` what ``scripts/label_vacancies.py`` wrote. A
    `DatasetError` names the file that is missing or cannot be used.
    """
    published = published_vacancies(data)
    others = [jarvis_vacancies(data / _JARVIS), packed_vacancies(labelled, "chgnet", "host", "energy")]
    return without_held_out([*published, *(with_splits(other, published) for other in others)])


def published_vacancies(data: Path) -> list[SiteSet]:
    """The sets that have a split of their own: witman and kumagai."""
    return [packed_vacancies(data / folder, name, *columns) for name, (folder, *columns) in _PACKED.items()]


def packed_vacancies(folder: Path, name: str, host_column: str, value_column: str) -> SiteSet:
    """Hosts of ``structures.npz``, their split in ``properties.csv.gz``, their sites in ``vacancies.csv.gz``."""
    for file in ("structures.npz", "properties.csv.gz", "vacancies.csv.gz"):
        if not (folder / file).exists():
            raise DatasetError(f"{folder / file}: no such file")
    ids, structures = read_packed(folder)
    tables = [
        pd.read_csv(folder / file, keep_default_na=False, na_values=[""], dtype={"split": str})
        for file in ("properties.csv.gz", "vacancies.csv.gz")
    ]
    splits = dict(zip(tables[0].iloc[:, 0].astype(str), tables[0]["split"].fillna(""), strict=True))
    by_host = dict(list(tables[1].groupby(tables[1][host_column].astype(str))))
    hosts = []
    for host, structure in zip(ids.tolist(), structures, strict=True):
        if host in by_host:
            rows = by_host[host].groupby("site_index")[value_column].mean()  # a site calculated twice
            hosts.append(labelled_host(host, structure, rows.index.tolist(), rows.tolist(), splits[host]))
    return SiteSet(name, hosts)


def jarvis_vacancies(folder: Path) -> SiteSet:
    """Hosts and removed sites from pairs of bulk and defective supercells; the set has no split.

    Energies that are not those of a vacancy in the given supercell (several of them for one host and size) are told
    apart by the site that is missing.
    """
    file = folder / "vacancy_db.json.gz"
    if not file.exists():
        raise DatasetError(f"{file}: no such file")
    with gzip.open(file, "rt", encoding="utf-8") as text:
        entries: list[dict[str, Any]] = json.load(text)
    by_host: dict[str, tuple[Geometry, dict[int, list[float]]]] = {}
    for entry in entries:
        bulk = _geometry(entry["bulk_atoms"])
        name = f"{entry['jid']}-{len(bulk.numbers)}"
        structure, energies = by_host.setdefault(name, (bulk, {}))
        site = removed_site(structure, _geometry(entry["defective_atoms"]), entry["symbol"])
        energies.setdefault(site, []).append(float(entry["E_vac"]))
    hosts = [
        labelled_host(name, structure, list(energies), [float(np.mean(e)) for e in energies.values()], "")
        for name, (structure, energies) in by_host.items()
    ]
    return SiteSet("jarvis", hosts)


def removed_site(bulk: Geometry, defective: Geometry, symbol: str) -> int:
    """The atom of the bulk, of this element, that is farthest from all atoms of the defective cell."""
    candidates = np.flatnonzero(bulk.numbers == symbols().index(symbol))
    if not len(candidates):
        raise DatasetError(f"the supercell has no {symbol} to remove")
    inverse = np.linalg.inv(bulk.cell)
    shift = (bulk.positions[candidates, None] - defective.positions[None]) @ inverse
    distances = np.linalg.norm((shift - np.round(shift)) @ bulk.cell, axis=2)
    return int(candidates[distances.min(axis=1).argmax()])


def _geometry(atoms: Mapping[str, Any]) -> Geometry:
    """From the dictionary of a jarvis ``Atoms``."""
    cell: Floats = np.array(atoms["lattice_mat"], dtype=float)
    coords = np.array(atoms["coords"], dtype=float)
    numbers = np.array([symbols().index(element) for element in atoms["elements"]])
    return Geometry(numbers, coords if atoms["cartesian"] else coords @ cell, cell, np.ones(3, dtype=bool))


# by split; NCM811 and LiNiO2 are what the detector is wanted for, and what it does not learn from
CATHODES = {
    "train": (
        "LiCoO2",
        "LiMnO2",
        "LiAlO2",
        "LiMn2O4",
        "NCM111",
        "NCM523",
        "LiNi0.5Mn0.5O2",
        "LiNi0.7Co0.3O2",
        "LiNi0.7Mn0.2Co0.1O2",
    ),
    "val": ("NCM622", "LiNi0.9Mn0.1O2"),
    "test": ("LiNiO2", "NCM811", "NCA"),
}

# whether a cell is defective
IS_DEFECTIVE = TargetSpec(name="is_defective", unit="probability", task="classification")

# whether a site is where the defect is
IS_DEFECT_SITE = TargetSpec(name="is_defect_site", unit="probability", task="classification", level="site")

# most atoms of a layer's primitive cell
LARGEST_LAYER = 6

# two kinds each for every other host, so that an epoch is short
_HALVES = (("vacancy", "antisite"), ("substitution", "interstitial"))

# repeats of a layer without displacements, and of a crystal
_STILL, _CRYSTAL = 6, 2

# repeats of the layers of either half with displacements. The largest of many random deviations grows with their
# number: whoever judges whole cells must have seen large ones, and displaced cathodes; a site is judged by itself
_MOVED: dict[Level, tuple[int, int]] = {"crystal": (6, 3), "site": (3, 3)}

# of the metals of each cathode
_ORDERINGS = 10

# drawn from the Materials Project
_CRYSTALS = 250

# standard deviation of the displacements, Å
RATTLE = 0.04


class NamedHost(NamedTuple):
    """A host, and the reduced formula that keeps it in one split."""

    name: str
    atoms: Atoms
    formula: str


def prepared(data: Path, targets: Sequence[TargetSpec], graph: GraphConfig) -> PreparedData:
    """Prepare graphs and labels of the cells, or of their sites where the target is one of sites.

    ``data`` is the folder of the data sets ``2dmatpedia_subset``, ``jarvis_vacancydb`` and ``mp36k``. A `ValueError` is
    raised for several targets.
    """
    if len(targets) != 1:
        raise ValueError(f"the detection of defects has one target, not {len(targets)}")
    cells, split = training_cells(data, targets[0].level)
    prepare = prepare_places if targets[0].level == "site" else prepare_cells
    return replace(prepare(cells, split, graph), specs=tuple(targets))


def training_cells(data: Path, level: Level) -> tuple[list[DetectionCell], dict[str, str]]:
    """All cells for a target of this level, and the split of each host; no formula of a host is in two splits."""
    names = [name for part in CATHODES.values() for name in part]
    of_cathodes = list(cathode_cells(names, num=_ORDERINGS))
    if level == "crystal":
        of_cathodes += cathode_cells(names, num=_ORDERINGS, rattle=RATTLE, seed=_ORDERINGS)
    flat = layers(data)
    formulas = {host.formula for host in flat}
    formulas |= {composition_key(cell.atoms.numbers) for cell in of_cathodes if not cell.defective}
    solid = [host for host in crystals(data, number=_CRYSTALS) if host.formula not in formulas]
    split = split_hosts(flat) | split_hosts(solid)
    split |= {f"cathode:{name}": part for part, names in CATHODES.items() for name in names}
    return [*_cells(flat, solid, _MOVED[level]), *of_cathodes], split


def _cells(flat: Sequence[NamedHost], solid: Sequence[NamedHost], moved: tuple[int, int]) -> Iterator[DetectionCell]:
    dopants = elements_of(host.atoms for host in (*flat, *solid))
    for hosts, repeats, rattle, first in (
        (flat, (_STILL, _STILL), 0.0, 0),
        (flat, moved, RATTLE, 1),
        (solid, (_CRYSTAL, _CRYSTAL), RATTLE, 0),
        (solid, (_CRYSTAL, _CRYSTAL), 0.0, 1),
    ):
        for half in (0, 1):
            config = DetectionConfig(kinds=_HALVES[(half + first) % 2], supercell=repeats[half], rattle=rattle)
            yield from detection_cells([(h.name, h.atoms) for h in hosts[half::2]], config, dopants=dopants)


def split_hosts(hosts: Sequence[NamedHost], *, val: float = 0.1, test: float = 0.2, seed: int = 0) -> dict[str, str]:
    """The split of each host by name; hosts of one reduced formula are in one split."""
    split = group_split([host.formula for host in hosts], val=val, test=test, seed=seed)
    return {host.name: str(name) for host, name in zip(hosts, split, strict=True)}


def prepare_cells(
    cells: Sequence[DetectionCell], split: Mapping[str, str], graph: GraphConfig, *, workers: int = 1
) -> PreparedData:
    """Graphs of cells with the label whether each is defective, in the split of its host."""
    labels = np.array([[float(cell.defective)] for cell in cells])
    splits = np.array([split[cell.host] for cell in cells])
    train = np.flatnonzero(splits == "train")
    return PreparedData(
        ids=[cell.id for cell in cells],
        targets=labels,
        split=splits,
        graphs=build_store([geometry(cell.atoms) for cell in cells], graph, workers=workers),
        graph_config=graph,
        specs=(IS_DEFECTIVE,),
        train_hash=hash_of_samples([cells[int(k)].id for k in train], labels[train]),
    )


def prepare_places(cells: Sequence[DetectionCell], split: Mapping[str, str], graph: GraphConfig) -> PreparedData:
    """Graphs of cells with the label of each site whether the defect is there: 1 at `DetectionCell.places`, else 0."""
    hosts = []
    for cell in cells:
        labels = np.zeros(len(cell.atoms))
        labels[list(cell.places)] = 1.0
        hosts.append(LabelledHost(cell.id, geometry(cell.atoms), labels, split[cell.host]))
    data = prepare_sites([SiteSet("detection", hosts)], [IS_DEFECT_SITE], graph)
    return replace(data, targets=np.rint(data.targets))  # atoms that share a node have one label, but for rounding


def layers(data: Path, *, largest: int = LARGEST_LAYER) -> list[NamedHost]:
    """Layers of 2DMatPedia and of JARVIS in the folders ``2dmatpedia_subset`` and ``jarvis_vacancydb`` of DATA.

    Those of at most ``largest`` atoms in the primitive cell, with a vacuum along exactly one cell vector.
    """
    small = (host for host in (*_2dmatpedia(data), *_jarvis(data)) if len(host.atoms) <= largest)
    return [host for host in small if sum(_vacuum(host)) == 1]


def crystals(data: Path, *, largest: int = 8, number: int = 400, seed: int = 0) -> list[NamedHost]:
    """Crystals of the training split of ``mp36k``, of two elements or more and different formulas, drawn at random.

    Those of JARVIS that are no layers come on top.
    """
    import pandas as pd

    folder = data / "mp36k"
    ids, structures = read_packed(folder)
    table = pd.read_csv(folder / "properties.csv.gz", keep_default_na=False, na_values=[""])
    rows = np.flatnonzero(table["split"].to_numpy(dtype=str) == "train")
    by_formula: dict[str, NamedHost] = {}
    for row in np.random.default_rng(seed).permutation(rows).tolist():
        structure = structures[row]
        if 2 <= len(structure.numbers) <= largest and len(set(structure.numbers.tolist())) > 1:
            host = _named_host(f"mp36k:{ids[row]}", structure)
            by_formula.setdefault(host.formula, host)
        if len(by_formula) == number:
            break
    bulk = [host for host in _jarvis(data) if len(host.atoms) <= largest and not any(_vacuum(host))]
    return [*by_formula.values(), *bulk]


def _2dmatpedia(data: Path) -> Iterator[NamedHost]:
    ids, structures = read_packed(data / "2dmatpedia_subset")
    for name, structure in zip(ids.tolist(), structures, strict=True):
        yield _named_host(f"2dmatpedia:{name}", structure)


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
        yield _named_host(
            f"jarvis:{name}", Geometry(np.asarray(numbers, dtype=np.int64), places @ cell, cell, periodic)
        )


def _named_host(name: str, structure: Geometry) -> NamedHost:
    atoms = Atoms(structure.numbers, positions=structure.positions, cell=structure.cell, pbc=structure.pbc)
    return NamedHost(name, atoms, composition_key(structure.numbers))


def _vacuum(host: NamedHost) -> tuple[bool, bool, bool]:
    return check_host(host.atoms, host.name).vacuum
