"""CP2K's Quickstep through aiida-cp2k's `Cp2kBaseWorkChain`."""

from collections.abc import Mapping
from math import sqrt
from typing import TYPE_CHECKING, Any

from ase.units import Bohr, Hartree, Ry, kB

from aiida_plugin.engines import hubbard
from aiida_plugin.engines.base import Call, Engine, plain_call
from aiida_plugin.engines.jobs import job_options
from aiida_plugin.engines.kpoints import mesh_of

if TYPE_CHECKING:
    from aiida.engine import ProcessBuilder
    from aiida.orm import AbstractCode, ProcessNode, Str, StructureData

    from aiida_plugin.data.structures import StructureSetData

#: a line that CP2K reads as a comment: keeps the setting with the inputs that were made of it
DISTANCE = "# KPOINTS_DISTANCE"
#: part of the wall time after which CP2K stops by itself, with a restart file
_OF_WALL_TIME = 0.95
_ANGULAR_MOMENTUM = {"s": 0, "p": 1, "d": 2, "f": 3}
_FUNCTIONALS = ("PBE",)


class CP2KEngine(Engine):
    """CP2K with Gaussians and plane waves; the basis sets and potentials are those of its data folder, by name.

    The energy is the free energy at the temperature of the Fermi-Dirac smearing. Where Γ alone is left of the k-points
    it is used as such, else CP2K has no Hubbard U.
    """

    name = "cp2k"
    code_plugin = "cp2k"

    def builder(
        self,
        structure: "StructureData",
        code: "AbstractCode",
        settings: Mapping[str, Any],
        *,
        moments: Mapping[str, float],
        options: Mapping[str, Any],
    ) -> "ProcessBuilder":
        """All inputs of one run; see :meth:`Engine.builder`."""
        from aiida.orm import Dict
        from aiida_cp2k.workchains.base import Cp2kBaseWorkChain

        kpoints = mesh_of(structure, settings["kpoints_distance"])
        gamma = kpoints.get_kpoints_mesh()[0] == [1, 1, 1]
        values = hubbard.values(structure, settings)
        if values and not gamma:
            raise ValueError(
                "CP2K has no Hubbard U with k-points; label a supercell with a kpoints_distance at which Γ alone is "
                "left, or set hubbard: false"
            )
        made = _over(_parameters(structure, settings, moments, values), settings["parameters"])
        if "max_wallclock_seconds" in options:
            made["GLOBAL"].setdefault("WALLTIME", int(_OF_WALL_TIME * options["max_wallclock_seconds"]))
        builder: ProcessBuilder = Cp2kBaseWorkChain.get_builder()
        inputs: dict[str, Any] = {
            "structure": structure,
            "code": code,
            "parameters": Dict(made),
            "metadata": {"options": job_options(code, options)},
        }
        if not gamma:
            inputs["kpoints"] = kpoints
        restarts = Dict({"restart_incomplete_calculation": {"enabled": True}})
        builder._update({"cp2k": inputs, "handler_overrides": restarts})
        return builder

    def labelled(self, run: "ProcessNode", structure_id: "Str", call: Call = plain_call) -> "StructureSetData":
        """The labels of a finished run; see :meth:`Engine.labelled`."""
        from aiida_plugin.calculations.labels_of_cp2k import labels_of_cp2k

        if "output_parameters" not in run.outputs:
            raise ValueError(f"the run {run.pk} has no output_parameters, so no energy; exit code: {run.exit_status}")
        parameters = run.inputs.cp2k.parameters
        relaxed = parameters["GLOBAL"]["RUN_TYPE"] == "GEO_OPT"
        labels: StructureSetData = call(
            labels_of_cp2k,
            structure=run.outputs.output_structure if relaxed else run.inputs.cp2k.structure,
            output_parameters=run.outputs.output_parameters,
            retrieved=run.outputs.retrieved,
            parameters=parameters,
            structure_id=structure_id,
        )
        return labels


