"""Lithium vacancies of LiNiO2: screened by the potential, relaxed by DFT that is asked as little as possible.

The same is done by DFT alone, so that energies and numbers of calls can be compared. CHGNet, a potential, stands for
DFT here, so that the whole takes seconds. ``--reference gpaw`` asks GPAW (from ``make engines``), minutes a call.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import make_supercell
from ase.optimize import BFGS
from ase.spacegroup import crystal

from cgcnn_ase import load_model, relax
from cgcnn_ase.energies.energy_model import GraphEnergy
from cgcnn_ase.learning.reference import reference_by_name
from cgcnn_ase.prediction.predictor import Predictor

FMAX = 0.1  # eV/Å


def vacancies() -> dict[str, Atoms]:
    """Two of four lithium atoms are missing: in one layer, or in two.

    R-3m LiNiO2: a 2.878 Å, c 14.19 Å, z of oxygen 0.258.
    """
    cell = crystal(
        ["Li", "Ni", "O"], [(0, 0, 0.5), (0, 0, 0), (0, 0, 0.2581)], spacegroup=166,
        cellpar=[2.878, 2.878, 14.19, 90, 90, 120], primitive_cell=True,
    )  # fmt: skip
    host = make_supercell(cell, np.array([[1, -1, 0], [1, 1, -2], [1, 1, 0]]))
    lithium = [atom.index for atom in host if atom.symbol == "Li"]
    made = {"one layer": host.copy(), "two layers": host.copy()}
    for atoms, same in zip(made.values(), (True, False), strict=True):
        heights = host.positions[lithium, 2] - host.positions[lithium[0], 2]
        other = next(k for k, z in zip(lithium[1:], heights[1:], strict=True) if (abs(z) < 1.0) == same)
        del atoms[[lithium[0], other]]
    return made


def alone(atoms: Atoms, reference) -> tuple[float, int]:
    """Energy (eV) and calls of a relaxation by the reference."""
    moved, calls = atoms.copy(), 0
    moved.calc = reference
    for _ in BFGS(moved, logfile=None).irun(fmax=FMAX, steps=100):
        calls += 1
    return float(moved.get_potential_energy()), calls


arguments = argparse.ArgumentParser(description=__doc__)
arguments.add_argument("--reference", default="chgnet")
name = arguments.parse_args().reference
output = Path("vacancy_energies_by_dft")
output.mkdir(exist_ok=True)
cells = vacancies()

screened = relax(list(cells.values()), "cathode-potential", fmax=FMAX, fixed_cell=True)
model = load_model("cathode-potential")
energies = GraphEnergy(Predictor(model).inference(), "none").energies([row.atoms for row in screened])
differences, stds = energies.differences(to=0)

started = time.perf_counter()
learned = relax(
    list(cells.values()), "cathode-potential", reference=reference_by_name(name), fixed_cell=True,
    fmax=FMAX, memory=output / f"memory_{name}",
)  # fmt: skip
seconds_learned, started = time.perf_counter() - started, time.perf_counter()
by_reference = [alone(atoms, reference_by_name(name)) for atoms in cells.values()]
seconds_alone = time.perf_counter() - started

print(f"energies of two vacancies relative to those in {next(iter(cells))}, eV a cell; in brackets calls of {name}")
print(f"{'':12} {'screened':>16} {'relaxed, asking':>18} {f'{name} alone':>18}")
for k, kind in enumerate(cells):
    ours, peer = learned[k].energy - learned[0].energy, by_reference[k][0] - by_reference[0][0]
    print(
        f"{kind:12} {differences[k]:8.3f} ± {stds[k]:.3f} {ours:13.3f} ({learned[k].n_reference_calls:2d}) "
        f"{peer:13.3f} ({by_reference[k][1]:2d})"
    )
print(f"{seconds_learned:.0f} s and {seconds_alone:.0f} s; `cgcnn-ase finetune` reads the labels in {output}")
