"""GPAW through ``cgcnn.ase_dft``."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aiida_plugin.engines.ase import ASEJobsEngine, job_builder
from aiida_plugin.engines.kpoints import mesh_of

if TYPE_CHECKING:
    from aiida.engine import ProcessBuilder
    from aiida.orm import AbstractCode, StructureData


class GPAWEngine(ASEJobsEngine):
    """GPAW with plane waves; its code is a Python interpreter that has it."""

    name = "gpaw"

    def builder(
        self,
        structure: "StructureData",
        code: "AbstractCode",
        settings: Mapping[str, Any],
        *,
        moments: Mapping[str, float],
        options: Mapping[str, Any],
    ) -> "ProcessBuilder":
        """All inputs of one run."""
        job = {
            "calculator": "gpaw",
            "parameters": gpaw_parameters(structure, settings),
            "task": "relax" if settings["relax"] else "energy",
            "moments": dict(moments) if settings["spin"] else {},
            "kpoints_distance": settings["kpoints_distance"],
        }
        if settings["relax"]:
            job |= {"fmax": settings["fmax"], "max_steps": settings["max_relax_steps"]}
        return job_builder(structure, code, job, options, ("gpaw", "gpaw-data"))


def gpaw_parameters(structure: "StructureData", settings: Mapping[str, Any]) -> dict[str, Any]:
    """What GPAW is made with, as JSON: plane waves, a mesh around Γ, PAW data sets with U.

    Raises
    ------
    ValueError
        If ``kpoints_distance`` is not positive.
    """
    parameters: dict[str, Any] = {
        "mode": {"name": "pw", "ecut": float(settings["cutoff"])},
        "xc": settings["functional"],
        "kpts": {"size": mesh_of(structure, float(settings["kpoints_distance"])).get_kpoints_mesh()[0], "gamma": True},
        "spinpol": bool(settings["spin"]),
        "occupations": {"name": "fermi-dirac", "width": float(settings["smearing"])},
        "maxiter": int(settings["max_scf_steps"]),
        "convergence": {
            # GPAW counts eV per valence electron, of which few oxides have more than ten an atom
            "energy": float(settings["energy_tolerance"]) / 10,
            "density": float(settings["density_tolerance"]),
            "eigenstates": float(settings["eigenstates_tolerance"]),
        },
    }
    setups = _setups({kind.symbol for kind in structure.kinds}, settings)
    if setups:
        parameters["setups"] = setups
    return {**parameters, **settings["parameters"]}


def _setups(elements: set[str], settings: Mapping[str, Any]) -> dict[str, str]:
    """PAW data sets by element, with U on the d electrons: ``{"Ni": "10:d,6.2"}``."""
    u = settings["hubbard_u"] if settings["hubbard"] else {}
    result = {}
    for element in sorted(elements):
        name = str(settings["setups"].get(element, ""))
        if u.get(element):
            name += f":d,{float(u[element])}"
        if name:
            result[element] = name
    return result
