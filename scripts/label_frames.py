"""Label frames of cathodes for a potential: energies, forces and stress by SevenNet-0 or CHGNet, never by DFT.

    python scripts/label_frames.py --data DATA --output runs/frames --teacher sevennet-0 --walker MODEL --n-hosts 2000

Hosts are layered oxides of Ni, Co, Mn, Al (O3, deep delithiation included), spinels, Li2MnO3, disordered rock salts
with Ti, Mg, Fe, and simple oxides of all of these, a third of them with a vacancy, an exchange or a dopant; cells of 6
to 56 atoms. Further kinds, where asked for by name: rock salts with Al, cathodes that lack some of their metals, and
oxides of the training part of DATA/mp36k. WALKER, a potential of this package, walks from a strained and rattled host
downhill, glides its layers, or runs molecular dynamics at 300 to 1,200 K; the teacher labels what it meets. With
``--n-disturbed`` nothing walks: each host is strained and rattled so many times. Hosts whose composition without
lithium is that of a val or test host of DATA/teacher_frames are left out, and so are formulas of
DATA/excluded_formulas.txt.

OUTPUT/frames.extxyz grows host by host; started again, the script goes on. At the end OUTPUT holds structures.npz and
properties.csv.gz, as DATA/teacher_frames does, and the sha256 of both on stdout. About 16 ms an atom and frame on one
core (SevenNet-0).
"""

import argparse
import csv
import gzip
import hashlib
import io
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterable, Iterator
from math import gcd
from pathlib import Path

import ase.io
import numpy as np
import spglib
from ase import Atoms, units
from ase.build import bulk, make_supercell
from ase.calculators.calculator import Calculator
from ase.data import atomic_numbers
from ase.md.langevin import Langevin
from ase.spacegroup import crystal
from rich.console import Console
from rich.progress import track

from cgcnn_ase import CGCNNCalculator
from cgcnn_ase.cathodes import build_cathode
from cgcnn_ase.data.dataset import load_dataset
from cgcnn_ase.data.frames import read_frames
from cgcnn_ase.models.registry import load_model
from cgcnn_ase.potential.relax import relax
from cgcnn_ase.structures.composition import formula_hash
from cgcnn_ase.structures.validation import validation_error
from cgcnn_ase.zoo.distorted import potential
from cgcnn_ase.zoo.distorted_frames import held_out_formulas

METALS = ("Ni", "Co", "Mn", "Al")
ROCK_SALT = ("Ni", "Co", "Mn", "Ti", "Fe", "Mg")
DOPANTS = ("Ti", "Mg", "Fe", "Al")
# frames with a larger force are not learned from, eV/Å
LARGEST_FORCE = 40.0
# steps of a relaxation that are kept, and between frames of molecular dynamics of 2 fs
KEPT, MD_STEPS = 4, 40


def layered(rng: np.random.Generator) -> Atoms:
    """A layered oxide with random metals and lithium content."""
    size = [(1, 1, 1), (2, 1, 1), (2, 2, 1), (3, 1, 1), (2, 1, 1)][rng.integers(5)]
    atoms = build_cathode("LiNiO2", supercell=size)
    shares = rng.dirichlet([1.2, 0.6, 0.6, 0.4]) if rng.random() < 0.8 else np.array([1.0, 0.0, 0.0, 0.0])
    metal = np.flatnonzero(atoms.symbols == "Ni")
    atoms.symbols[metal] = rng.choice(METALS, len(metal), p=shares)
    return without_lithium(atoms, rng, rng.choice([0.0, 1.0, rng.random(), rng.random()]))


def spinel(rng: np.random.Generator) -> Atoms:
    """A spinel, LiM2O4."""
    atoms = primitive(build_cathode("LiMn2O4", supercell=(1, 1, 1)))
    atoms = atoms.repeat([(1, 1, 1), (2, 1, 1), (2, 2, 1)][rng.integers(3)])
    metal = np.flatnonzero(atoms.symbols == "Mn")
    shares = rng.dirichlet([0.4, 0.2, 1.5, 0.2, 0.2, 0.2])
    atoms.symbols[metal] = rng.choice(ROCK_SALT, len(metal), p=shares)
    return without_lithium(atoms, rng, rng.choice([0.0, rng.random()]))


def lithium_rich(rng: np.random.Generator) -> Atoms:
    """Li2MnO3, with other metals for some of its manganese and lithium."""
    atoms = build_cathode("Li2MnO3", supercell=(1, 1, 1))
    changed = np.flatnonzero((atoms.symbols == "Mn") & (rng.random(len(atoms)) < 0.4))
    atoms.symbols[changed] = rng.choice(ROCK_SALT, len(changed))
    return without_lithium(atoms, rng, rng.choice([0.0, 0.5 * rng.random()]))


