"""Crystals for the benchmarks, as arrays and as CIF files.

From a packed data set (``--data``) where it is there, else rattled supercells of ``examples/structures``. The files are
kept in ``$TMPDIR/cgcnn-ase-bench`` and made once.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import make_supercell
from ase.cell import Cell
from ase.data import chemical_symbols

from cgcnn_ase.data.dataset import load_dataset
from cgcnn_ase.graphs.crystal_graph import Geometry, geometry
from cgcnn_ase.structures import read_structures

REPOSITORY = Path(__file__).resolve().parents[1]
DEFAULT_DATA = REPOSITORY.parent / "shared" / "data" / "mp36k"
TARGET = "formation_energy_per_atom"
MEAN_ATOMS = 27.0

#: raise when the files written change
_VERSION = 1


@dataclass(frozen=True)
class Folder:
    """A folder of CIF files and what is in it."""

    path: Path
    n: int
    mean_atoms: float
    source: str

    def __str__(self) -> str:
        return f"{self.n:,} CIF files of {self.mean_atoms:.1f} atoms on average, {self.source}"


#: what each data set is, and where it comes from: none of them may be given on with this package. The citation of
#: Witman was looked up (stored web pages, 2026-11-30); those of Kumagai, Zhou, and Choudhary and Sumpter were not found
SOURCES = {
    "mp36k": "crystals of the Materials Project with their properties; `cgcnn-ase fetch` makes a folder of this kind",
    "mp_elastic": "elastic moduli of the Materials Project; `cgcnn-ase fetch --fields K_VRH,G_VRH` makes such a folder",
    "oxide_vacancies_witman": "vacancies in oxides of Witman et al., Nat. Comput. Sci. 3, 675 (2023)",
    "oxide_O_vacancies_kumagai": "oxygen vacancies of Kumagai et al., Phys. Rev. Mater. 5, 123803 (2021)",
    "2dmatpedia_subset": "layers of 2DMatPedia (Zhou et al., Sci. Data 6, 86 (2019))",
    "jarvis_vacancydb": "vacancies of JARVIS (Choudhary and Sumpter, AIP Adv. 13, 095109 (2023))",
}


def require(root: Path, *names: str) -> None:
    """End with exit code 2 if data sets are not in a folder, saying what they are and how to name another folder."""
    missing = [name for name in names if not (root / name).is_dir()]
    if not missing:
        return
    echo_stderr(f"{root}: this benchmark needs data that are not there:")
    for name in missing:
        echo_stderr(f"  {name}: {SOURCES.get(name, 'a packed data set, structures.npz and properties.csv.gz')}")
    echo_stderr("put them there, or name the folder that holds them with --data")
    raise SystemExit(2)


def data_root(data: Path) -> Path:
    """The folder of all data sets, given it or one of the packed ones in it."""
    return data.parent if (data / "structures.npz").exists() else data


def cache_folder() -> Path:
    """Where the benchmarks keep what they make: outside the repository."""
    folder = Path(tempfile.gettempdir()) / "cgcnn-ase-bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def structures(n: int, data: Path | None, *, seed: int = 0) -> tuple[list[tuple[str, Geometry]], str]:
    """Names and crystals, about 27 atoms on average, and where they come from."""
    if data is not None and (data / "structures.npz").exists():
        return _from_data(n, data, seed), f"drawn from {data.name}"
    return list(synthetic(n, seed=seed)), "rattled supercells of examples/structures"


def _from_data(n: int, data: Path, seed: int) -> list[tuple[str, Geometry]]:
    """A random draw; the smallest crystals are left out until the mean reaches 27 atoms."""
    dataset = load_dataset(data, target=TARGET)
    sizes = np.array([len(s.numbers) for s in dataset.structures])
    least = 1
    while sizes[sizes >= least].mean() < MEAN_ATOMS and np.count_nonzero(sizes > least) >= n:
        least += 1
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(sizes >= least))[:n]
    if len(rows) < n:
        raise SystemExit(f"{data}: holds only {len(rows)} structures, {n} are asked for")
    return [(dataset.ids[i], dataset.structures[i]) for i in rows]


def synthetic(n: int, *, seed: int = 0) -> Iterator[tuple[str, Geometry]]:
    """Supercells of the example structures, strained by up to 2 % and rattled by 0.05 Å, 27 atoms on average."""
    records = read_structures(REPOSITORY / "examples" / "structures")
    prototypes = [record.unwrap() for record in records]
    rng = np.random.default_rng(seed)
    made, atoms_so_far = 0, 0
    while made < n:
        base = prototypes[int(rng.integers(len(prototypes)))]
        repeats = [rng.integers(1, 5, size=3) for _ in range(12)]
        wanted = MEAN_ATOMS * (made + 1) - atoms_so_far  # keeps the running mean at 27
        if made % 2:
            wanted *= float(rng.uniform(0.3, 1.5))
        repeat = min(repeats, key=lambda r: abs(len(base) * int(np.prod(r)) - wanted))
        atoms = make_supercell(base, np.diag(repeat))
        strain = np.eye(3) + rng.uniform(-0.02, 0.02, size=(3, 3))
        atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        yield f"{base.get_chemical_formula(empirical=True)}-{made}", geometry(atoms)
        made += 1
        atoms_so_far += len(atoms)


def cif_text(name: str, structure: Geometry) -> str:
    """A CIF in space group P1, laid out as pymatgen's writer does."""
    lengths_angles = Cell(structure.cell).cellpar()
    fractional = structure.positions @ np.linalg.inv(structure.cell) % 1.0
    keys = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    numbers, counts = np.unique(structure.numbers, return_counts=True)
    formula = " ".join(f"{chemical_symbols[z]}{c}" for z, c in zip(numbers, counts, strict=True))
    lines = [f"data_{name}", "_symmetry_space_group_name_H-M   'P 1'"]
    lines += [f"_cell_{key}   {value:.8f}" for key, value in zip(keys, lengths_angles, strict=True)]
    lines += ["_symmetry_Int_Tables_number   1", f"_chemical_formula_sum   '{formula}'"]
    lines += [f"_cell_volume   {abs(np.linalg.det(structure.cell)):.8f}"]
    lines += ["loop_", " _symmetry_equiv_pos_site_id", " _symmetry_equiv_pos_as_xyz", "  1  'x, y, z'", "loop_"]
    columns = ("type_symbol", "label", "symmetry_multiplicity", "fract_x", "fract_y", "fract_z", "occupancy")
    lines += [f" _atom_site_{column}" for column in columns]
    for k, (z, (x, y, w)) in enumerate(zip(structure.numbers.tolist(), fractional.tolist(), strict=True)):
        symbol = chemical_symbols[z]
        lines.append(f"  {symbol}  {symbol}{k}  1  {x:.8f}  {y:.8f}  {w:.8f}  1")
    return "\n".join(lines) + "\n"


