"""The main job in a few lines: the energy of a crystal, and how far to trust it."""

from pathlib import Path

from ase.io import read

from cgcnn_ase import CGCNNCalculator

atoms = read(Path(__file__).resolve().parent / "structures" / "LiNiO2.cif")
atoms.calc = CGCNNCalculator()

energy = atoms.get_potential_energy()
energy_std = atoms.calc.get_energy_uncertainty()
formation_energy = atoms.calc.get_property("formation_energy_per_atom", atoms)
formation_std = atoms.calc.get_property("formation_energy_per_atom_std", atoms)
in_domain = atoms.calc.get_property("in_domain", atoms)

print(f"{atoms.get_chemical_formula()}: total energy {energy:.2f} ± {energy_std:.2f} eV")
print(f"formation energy {formation_energy:.3f} ± {formation_std:.3f} eV/atom")
print("inside" if in_domain else "outside", "what the model was trained on")
