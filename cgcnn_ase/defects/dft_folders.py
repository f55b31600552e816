"""Folders that a DFT code can start from: the structure in three formats, and where it comes from."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgcnn_ase.defects.screening import Screened

if TYPE_CHECKING:
    from ase import Atoms

#: wave function and density cut-offs, Ry, that the pseudopotential libraries of the field ask for with these elements
CUTOFF, DENSITY_CUTOFF = 60.0, 240.0
#: distance of k points, 1/Å (2 pi included)
SPACING = 0.25
#: atomic numbers that start with a magnetic moment: open 3d and f shells
_MAGNETIC = (*range(23, 30), *range(58, 61), *range(62, 64), *range(64, 71), 92)


def write_dft_folder(folder: Path, screened: Screened, *, pseudopotentials: Mapping[str, str] | None = None) -> Path:
    """Write ``structure.extxyz``, ``POSCAR``, ``espresso.in`` and ``origin.json``, and return the folder.

    The input for Quantum ESPRESSO relaxes the positions at a fixed cell, spin polarised where there is an open d or f
    shell, with gaussian smearing. Pseudopotential files are named ``X.upf`` unless given, to be put into ``pseudo``.

    Parameters
    ----------
    pseudopotentials
        File names by element.
    """
    from ase.io import write

    atoms = screened.defect.atoms
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "structure.extxyz", atoms, format="extxyz")
    write(folder / "POSCAR", atoms, format="vasp", direct=True, sort=True)
    _write_espresso(folder / "espresso.in", atoms, pseudopotentials or {})
    origin = {"manifest": screened.defect.manifest.to_row(), "cost": screened.cost.to_dict()}
    (folder / "origin.json").write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")
    return folder


def k_points(atoms: "Atoms", *, spacing: float = SPACING) -> tuple[int, int, int]:
    """Smallest grid whose points are at most ``spacing`` (1/Å) apart; 1 where the cell is not periodic."""
    lengths = 2 * np.pi * np.linalg.norm(np.linalg.pinv(atoms.cell.array).T, axis=1)
    counts = np.where(atoms.pbc, np.maximum(1, np.ceil(lengths / spacing - 1e-9)), 1).astype(int)
    return int(counts[0]), int(counts[1]), int(counts[2])


def _write_espresso(file: Path, atoms: "Atoms", pseudopotentials: Mapping[str, str]) -> None:
    from ase.io import write

    atoms = atoms.copy()
    magnetic = np.isin(atoms.numbers, _MAGNETIC)
    if magnetic.any():
        atoms.set_initial_magnetic_moments(magnetic.astype(float))
    settings: dict[str, dict[str, Any]] = {
        "control": {"calculation": "relax", "tprnfor": True, "pseudo_dir": "pseudo"},
        "system": {
            "ecutwfc": CUTOFF,
            "ecutrho": DENSITY_CUTOFF,
            "occupations": "smearing",
            "smearing": "gaussian",
            "degauss": 0.005,
        },
        "electrons": {"conv_thr": 1e-8},
    }
    if magnetic.any():
        settings["system"]["nspin"] = 2
    names = {
        element: pseudopotentials.get(element, f"{element}.upf")
        for element in dict.fromkeys(atoms.get_chemical_symbols())
    }
    write(file, atoms, format="espresso-in", input_data=settings, pseudopotentials=names, kpts=k_points(atoms))
