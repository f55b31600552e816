"""Layers from published lattice parameters."""

import numpy as np
from ase import Atoms
from ase.build import mx2


def boron_nitride() -> Atoms:
    """One layer, a = 2.504 Å (Paszkowicz et al., Appl. Phys. A 75, 431 (2002))."""
    a = 2.504
    cell = [[a, 0, 0], [-a / 2, a * np.sqrt(3) / 2, 0], [0, 0, 15]]
    return Atoms("BN", scaled_positions=[[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]], cell=cell, pbc=True)


def molybdenum_disulfide() -> Atoms:
    """One layer, a = 3.16 Å (Bronsema et al., Z. anorg. allg. Chem. 540, 15 (1986))."""
    atoms = mx2("MoS2", a=3.16, thickness=3.17, vacuum=8.0)
    atoms.pbc = True
    return atoms
