"""A slab with an adsorbate on EMT, which costs nothing, and references that go wrong."""

import pytest
from ase.build import add_adsorbate, bulk, fcc111
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms


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
