"""A lithium vacancy in NCM811: the structure relaxes around it, and a picture shows how sure the potential is."""

import warnings
from pathlib import Path

from ase.filters import FrechetCellFilter
from ase.io import read, write
from ase.optimize import BFGS

from cgcnn_ase import CGCNNCalculator
from cgcnn_ase.cathodes import cathodes
from cgcnn_ase.plotting.model_plots import save
from cgcnn_ase.plotting.prediction_plots import relaxation_plot

FMAX = 0.05  # eV/Å
warnings.filterwarnings("ignore", "logm result may be inaccurate")  # by 1e-13, in ASE's FrechetCellFilter
output = Path("relax_vacancy")
output.mkdir(exist_ok=True)

(atoms,) = cathodes("NCM811", num=1, n_atoms=100, seed=42)
del atoms[next(atom.index for atom in atoms if atom.symbol == "Li")]
atoms.calc = CGCNNCalculator("cathode-potential")
print(f"{atoms.get_chemical_formula(mode='metal')}: {len(atoms)} atoms, {atoms.get_volume():.1f} Å³")

# each step with its energy, forces and stress, and what the calculator adds: std, in_domain, model
steps = output / "steps.extxyz"
steps.unlink(missing_ok=True)
relaxation = BFGS(FrechetCellFilter(atoms), logfile=None)
relaxation.attach(lambda: write(steps, atoms.calc.annotate(atoms), append=True))
converged = relaxation.run(fmax=FMAX, steps=300)

frames = read(steps, ":")
for step in sorted({*range(0, len(frames), 10), len(frames) - 1}):
    info, energy = frames[step].info, frames[step].get_potential_energy()
    print(
        f"step {step:3d}: {energy:9.3f} ± {info['energy_std']:.3f} eV, std of a force up to "
        f"{info['max_force_std']:.3f} eV/Å"
    )
print(f"{'converged' if converged else 'not converged'} after {len(frames) - 1} steps, {atoms.get_volume():.1f} Å³")
if not frames[-1].info.get("in_domain", True):
    print(f"unlike what the potential has learned: {frames[-1].info['in_domain_reason']}")
save(relaxation_plot(frames, fmax=FMAX), output / "relaxation.png")
print(f"picture and steps in {output}")
