"""Folders that a DFT code can start from: one for each defect, and one for the pristine cell to compare it with."""

import json
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cgcnn_ase.core.elements import hubbard_shell
from cgcnn_ase.defects.host import check_host
from cgcnn_ase.defects.plan import Defect, Manifest
from cgcnn_ase.defects.supercell import make_supercell
from cgcnn_ase.structures import to_structure

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

    from cgcnn_ase.defects.screening import Screened

# wave function and density cut-offs, Ry, that the pseudopotential libraries of the field ask for with these elements
CUTOFF, DENSITY_CUTOFF = 60.0, 240.0

# distance of k points, 1/Å (2 pi included)
K_SPACING = 0.25

# atomic numbers that start with a magnetic moment: open 3d and f shells
_MAGNETIC = (*range(23, 30), *range(58, 61), *range(62, 64), *range(64, 71), 92)

# settings of VASP other than those of MPRelaxSet: positions relax in a cell that stays; largest force, eV/Å
_INCAR = {"ISIF": 2, "EDIFFG": -0.03, "LWAVE": False, "LCHARG": False}

# the input with U for pw.x before 7.1, which passes over the card that newer ones need, without U and without an error
OLD_ESPRESSO = "espresso_before_7.1.in"

FILES = ("structure.extxyz", "POSCAR", "INCAR", "KPOINTS", "espresso.in", OLD_ESPRESSO, "origin.json")


def write_dft_folder(
    folder: Path, screened: "Screened | Defect", *, pseudopotentials: Mapping[str, str] | None = None
) -> Path:
    """Write the structure of a defect, its inputs for VASP and Quantum ESPRESSO, and what it is; return the folder.

    ``structure.extxyz``; ``POSCAR``, ``INCAR``, ``KPOINTS``: pymatgen's `MPRelaxSet` (PBE, +U in oxides and fluorides)
    at a fixed cell, without the licensed ``POTCAR``; ``espresso.in``: a relaxation by ``pw.x`` with the same U, and
    where there is one ``espresso_before_7.1.in`` for older versions; ``origin.json``: the manifest, and the energy
    where one was predicted.

    Parameters
    ----------
    pseudopotentials
        File names by element for Quantum ESPRESSO; ``X.upf`` where none is given. They are put into ``pseudo``.

    Raises
    ------
    ValueError
        If the cell has not three vectors.
    """
    defect = screened if isinstance(screened, Defect) else screened.defect
    origin: dict[str, object] = {"manifest": defect.manifest.to_row()}
    if not isinstance(screened, Defect):
        origin["cost"] = screened.cost.to_dict()
    return _write_folder(folder, defect.atoms, origin, pseudopotentials or {})


def write_pristine_folders(
    folder: Path,
    hosts: "Iterable[tuple[Manifest, Atoms]]",
    *,
    pseudopotentials: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write a folder like those of the defects for the pristine supercell of each host, once; return them.

    Parameters
    ----------
    hosts
        The manifest of a defect, and its pristine supercell (see `pristine_supercell`).
    """
    written: dict[tuple[str, tuple[int, ...]], Path] = {}
    for manifest, atoms in hosts:
        key = manifest.host, manifest.supercell
        if key in written:
            continue
        used = [path.name for path in written.values()]
        name = manifest.host.replace("/", "_").replace(":", "_")
        number = sum(other == name or other.startswith(f"{name}-cell") for other in used)
        path = folder / (f"{name}-cell{number + 1}" if number else name)
        origin = {"host": manifest.host, "host_sha256": manifest.host_sha256, "supercell": list(manifest.supercell)}
        written[key] = _write_folder(path, atoms, origin, pseudopotentials or {})
    return list(written.values())


def clear_dft_folders(folder: Path) -> None:
    """Remove what an earlier run wrote into ``FOLDER/*/*``; folders with anything else, such as results, stay."""
    for path in sorted(folder.glob("*/*/")):
        for name in FILES:
            (path / name).unlink(missing_ok=True)
        if not any(path.iterdir()):
            path.rmdir()


def pristine_supercell(host: "Atoms | Structure", manifest: Manifest) -> "Atoms":
    """Repeat a host as it is repeated for a defect: the cell that a formation energy compares the defect with."""
    rows = list(manifest.supercell)
    return make_supercell(check_host(host, manifest.host), [rows[0:3], rows[3:6], rows[6:9]]).atoms


def k_points(atoms: "Atoms", *, spacing: float = K_SPACING) -> tuple[int, int, int]:
    """Smallest grid whose points are at most ``spacing`` (1/Å) apart; 1 where the cell is not periodic."""
    lengths = 2 * np.pi * np.linalg.norm(np.linalg.pinv(atoms.cell.array).T, axis=1)
    counts = np.where(atoms.pbc, np.maximum(1, np.ceil(lengths / spacing - 1e-9)), 1).astype(int)
    return int(counts[0]), int(counts[1]), int(counts[2])


def _write_folder(folder: Path, atoms: "Atoms", origin: object, pseudopotentials: Mapping[str, str]) -> Path:
    from ase.io import write

    if atoms.cell.rank < 3:
        raise ValueError(f"{folder.name}: input of a DFT code needs three cell vectors, the structure has less")
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "structure.extxyz", atoms, format="extxyz")
    u = _write_vasp(folder, atoms)
    _write_espresso(folder, atoms, pseudopotentials, u)
    (folder / "origin.json").write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")
    return folder