def _parameters(
    structure: "StructureData", settings: Mapping[str, Any], moments: Mapping[str, float], values: Mapping[str, float]
) -> dict[str, Any]:
    """The sections of CP2K's input."""
    if settings["functional"] not in _FUNCTIONALS:
        raise ValueError(f"functional is {settings['functional']!r}; allowed with CP2K: {', '.join(_FUNCTIONALS)}")
    made: dict[str, Any] = {
        "GLOBAL": {
            "RUN_TYPE": "GEO_OPT" if settings["relax"] else "ENERGY_FORCE",
            "PRINT_LEVEL": "MEDIUM",
            DISTANCE: settings["kpoints_distance"],
        },
        "FORCE_EVAL": {
            "METHOD": "QUICKSTEP",
            "STRESS_TENSOR": "ANALYTICAL",
            "PRINT": {"FORCES": {"_": "ON"}, "STRESS_TENSOR": {"_": "ON"}},
            "DFT": _dft(structure, settings),
            "SUBSYS": {"KIND": [_kind(kind, settings, moments, values) for kind in structure.kinds]},
        },
    }
    if values:
        made["FORCE_EVAL"]["DFT"]["PLUS_U_METHOD"] = "MULLIKEN"
    if settings["relax"]:
        steps = {"OPTIMIZER": "BFGS", "MAX_ITER": settings["max_relax_steps"]}
        made["MOTION"] = {"GEO_OPT": steps | {"MAX_FORCE": settings["fmax"] / (Hartree / Bohr)}}
    return made


def _dft(structure: "StructureData", settings: Mapping[str, Any]) -> dict[str, Any]:
    """The electrons: grids, smearing, mixing, functional."""
    return {
        "BASIS_SET_FILE_NAME": settings["basis_file"],
        "POTENTIAL_FILE_NAME": settings["potential_file"],
        "UKS": bool(settings["spin"]),
        "QS": {"METHOD": "GPW", "EPS_DEFAULT": 1e-12},
        "MGRID": {"CUTOFF": settings["cutoff_density"] / Ry, "REL_CUTOFF": settings["cutoff_relative"] / Ry},
        "SCF": {
            "SCF_GUESS": "ATOMIC",
            # of the density matrix; the error of the energy is of second order in it
            "EPS_SCF": 1e-3 * sqrt(settings["energy_tolerance"] / Hartree),
            "MAX_SCF": settings["max_scf_steps"],
            "ADDED_MOS": 10 + 2 * len(structure.sites),
            "DIAGONALIZATION": {"_": "ON"},
            "SMEAR": {"_": "ON", "METHOD": "FERMI_DIRAC", "ELECTRONIC_TEMPERATURE": settings["smearing"] / kB},
            "MIXING": {"METHOD": "BROYDEN_MIXING", "ALPHA": settings["mixing_beta"]},
        },
        "XC": {"XC_FUNCTIONAL": {"_": settings["functional"]}},
    }


def _kind(
    kind: Any, settings: Mapping[str, Any], moments: Mapping[str, float], values: Mapping[str, float]
) -> dict[str, Any]:
    """Of the atoms of one kind: basis set, potential, moment to start from, U."""
    made: dict[str, Any] = {
        "_": kind.name,
        "ELEMENT": kind.symbol,
        "BASIS_SET": settings["basis_sets"].get(kind.symbol, settings["basis_set"]),
        "POTENTIAL": settings["potentials"].get(kind.symbol, settings["potential"]),
    }
    if settings["spin"] and moments.get(kind.name):
        made["MAGNETIZATION"] = moments[kind.name]
    if kind.name in values:
        momentum = _ANGULAR_MOMENTUM[hubbard.shell(kind.symbol)[-1]]
        made["DFT_PLUS_U"] = {"L": momentum, "U_MINUS_J": f"[eV] {values[kind.name]}"}
    return made


def _over(made: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The user's own sections over those made of the settings."""
    merged = dict(made)
    for key, value in given.items():
        old = merged.get(key.upper())
        merged[key.upper()] = _over(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return merged
