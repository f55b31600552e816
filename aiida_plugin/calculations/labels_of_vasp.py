"""What a run of VASP found, as a labelled set of one structure."""

from math import pi
from typing import TYPE_CHECKING, Any

import numpy as np
from aiida.engine import calcfunction
from aiida.orm import Dict, Float, Str, StructureData
from ase.units import GPa

from aiida_plugin.data.label_scheme import SCHEME
from aiida_plugin.data.structures import StructureSetData

if TYPE_CHECKING:
    from ase import Atoms

#: VASP writes stress in kilobar
_KBAR = 0.1 * GPa
#: eV, extrapolated to no smearing, of the last electronic step: that of the ionic step has p V in it under PSTRESS
_ENERGY = "energy_extrapolated_electronic"
#: digits of a hash that tell potentials apart
_HASH = 16


@calcfunction
def labels_of_vasp(
    structure: StructureData,
    misc: Dict,
    parameters: Dict,
    kpoints_spacing: Float,
    structure_id: Str,
    **potentials: Any,
) -> StructureSetData:
    """Energy, forces, stress and magnetic moments of the last step, with what made them.

    Parameters
    ----------
    structure
        Where the last step was made: the one that was given, or the relaxed one.
    misc
        Of the run.
    parameters
        The tags of its last job.
    kpoints_spacing
        1/Å, without the factor 2π.
    structure_id
        The id in the set.
    potentials
        Of each kind.

    Raises
    ------
    ValueError
        If there is no energy among the outputs.
    """
    found, tags = misc.get_dict(), parameters.get_dict()
    if _ENERGY not in found.get("total_energies", {}):
        raise ValueError("the outputs of VASP hold no energy")
    atoms = structure.get_ase()
    _attach(atoms, found)
    atoms.info[SCHEME] = {
        "engine": "vasp",
        "engine_version": str(found["version"]).strip(),
        "functional": _functional(tags),
        "hubbard_u": _hubbard(structure, tags),
        "pseudopotentials": {
            each.element: f"{each.full_name} sha512:{each.sha512[:_HASH]}" for each in potentials.values()
        },
        "cutoffs": {"wavefunctions": float(tags["encut"])},
        "kpoints_distance": round(kpoints_spacing.value * 2 * pi, 9),
        "smearing": [int(tags["ismear"]), float(tags["sigma"])],
        "spin": tags["ispin"] == 2,
        "relaxed": tags.get("nsw", 0) > 0,
    }
    return StructureSetData.from_ase([atoms], [structure_id.value])


def _attach(atoms: "Atoms", found: dict[str, Any]) -> None:
    """The results of the last step, in ASE's units, order and signs."""
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.stress import full_3x3_to_voigt_6_stress

    calculator = SinglePointCalculator(atoms, energy=float(found["total_energies"][_ENERGY]))
    calculator.name = "vasp"
    if found.get("forces") is not None:
        calculator.results["forces"] = np.array(found["forces"], dtype=float)
    if found.get("stress") is not None:  # VASP counts compression as positive, ASE tension
        calculator.results["stress"] = -full_3x3_to_voigt_6_stress(np.array(found["stress"], dtype=float)) * _KBAR
    sites = ((found.get("site_magnetization") or {}).get("sphere", {}).get("x") or {}).get("site_moment") or {}
    if sites:
        calculator.results["magmoms"] = np.array([sites[key]["tot"] for key in sorted(sites, key=int)], dtype=float)
    atoms.calc = calculator


def _functional(tags: dict[str, Any]) -> str:
    from aiida_plugin.engines.vasp import FUNCTIONALS

    given = str(tags.get("gga", "")).lower()
    return next((name for name, tag in FUNCTIONALS.items() if tag == given), given)


def _hubbard(structure: StructureData, tags: dict[str, Any]) -> dict[str, float]:
    """U in eV by element; VASP's tag lists it for each run of atoms of one kind."""
    if not tags.get("ldau"):
        return {}
    from aiida_vasp.parsers.content_parsers.potcar import MultiPotcarIo

    symbols = {kind.name: kind.symbol for kind in structure.kinds}
    listed = zip(MultiPotcarIo.potentials_order(structure), tags["ldauu"], strict=True)
    return {symbols[kind]: float(value) for kind, value in listed if value}