def rock_salt(rng: np.random.Generator) -> Atoms:
    """A disordered rock salt, Li and metals on one sublattice."""
    atoms = make_supercell(bulk("LiO", "rocksalt", a=rng.uniform(4.05, 4.25)), box(rng))
    cation = np.flatnonzero(atoms.symbols == "Li")
    shares = rng.dirichlet([0.6] * len(ROCK_SALT))
    metal = rng.permutation(cation)[: max(1, round(len(cation) * rng.uniform(0.4, 0.8)))]
    atoms.symbols[metal] = rng.choice(ROCK_SALT, len(metal), p=shares)
    return without_lithium(atoms, rng, rng.choice([0.0, 0.4 * rng.random()]))


def aluminous(rng: np.random.Generator) -> Atoms:
    """A disordered rock salt with aluminium."""
    atoms = rock_salt(rng)
    metal = np.flatnonzero(np.isin(atoms.symbols, ROCK_SALT))
    atoms.symbols[metal[rng.random(len(metal)) < rng.uniform(0.2, 0.7)]] = "Al"
    return atoms


def deficient(rng: np.random.Generator) -> Atoms:
    """A layered oxide, a spinel or Li2MnO3 without some of its metals."""
    atoms = (layered, layered, spinel, lithium_rich)[rng.integers(4)](rng)
    metal = rng.permutation(np.flatnonzero(~np.isin(atoms.symbols, ["Li", "O"])))
    del atoms[metal[: max(1, round(len(metal) * rng.uniform(0, 0.4)))].tolist()]
    return atoms


def box(rng: np.random.Generator) -> np.ndarray:
    """Supercells of the primitive cell with 8 to 16 formula units."""
    boxes = ([[2, 0, 0], [0, 2, 0], [0, 0, 2]], [[-1, 1, 1], [2, -2, 2], [1, 1, -1]], [[3, 0, 0], [0, 2, 0], [0, 0, 2]])
    return np.array(boxes[rng.integers(len(boxes))])


def primitive(atoms: Atoms) -> Atoms:
    """The primitive cell."""
    cell, frac, numbers = spglib.find_primitive((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers))
    return Atoms(numbers, scaled_positions=frac, cell=cell, pbc=True)


def without_lithium(atoms: Atoms, rng: np.random.Generator, share: float) -> Atoms:
    """Remove a share of the lithium at random."""
    lithium = rng.permutation(np.flatnonzero(atoms.symbols == "Li"))
    del atoms[lithium[: round(share * len(lithium))].tolist()]
    return atoms


def with_defect(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """Put in a vacancy, an exchange of two cations or a dopant."""
    kind = rng.integers(3)
    cations = np.flatnonzero(atoms.numbers != 8)
    if kind == 0:
        del atoms[int(rng.integers(len(atoms)))]
    elif kind == 1 and len(cations) > 1:
        i, j = rng.choice(cations, 2, replace=False).tolist()
        atoms.numbers[[i, j]] = atoms.numbers[[j, i]]
    else:
        atoms.symbols[int(rng.choice(cations))] = rng.choice(DOPANTS)
    return atoms


def disturbed(atoms: Atoms, rng: np.random.Generator, size: float) -> Atoms:
    """Strain and rattle; ``size`` 1 is 4 % and 0.12 Å at most."""
    atoms = atoms.copy()
    strain = size * (np.eye(3) * rng.uniform(-0.04, 0.04) + rng.normal(0, 0.012, (3, 3)))
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.5 * (strain + strain.T)), scale_atoms=True)
    atoms.positions += rng.normal(0, size * rng.uniform(0.01, 0.12) / np.sqrt(3), atoms.positions.shape)
    return atoms


