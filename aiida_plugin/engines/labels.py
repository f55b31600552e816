"""Labels of a run in ASE's units, order and signs."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from aiida_plugin.data.labels import SCHEME
from aiida_plugin.data.structures import StructureSetData

if TYPE_CHECKING:
    from aiida.orm import ProcessNode, Str, StructureData
    from numpy.typing import ArrayLike


def labelled_set(
    structure: "StructureData",
    structure_id: "Str",
    scheme: Mapping[str, object],
    energy: float,  # eV
    *,
    forces: "ArrayLike | None" = None,  # eV/Å, shape (n_atoms, 3)
    pressure: "ArrayLike | None" = None,  # eV/Å³, shape (3, 3); the codes' sign, which counts compression as positive
    magmoms: "ArrayLike | None" = None,  # μB, shape (n_atoms,)
    is_free_energy: bool = False,  # of the electrons at the smearing's temperature
) -> StructureSetData:
    """Make a set of one labelled structure, which stands where the last step was made.

    `scheme` says what made the labels, the engine's name among it; see :mod:`aiida_plugin.data.labels`.
    """
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.stress import full_3x3_to_voigt_6_stress

    atoms = structure.get_ase()
    atoms.info[SCHEME] = dict(scheme)
    free = {"free_energy": energy} if is_free_energy else {}
    atoms.calc = SinglePointCalculator(atoms, energy=energy, **free)
    atoms.calc.name = str(scheme["engine"])
    if forces is not None:
        atoms.calc.results["forces"] = np.array(forces, dtype=float)
    if pressure is not None:
        atoms.calc.results["stress"] = -full_3x3_to_voigt_6_stress(np.array(pressure, dtype=float))
    if magmoms is not None:
        atoms.calc.results["magmoms"] = np.array(magmoms, dtype=float)
    return StructureSetData.from_ase([atoms], [structure_id.value])


def check_outputs(run: "ProcessNode", *names: str) -> None:
    """Refuse a run without the outputs that its labels are read from."""
    if missing := [name for name in names if name not in run.outputs]:
        raise ValueError(f"the run {run.pk} has no {missing[0]}, so no energy; exit code: {run.exit_status}")
