"""The sets of neutral vacancy formation energies that one model learns together.

``witman``
    Witman et al., Nat. Comput. Sci. 3, 675 (2023): relaxed vacancies of 16 elements in oxides, PBE+U.
``kumagai``
    Kumagai et al., Phys. Rev. Materials 5, 123803 (2021): oxygen vacancies in oxides without open d shells.
``jarvis``
    Choudhary and Sumpter, AIP Advances 13, 095109 (2023): vacancies in elements and compounds, OptB88vdW.
``chgnet``
    Unrelaxed vacancies of all elements in oxides by the interatomic potential CHGNet, which is not DFT: many and cheap,
    they teach what the published sets are too small for. Made by ``scripts/label_vacancies.py``.
"""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.core.elements import symbols
from cgcnn_ase.core.errors import DatasetError
from cgcnn_ase.data.dataset import read_packed
from cgcnn_ase.data.site_labels import SiteSet, labelled_host, with_splits, without_held_out
from cgcnn_ase.graphs.geometry import Geometry

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