def glided(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """Shift everything above a plane between layers along it."""
    atoms = atoms.copy()
    z = atoms.get_scaled_positions()[:, 2]
    shift = rng.uniform(-0.5, 0.5, 2) @ atoms.cell.array[:2] / np.linalg.norm(atoms.cell.array[0]) * 2.9
    atoms.positions[z > rng.uniform(0.2, 0.8)] += rng.uniform(0.2, 1.0) * shift
    return atoms


def oxide(rng: np.random.Generator) -> Atoms:
    """A simple oxide: rock salt, antifluorite, rutile, corundum or spinel, with one or two metals."""
    metals = rng.choice((*ROCK_SALT, "Al"), 2)
    kind = rng.integers(5)
    if kind == 0:
        atoms = bulk("MgO", "rocksalt", a=rng.uniform(4.15, 4.45), cubic=True)
    elif kind == 1:
        atoms = bulk("OLi2", "fluorite", a=4.62, cubic=True)
        atoms.symbols = ["O" if each == "O" else "Li" for each in atoms.symbols]
    elif kind == 2:  # Baur and Khan, Acta Cryst. B 27, 2133 (1971)
        atoms = crystal(
            ("Mg", "O"), [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.594, 4.594, 2.959, 90, 90, 90]
        )
    elif kind == 3:  # Newnham and de Haan, Z. Kristallogr. 117, 235 (1962)
        sites = [(0, 0, 0.3522), (0.3062, 0, 0.25)]
        atoms = primitive(crystal(("Mg", "O"), sites, spacegroup=167, cellpar=[4.759, 4.759, 12.991, 90, 90, 120]))
    else:
        atoms = primitive(build_cathode("LiMn2O4", supercell=(1, 1, 1)))
        atoms.symbols = ["O" if each == "O" else "Mg" for each in atoms.symbols]
    changed = np.flatnonzero(atoms.symbols == "Mg")
    two = rng.random() < 0.4
    atoms.symbols[changed] = [metals[int(two and rng.random() < 0.5)] for _ in changed]
    atoms.info.clear()
    return atoms


HOSTS = {
    "cathode": (layered, 0.45),
    "spinel": (spinel, 0.11),
    "li2mno3": (lithium_rich, 0.09),
    "rocksalt": (rock_salt, 0.25),
    "oxide": (oxide, 0.1),
}
# kinds that have to be asked for
FURTHER = {"rocksalt-al": (aluminous, 0.25), "deficient": (deficient, 0.25)}
DATABASE = "mp"


def database_hosts(data: Path) -> list[Atoms]:
    """Oxides of these elements alone, of up to 60 atoms, from the training part of mp36k."""
    crystals = load_dataset(data / "mp36k", target=["formation_energy_per_atom"])
    allowed = [atomic_numbers[name] for name in {"Li", "O", "Al", *ROCK_SALT}]
    assert crystals.split is not None
    chosen = []
    for (numbers, positions, cell, pbc), split in zip(crystals.structures, crystals.split, strict=True):
        if split == "train" and len(numbers) <= 60 and 8 in numbers and np.isin(numbers, allowed).all():
            chosen.append(Atoms(numbers, positions, cell=cell, pbc=pbc))
    return chosen


def host(rng: np.random.Generator, names: list[str], database: list[Atoms]) -> tuple[str, Atoms]:
    """Kind, one of these, and structure."""
    kinds = HOSTS | FURTHER | {DATABASE: (lambda draws: database[draws.integers(len(database))].copy(), 0.4)}
    weights = np.array([kinds[name][1] for name in names])
    kind = names[rng.choice(len(names), p=weights / weights.sum())]
    atoms = kinds[kind][0](rng)
    if rng.random() < 0.35:
        return f"{kind}-defect", with_defect(atoms, rng)
    return kind, atoms


def often_disturbed(atoms: Atoms, n: int, rng: np.random.Generator) -> Iterator[tuple[str, Atoms]]:
    """So many copies, strained and rattled more and less."""
    for size in rng.uniform(0.3, 1.8, n):
        yield "disturbed", disturbed(atoms, rng, size)


def walk(atoms: Atoms, walker: str, rng: np.random.Generator) -> Iterator[tuple[str, Atoms]]:
    """Frames on the way of a potential, with what was done."""
    model = load_model(walker)
    start = disturbed(atoms, rng, rng.choice([0.3, 1.0, 1.6]))
    yield "disturbed", start
    if rng.random() < 0.15:
        yield "glided", glided(atoms, rng)
    (relaxed,) = relax([start], model, fmax=0.05, steps=80, trajectory=True, workers=1, progress=False)
    if relaxed.error is not None or not relaxed.trajectory:
        return
    steps = np.unique(np.geomspace(2, len(relaxed.trajectory), KEPT).astype(int) - 1)
    for step in steps.tolist():
        yield f"relaxing {step}", relaxed.trajectory[step]
    last = relaxed.trajectory[-1].copy()
    yield "disturbed again", disturbed(last, rng, 0.4)
    temperature = rng.uniform(300, 1200)
    last.calc = CGCNNCalculator(model)
    md = Langevin(last, 2 * units.fs, temperature_K=temperature, friction=0.02 / units.fs, rng=rng)
    for _ in range(2):
        md.run(MD_STEPS)
        if validation_error(last) is not None:
            return
        yield f"dynamics {temperature:.0f} K", last.copy()


def composition(atoms: Atoms, *, lithium: bool) -> tuple[tuple[int, int], ...]:
    """Reduced composition, with or without the lithium."""
    counts = Counter(atoms.numbers.tolist())
    if not lithium:
        counts.pop(3, None)
    divisor = gcd(*counts.values())
    return tuple(sorted((z, n // divisor) for z, n in counts.items()))


def label(atoms: Atoms, teacher: Calculator) -> Atoms | None:
    """The frame with the teacher's results; None where a force is too large."""
    from ase.calculators.singlepoint import SinglePointCalculator

    frame = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
    frame.calc = teacher
    results = {"energy": frame.get_potential_energy(), "forces": frame.get_forces(), "stress": frame.get_stress()}
    if not np.abs(results["forces"]).max() < LARGEST_FORCE:
        return None
    frame.calc = SinglePointCalculator(frame, **results)
    return frame


def pack(frames: list[Atoms], folder: Path) -> None:
    """Write structures.npz and properties.csv.gz, and print their sha256."""
    np.savez_compressed(
        folder / "structures.npz",
        ids=np.array([f"frame-{k:05d}" for k in range(len(frames))]),
        lattice=np.stack([frame.cell.array for frame in frames]),
        offsets=np.cumsum([0, *map(len, frames)]),
        numbers=np.concatenate([frame.numbers for frame in frames]),
        frac=np.concatenate([frame.get_scaled_positions(wrap=False) for frame in frames]),
        forces=np.concatenate([frame.get_forces() for frame in frames]),
        stress=np.stack([frame.get_stress(voigt=False) for frame in frames]),
    )
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("id", "host", "kind", "how", "formula", "energy", "split"))
    for k, frame in enumerate(frames):
        info = frame.info
        energy = frame.get_potential_energy()
        described = [info["host"], info["kind"], info["how"], str(frame.symbols), energy, info.get("split", "train")]
        rows.writerow((f"frame-{k:05d}", *described))
    (folder / "properties.csv.gz").write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
    for name in ("structures.npz", "properties.csv.gz"):
        print(f"{name} sha256 {hashlib.sha256((folder / name).read_bytes()).hexdigest()}")


def label_parser(description: str, *, data: str, kinds: Iterable[str], default: list[str], of: str) -> ArgumentParser:
    """The options that all labelling has: which data are read, and which kinds of what are made."""
    parser = ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help=f"folder that holds {data}")
    parser.add_argument("--output", type=Path, required=True, help="folder for the frames")
    parser.add_argument("--teacher", default="sevennet-0", help="sevennet-0 or chgnet")
    parser.add_argument("--kinds", nargs="+", choices=list(kinds), default=default, help=f"of {of}")
    parser.add_argument("--seed", type=int, default=1)
    return parser


def main() -> None:
    parser = label_parser(
        __doc__ or "", data="teacher_frames", kinds=[*HOSTS, *FURTHER, DATABASE], default=list(HOSTS), of="hosts"
    )
    parser.add_argument("--walker", default="cathode-potential", help="a potential of this package")
    parser.add_argument("--n-hosts", type=int, default=1000)
    parser.add_argument("--n-disturbed", type=int, default=0, help="disturbed copies of a host, in place of a walk")
    chosen = parser.parse_args()
    chosen.output.mkdir(parents=True, exist_ok=True)
    file = chosen.output / "frames.extxyz"
    known = read_frames(chosen.data / "teacher_frames")
    held_out = {
        composition(Atoms(shape.numbers), lithium=False)
        for shape, split in zip(known.structures, known.split, strict=True)
        if split != "train"
    }
    excluded = held_out_formulas(chosen.data, [])
    done = {atoms.info["host"] for atoms in ase.io.read(file, ":")} if file.exists() else set()
    database = database_hosts(chosen.data) if DATABASE in chosen.kinds else []
    teacher = potential(chosen.teacher)
    dropped: Counter[str] = Counter()
    for k in track(range(chosen.n_hosts), description="Labelling", console=Console(stderr=True)):
        name = f"host-{chosen.seed}-{k}"
        if name in done:
            continue
        rng = np.random.default_rng((chosen.seed, k))
        kind, atoms = host(rng, chosen.kinds, database)
        if composition(atoms, lithium=False) in held_out or formula_hash(str(atoms.symbols)) in excluded:
            dropped["composition held out"] += 1
            continue
        frames, n = [], chosen.n_disturbed
        met = often_disturbed(atoms, n, rng) if n else walk(atoms, chosen.walker, rng)
        for how, frame in met:
            if validation_error(frame) is not None:
                dropped["atoms too near"] += 1
                continue
            labelled = label(frame, teacher)
            if labelled is None:
                dropped[f"a force above {LARGEST_FORCE:g} eV/Å"] += 1
                continue
            labelled.info |= {"host": name, "kind": kind, "how": how}
            frames.append(labelled)
        if frames:
            ase.io.write(file, frames, append=file.exists())
    print("left out:", dict(dropped))
    pack(ase.io.read(file, ":"), chosen.output)


if __name__ == "__main__":
    main()
