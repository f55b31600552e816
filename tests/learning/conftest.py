"""A slab with an adsorbate on EMT, which costs nothing, and references that go wrong."""

import hashlib

import numpy as np
import pytest
from ase.build import add_adsorbate, bulk, fcc111
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms

from cgcnn_ase.graphs.crystal_graph import geometry
from cgcnn_ase.learning.surface import PotentialSurface


@pytest.fixture
def slab():
    """Hydrogen on a small Al(111), of which the lowest layer stays."""
    atoms = fcc111("Al", (2, 2, 3), a=4.05, vacuum=8.0, periodic=True)
    add_adsorbate(atoms, "H", 1.5, "bridge", offset=(0.05, 0.02))
    atoms.set_constraint(FixAtoms([atom.index for atom in atoms if atom.tag == 3]))
    return atoms


@pytest.fixture
def copper():
    """A rattled and strained cell of copper and gold."""
    atoms = bulk("Cu", a=3.7, cubic=True)
    atoms.symbols[0] = "Au"
    atoms.rattle(0.15, seed=2)
    atoms.set_cell(atoms.cell.array @ [[1.02, 0.01, 0], [0.01, 0.99, 0], [0, 0, 1.0]], scale_atoms=True)
    return atoms


class CountedEMT(EMT):
    """EMT that counts."""

    calls = 0

    def calculate(self, *args, **kwargs):
        self.calls += 1
        super().calculate(*args, **kwargs)


class RoughEMT(EMT):
    """EMT with forces that jump from structure to structure, or with an energy of short waves that has these forces."""

    def __init__(self, *, noise=0.0, wave=0.0, length=0.2):
        super().__init__()
        self.noise, self.wave, self.length, self.calls = noise, wave, length, 0

    def todict(self):
        return {"noise": self.noise, "wave": self.wave, "length": self.length}

    def calculate(self, atoms=None, *args, **kwargs):
        self.calls += 1
        super().calculate(atoms, *args, **kwargs)
        digest = hashlib.sha256(np.round(atoms.positions, 4).tobytes()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        q = 2 * np.pi / self.length
        energy = self.wave / q * np.cos(q * atoms.positions).sum() + 0.02 * self.noise * rng.normal()
        forces = self.wave * np.sin(q * atoms.positions) + self.noise * rng.normal(size=(len(atoms), 3))
        self.results["energy"] = self.results["free_energy"] = self.results["energy"] + energy
        self.results["forces"] = self.results["forces"] + forces


class Shifted(Calculator):
    """A potential with energies of atoms added that are linear in their vectors: a reference that is nearly like it."""

    implemented_properties = ("energy", "forces")

    def __init__(self, model, seed=0, size=0.02):
        super().__init__()
        surface = PotentialSurface(model)
        energies = surface.features(geometry(bulk("NaCl", "rocksalt", a=5.6, cubic=True))).energy
        rng = np.random.default_rng(seed)
        self.surface = surface.shifted({z: size * rng.normal(size=len(each)) for z, each in energies.items()})

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        point = self.surface(geometry(atoms))
        self.results = {"energy": point.energy - 7.0 * len(atoms), "forces": point.forces}
