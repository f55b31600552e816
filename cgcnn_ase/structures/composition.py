"""Formulas of structures, as people read them."""

import numpy as np

from cgcnn_ase.core.arrays import Ints
from cgcnn_ase.core.elements import symbols


def formula_of(atomic_numbers: Ints) -> str:
    """The reduced formula as chemists write it: ``LiNiO2``."""
    from pymatgen.core import Composition

    from cgcnn_ase.structures.disorder import without_reader_warnings

    numbers, counts = np.unique(atomic_numbers, return_counts=True)
    with without_reader_warnings():
        return Composition({symbols()[z]: int(n) for z, n in zip(numbers, counts, strict=True)}).reduced_formula