def write_cifs(folder: Path, named: Iterable[tuple[str, Geometry]]) -> tuple[int, float]:
    """Write one file a crystal; return their number and the mean number of atoms."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = []
    for name, structure in named:
        (folder / f"{name}.cif").write_text(cif_text(name, structure), encoding="ascii")
        sizes.append(len(structure.numbers))
    return len(sizes), float(np.mean(sizes))


def cif_folder(n: int, data: Path | None, *, seed: int = 0) -> Folder:
    """A folder of n CIF files, from the cache or made now."""
    source = data.name if data is not None and (data / "structures.npz").exists() else "synthetic"
    path = cache_folder() / f"cifs-v{_VERSION}-{source}-{n}-{seed}"
    meta = path.with_suffix(".json")
    if not meta.exists():
        echo_stderr(f"writing {n:,} CIF files to {path}")
        shutil.rmtree(path, ignore_errors=True)
        named, words = structures(n, data, seed=seed)
        n_written, mean = write_cifs(path, named)
        meta.write_text(json.dumps({"n": n_written, "mean_atoms": mean, "source": words}))
    return Folder(path, **json.loads(meta.read_text()))


def linked(files: list[Path], path: Path) -> Path:
    """A fresh folder with links to these files."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    for file in files:
        os.link(file, path / file.name)
    return path


def cathode(n_atoms: int, *, seed: int = 0) -> Atoms:
    """A rattled supercell of LiNiO2 with about so many atoms, as near to a cube as it gets; no two atoms are alike."""
    (record,) = read_structures(REPOSITORY / "examples" / "structures" / "LiNiO2.cif")
    unit = record.unwrap()
    repeat = [1, 1, 1]
    while len(unit) * np.prod(repeat) < n_atoms:
        repeat[int(np.argmin(unit.cell.lengths() * repeat))] += 1
    atoms = make_supercell(unit, np.diag(repeat))[:n_atoms]
    atoms.positions += np.random.default_rng(seed).normal(scale=0.03, size=atoms.positions.shape)
    return atoms


def echo_stderr(text: str) -> None:
    """Progress, for people."""
    print(text, file=sys.stderr, flush=True)
