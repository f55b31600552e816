"""Formulas of structures, as people read them."""

import numpy as np
import numpy.typing as npt

from cgcnn_ase.elements import symbols


def formula_of(atomic_numbers: npt.NDArray[np.int64]) -> str:
    """The reduced formula as chemists write it: ``LiNiO2``."""
    from pymatgen.core import Composition

    from cgcnn_ase.structures.pymatgen_objects import without_reader_warnings

    numbers, counts = np.unique(atomic_numbers, return_counts=True)
    with without_reader_warnings():
        return Composition({symbols()[z]: int(n) for z, n in zip(numbers, counts, strict=True)}).reduced_formula
