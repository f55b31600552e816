"""The potential: errors on frames of unseen hosts, relaxations and orderings against its teacher, conservation, speed.

    python benchmarks/potential.py --frames DATA/teacher_frames --only frames speed
    python benchmarks/potential.py --model general-potential --dft DATA/dft_frames --peer-results FILE --only dft

``--only`` chooses among frames, relaxed, orderings, dynamics, speed, large, many and dft; without it all but dft. Peers
that are not installed (CHGNet, SevenNet-0) are left out of the tables, and so is what needs the teacher. One core, but
for ``many``. ``dft`` holds ours and its peers against DFT; with ``--peer-results`` what peers say is kept in a file: a
run that was stopped goes on from it, and where it is complete the peers need not be installed.
"""

import argparse
import resource
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from _dft_frames import dft_tables
from _report import Table, finish, parser
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.filters import FrechetCellFilter
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from scipy.stats import spearmanr

from cgcnn_ase import CGCNNCalculator
from cgcnn_ase.cathodes import build_cathode
from cgcnn_ase.data.frames import read_frames
from cgcnn_ase.energies.interface import chgnet_calculator, sevennet_calculator
from cgcnn_ase.models.registry import load_model
from cgcnn_ase.potential.evaluation import evaluate_frames
from cgcnn_ase.potential.relax import relax

PARTS = ("frames", "relaxed", "orderings", "dynamics", "speed", "large", "many")
PEERS = {"CHGNet": ("chgnet", chgnet_calculator), "SevenNet-0": ("sevenn", sevennet_calculator)}


def options() -> argparse.Namespace:
    made = parser(__doc__ or "", data=False)
    made.add_argument("--model", default="cathode-potential")
    made.add_argument("--frames", type=Path, help="packed frames with a split, as teacher_frames")
    made.add_argument("--split", default="val", help="of the frames: val to search with, test once at the end")
    made.add_argument("--dft", type=Path, help="packed DFT frames with a split and sets, as dft_frames")
    made.add_argument("--peer-results", type=Path, metavar="FILE.jsonl", help="of dft: keep what peers say here")
    made.add_argument("--only", nargs="+", choices=(*PARTS, "dft"), default=list(PARTS))
    made.add_argument("--n", type=int, default=40, help="orderings of each kind, and relaxed cells")
    made.add_argument("--picoseconds", type=float, default=10.0)
    return made.parse_args()


def peers() -> dict[str, Calculator]:
    """The interatomic potentials that are installed."""
    return {name: load() for name, (package, load) in PEERS.items() if find_spec(package) is not None}


def dft(chosen: argparse.Namespace) -> list[Table]:
    if chosen.dft is None:
        raise SystemExit("--only dft needs --dft FOLDER, packed DFT frames")
    kept = "" if chosen.peer_results is None or not chosen.peer_results.exists() else chosen.peer_results.read_text()
    loaders = {
        name: load
        for name, (package, load) in PEERS.items()
        if find_spec(package) is not None or f'"peer": "{name}"' in kept
    }
    return dft_tables(load_model(chosen.model), loaders, chosen.dft, chosen.split, chosen.peer_results)


def frames_table(chosen: argparse.Namespace) -> Table:
    table = Table(
        f"Frames of hosts that no training frame comes from ({chosen.split})",
        ("quantity", "value"),
    )
    evaluation = evaluate_frames(load_model(chosen.model), read_frames(chosen.frames).of_split(chosen.split))
    m = evaluation.metrics()
    table.rows += [
        ("frames", m["n_frames"]),
        ("energy, mean absolute error, meV/atom", 1000 * m["mae"]),
        ("forces, mean absolute error of a component, eV/Å", m["forces_mae"]),
        ("stress, mean absolute error of a component, GPa", m["stress_mae"]),
        ("90 % interval of the energy holds", m["coverage"]),
        ("std of the energy and its error, Spearman", m["energy_spearman"]),
        ("std of a force and its error, Spearman", m["forces_spearman"]),
        ("in domain", m["in_domain"]),
    ]
    table.notes.append("truth: SevenNet-0, a potential, not DFT")
    return table


def _cells(chosen: argparse.Namespace, n: int) -> list[Atoms]:
    """The first frame of each host with a defect."""
    import pandas as pd

    frames = read_frames(chosen.frames)
    rows = pd.read_csv(chosen.frames / "properties.csv.gz", keep_default_na=False)
    first = rows[(rows["split"] == chosen.split) & rows["kind"].str.contains("defect")].groupby("host").head(1).index
    shapes = [frames.structures[k] for k in first[:n]]
    return [Atoms(s.numbers, s.positions, cell=s.cell, pbc=True) for s in shapes]