def _write_vasp(folder: Path, atoms: "Atoms") -> dict[str, float]:
    """The files of VASP; the U of each element that has one, eV."""
    from pymatgen.io.vasp.inputs import Kpoints
    from pymatgen.io.vasp.sets import MPRelaxSet

    plain = atoms.copy()
    plain.info, plain.calc = {}, None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of POTCAR files, which are not written, and of cobalt's low spin
        inputs = MPRelaxSet(to_structure(plain), user_incar_settings=_INCAR)
        incar, poscar, kpoints = inputs.incar, inputs.poscar, inputs.kpoints
    if kpoints is None or not atoms.pbc.all():  # one point across a vacuum
        kpoints = Kpoints.gamma_automatic(k_points(atoms))
    if np.prod(kpoints.kpts) < 4:
        incar.update({"ISMEAR": 0, "SIGMA": 0.05})
    poscar.comment = f"{atoms.get_chemical_formula(mode='metal')}, {folder.name}"
    incar.write_file(folder / "INCAR")
    poscar.write_file(folder / "POSCAR")
    kpoints.write_file(folder / "KPOINTS")
    values = zip(poscar.site_symbols, incar.get("LDAUU", [0.0] * len(poscar.site_symbols)), strict=True)
    return {symbol: float(u) for symbol, u in values if u}


def _write_espresso(
    folder: Path, atoms: "Atoms", pseudopotentials: Mapping[str, str], hubbard_u: Mapping[str, float]
) -> None:
    """The inputs of ``pw.x``: spin polarised where there is an open d or f shell, gaussian smearing, with U."""
    from ase.io import write

    atoms = atoms.copy()
    magnetic = np.isin(atoms.numbers, _MAGNETIC)
    if magnetic.any():
        atoms.set_initial_magnetic_moments(magnetic.astype(float))
    control: dict[str, object] = {"calculation": "relax", "tprnfor": True, "pseudo_dir": "pseudo", "nstep": 100}
    system: dict[str, object] = {
        "ecutwfc": CUTOFF, "ecutrho": DENSITY_CUTOFF, "occupations": "smearing", "smearing": "gaussian",
        "degauss": 0.005,
    }  # fmt: skip
    electrons = {"conv_thr": 1e-8, "electron_maxstep": 200, "mixing_beta": 0.3}
    if magnetic.any():
        system["nspin"] = 2
    names = {
        element: pseudopotentials.get(element, f"{element}.upf")
        for element in dict.fromkeys(atoms.get_chemical_symbols())
    }

    def write_input(name: str, control: Mapping[str, object], system: Mapping[str, object]) -> Path:
        settings = {"control": dict(control), "system": dict(system), "electrons": electrons}
        file = folder / name
        write(file, atoms, format="espresso-in", input_data=settings, pseudopotentials=names, kpts=k_points(atoms))
        return file

    if not hubbard_u:
        write_input("espresso.in", control, system)
        return
    # trism came with the card of 7.1: an older pw.x stops at it, rather than go on without U
    file = write_input("espresso.in", control | {"trism": False}, system)
    species = _species(file, hubbard_u)
    lines = [f"U {label}-{hubbard_shell(element)} {hubbard_u[element]:g}" for label, _, element in species]
    with file.open("a", encoding="utf-8") as text:
        text.write("\n".join(["HUBBARD {ortho-atomic}", *lines]) + "\n")
    old = {"lda_plus_u": True, "u_projection_type": "ortho-atomic"}
    write_input(
        OLD_ESPRESSO, control, system | old | {f"hubbard_u({k})": hubbard_u[element] for _, k, element in species}
    )


def _species(file: Path, elements: Mapping[str, float]) -> list[tuple[str, int, str]]:
    """Species of these elements in an input: its name there (``Ni``, ``Ni1``), its number from 1 on, its element."""
    lines = file.read_text(encoding="utf-8").splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith("ATOMIC_SPECIES"))
    labels = []
    for line in lines[start + 1 :]:
        if not line.strip():
            break
        labels.append(line.split()[0])
    named = ((label, k, label.rstrip("0123456789")) for k, label in enumerate(labels, start=1))
    return [(label, k, element) for label, k, element in named if element in elements]
