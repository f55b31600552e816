"""Lithium vacancies of LiNiO2: screened by the potential, relaxed by GPAW that is asked as little as possible.

The same is done by GPAW alone, so that energies and numbers of calls can be compared. The cells are small (7 atoms) and
GPAW's settings coarse: the whole takes some minutes on one core. ``make engines`` installs GPAW.
"""

import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import make_supercell
from ase.optimize import BFGS
from ase.spacegroup import crystal

from cgcnn_ase import load_model, relax
from cgcnn_ase.energies.graph_model import GraphEnergy
from cgcnn_ase.prediction.predictor import Predictor

FMAX = 0.1  # eV/Å


def gpaw():
    """Coarse settings, the same for all structures: energies of different settings cannot be compared."""
    from gpaw import GPAW

    return GPAW(
        mode={"name": "pw", "ecut": 250}, xc="PBE", kpts={"size": (2, 2, 2), "gamma": True}, symmetry="off",
        occupations={"name": "fermi-dirac", "width": 0.1}, convergence={"density": 1e-3, "eigenstates": 1e-4}, txt=None,
    )  # fmt: skip


def vacancies() -> dict[str, Atoms]:
    """One of two lithium atoms is missing: in each layer every second row, or every second layer.

    R-3m LiNiO2: a 2.878 Å, c 14.19 Å, z of oxygen 0.258.
    """
    cell = crystal(
        ["Li", "Ni", "O"], [(0, 0, 0.5), (0, 0, 0), (0, 0, 0.2581)], spacegroup=166,
        cellpar=[2.878, 2.878, 14.19, 90, 90, 120], primitive_cell=True,
    )  # fmt: skip
    made = {}
    for name, shape in {
        "rows": [[1, -1, 0], [0, 1, 0], [1, 1, 2]],
        "layers": [[1, 0, -1], [0, 1, -1], [0, 0, 2]],
    }.items():
        atoms = make_supercell(cell, np.array(shape))
        del atoms[next(atom.index for atom in atoms if atom.symbol == "Li")]
        made[name] = atoms
    return made


def alone(atoms: Atoms) -> tuple[float, int]:
    """Energy (eV) and calls of a relaxation by GPAW."""
    moved, calls = atoms.copy(), 0
    moved.calc = gpaw()
    for _ in BFGS(moved, logfile=None).irun(fmax=FMAX, steps=60):
        calls += 1
    return float(moved.get_potential_energy()), calls


if find_spec("gpaw") is None:
    raise SystemExit("GPAW is not installed: `make engines` does it")
output = Path("vacancy_energies_by_dft")
output.mkdir(exist_ok=True)
cells = vacancies()
for name, atoms in cells.items():
    atoms.info["name"] = name

screened = relax(list(cells.values()), "cathode-potential", fmax=FMAX, fixed_cell=True)
model = load_model("cathode-potential")
energies = GraphEnergy(Predictor(model).inference(), "none").energies([row.atoms for row in screened])
differences, stds = energies.differences(to=0)

started = time.perf_counter()
learned = relax(
    list(cells.values()), "cathode-potential", reference=gpaw(), fixed_cell=True, fmax=FMAX, memory=output / "memory"
)  # fmt: skip
seconds_learned, started = time.perf_counter() - started, time.perf_counter()
by_gpaw = [alone(atoms) for atoms in cells.values()]
seconds_alone = time.perf_counter() - started

print("energies relative to the first, eV a cell; in brackets calls of GPAW")
print(f"{'vacancies':10} {'screened':>16} {'relaxed, asking':>18} {'GPAW alone':>16}")
for k, name in enumerate(cells):
    std = 0.0 if stds is None else stds[k]
    ours, peer = learned[k].energy - learned[0].energy, by_gpaw[k][0] - by_gpaw[0][0]
    print(
        f"{name:10} {differences[k]:8.3f} ± {std:.3f} {ours:12.3f} ({learned[k].n_reference_calls:2d}) "
        f"{peer:10.3f} ({by_gpaw[k][1]:2d})"
    )
print(f"{seconds_learned:.0f} s and {seconds_alone:.0f} s; labels in {output / 'memory'}, for `cgcnn-ase finetune`")