def _relaxed_by(calculator: Calculator, atoms: Atoms, *, fmax: float = 0.03, cell: bool = True) -> Atoms:
    atoms = atoms.copy()
    atoms.calc = calculator
    BFGS(FrechetCellFilter(atoms) if cell else atoms, logfile=None).run(fmax=fmax, steps=200)
    return atoms


def relaxed_table(chosen: argparse.Namespace) -> Table:
    """Ours against the teacher's, from the same start, in the cell of the start."""
    teacher, cells = sevennet_calculator(), _cells(chosen, 50)
    ours = relax(cells, chosen.model, fmax=0.02, fixed_cell=True, workers=1)
    distances, energies = [], []
    for row, cell in zip(ours, cells, strict=True):
        theirs = _relaxed_by(teacher, cell, cell=False)
        apart = row.atoms.positions - theirs.positions
        distances.append(float(np.sqrt(((apart - apart.mean(axis=0)) ** 2).sum(axis=1).mean())))
        energies.append((row.energy / len(cell), theirs.get_potential_energy() / len(cell)))
    a, b = np.array(energies).T
    table = Table(f"{len(cells)} cells with defects, relaxed by ours and by the teacher", ("quantity", "value"))
    table.rows += [
        ("positions, root mean square, median, Å", float(np.median(distances))),
        ("positions, root mean square, mean, Å", float(np.mean(distances))),
        ("energies per atom, Spearman", float(spearmanr(a, b).statistic)),
        ("not converged", sum(not row.converged for row in ours)),
    ]
    return table


def orderings(kind: str, n: int) -> list[Atoms]:
    """Orderings of LixNiO2, or of Li and Mn in a rock salt."""
    rng, result = np.random.default_rng(2026), []
    while len(result) < n:
        if kind == "LixNiO2":
            atoms = build_cathode("LiNiO2", supercell=(2, 2, 1))
            lithium = rng.permutation(np.flatnonzero(atoms.symbols == "Li"))
            del atoms[lithium[: rng.integers(2, 11)].tolist()]
        else:
            from ase.build import bulk

            atoms = bulk("LiO", "rocksalt", a=4.2, cubic=True).repeat((2, 2, 1))
            cations = rng.permutation(np.flatnonzero(atoms.symbols == "Li"))
            atoms.symbols[cations[: rng.integers(6, 10)]] = "Mn"
        result.append(atoms)
    return result


