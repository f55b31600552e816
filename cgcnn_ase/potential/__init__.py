"""A potential: energy, forces and stress of atoms, with their uncertainty."""