def _above_composition(energies: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Energies per atom less a parabola in the composition."""
    return energies - np.polyval(np.polyfit(share, energies, 2), share)


def orderings_table(chosen: argparse.Namespace) -> Table:
    teacher = sevennet_calculator()
    table = Table(
        "Orderings, relaxed energies after a fit to composition, against those relaxed by the teacher",
        ("orderings", "n", "Spearman"),
    )
    for kind in ("LixNiO2", "Li-Mn-O rock salt"):
        cells = orderings(kind, chosen.n)
        rows = relax(cells, chosen.model, fmax=0.03, workers=1)
        good = [row for row in rows if row.error is None]
        theirs = [_relaxed_by(teacher, row.atoms, fmax=0.05) for row in good]
        share = np.array([np.mean(row.atoms.symbols == "Li") for row in good])
        a, b = (
            _above_composition(np.array(energies), share)
            for energies in (
                [row.energy / row.n_atoms for row in good],
                [atoms.get_potential_energy() / len(atoms) for atoms in theirs],
            )
        )
        table.rows.append((kind, len(good), float(spearmanr(a, b).statistic)))
    table.notes.append("the teacher starts from where ours ends, and goes to a largest force of 0.05 eV/Å")
    return table


def dynamics_table(chosen: argparse.Namespace) -> Table:
    atoms = build_cathode("LiNiO2", supercell=(4, 2, 1))
    (row,) = relax([atoms], chosen.model, workers=1)
    atoms = row.atoms
    atoms.calc = CGCNNCalculator(chosen.model)
    MaxwellBoltzmannDistribution(atoms, temperature_K=2 * 500, rng=np.random.default_rng(0))
    Stationary(atoms)
    md = VelocityVerlet(atoms, 1.0 * units.fs)
    md.run(500)
    times, totals, temperatures = [], [], []

    def record() -> None:
        times.append(md.get_time() / units.fs / 1000)
        totals.append(atoms.get_total_energy() / len(atoms))
        temperatures.append(atoms.get_temperature())

    md.attach(record, interval=10)
    md.run(int(1000 * chosen.picoseconds))
    drift = 1000 * float(np.polyfit(times, totals, 1)[0])
    table = Table(f"Energy conservation: {len(atoms)} atoms of LiNiO2, NVE, 1 fs", ("quantity", "value"))
    table.rows += [
        ("picoseconds", chosen.picoseconds),
        ("mean temperature, K", float(np.mean(temperatures))),
        ("drift, meV/atom/ps", drift),
        ("standard deviation of the total energy, meV/atom", 1000 * float(np.std(totals))),
    ]
    return table


def _seconds(calculator: Calculator, cells: Sequence[Atoms]) -> float:
    """Seconds of energy, forces and stress of a cell that moves a little in each step; the first is not counted."""
    times = []
    for atoms in cells:
        atoms = atoms.copy()
        atoms.calc = calculator
        start = time.perf_counter()
        atoms.get_potential_energy()
        atoms.get_forces()
        atoms.get_stress()
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def speed_table(chosen: argparse.Namespace) -> Table:
    host = build_cathode("LiNiO2", n_atoms=96)
    cells = []
    for seed in range(8):
        cells.append(host.copy())
        cells[-1].rattle(0.02, seed=seed)
    ours = _seconds(CGCNNCalculator(chosen.model), cells)
    table = Table(
        f"Energy, forces, stress and std of all members: {len(host)} atoms, one core",
        ("calculator", "ms", "times ours"),
    )
    table.rows.append((chosen.model, 1000 * ours, 1.0))
    for name, calculator in peers().items():
        seconds = _seconds(calculator, cells[:4])
        table.rows.append((name, 1000 * seconds, seconds / ours))
    return table


def large_table(chosen: argparse.Namespace) -> Table:
    table = Table(
        "Large cells through the calculator: energy, forces, stress, std, neighbour list", ("atoms", "s", "GB")
    )
    calculator = CGCNNCalculator(chosen.model)
    for repeat in ((4, 4, 1), (9, 9, 2), (17, 16, 3)):
        atoms = build_cathode("LiNiO2", supercell=(1, 1, 1)).repeat(repeat)
        atoms.rattle(0.02, seed=0)
        atoms.calc = calculator
        start = time.perf_counter()
        atoms.get_forces()
        atoms.get_stress()
        table.rows.append(
            (len(atoms), time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
        )
    return table


def many_table(chosen: argparse.Namespace) -> Table:
    cells = _cells(chosen, 10**6) if chosen.frames else orderings("LixNiO2", 40)
    cells = [atoms for atoms in cells if 20 <= len(atoms) <= 40]
    n_one, n = min(12, len(cells)), 1000
    many = []
    for k in range(n):
        many.append(cells[k % len(cells)].copy())
        many[-1].rattle(0.03, seed=k)
    start = time.perf_counter()
    rows = relax(many, chosen.model)
    together = (time.perf_counter() - start) / n
    calculator = CGCNNCalculator(chosen.model)
    start = time.perf_counter()
    for atoms in many[:n_one]:
        _relaxed_by(calculator, atoms, fmax=0.05)
    alone = (time.perf_counter() - start) / n_one
    table = Table(f"{n} cells of 20 to 40 atoms relaxed to 0.05 eV/Å, all cores", ("way", "s a cell", "times ours"))
    table.rows += [("relax()", together, 1.0), ("one by one, ASE's BFGS, same model", alone, alone / together)]
    table.notes.append(
        f"{sum(bool(row.converged) for row in rows)} converged, {sum(row.error is not None for row in rows)} stopped"
    )
    table.notes.append(f"mean steps {np.mean([row.steps for row in rows if row.steps is not None]):.1f}")
    return table


def main() -> None:
    chosen = options()
    torch.set_num_threads(1)
    makers: dict[str, Callable[[argparse.Namespace], Table]] = {
        "frames": frames_table, "relaxed": relaxed_table, "orderings": orderings_table, "dynamics": dynamics_table,
        "speed": speed_table, "large": large_table, "many": many_table,
    }  # fmt: skip
    tables = [each for name in chosen.only for each in (dft(chosen) if name == "dft" else [makers[name](chosen)])]
    finish(tables, chosen.output, vars(chosen))


if __name__ == "__main__":
    main()
