"""CP2K's Quickstep through aiida-cp2k's `Cp2kBaseWorkChain`."""

import re
from collections.abc import Mapping
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from aiida.engine import calcfunction
from aiida.orm import Dict, FolderData, Str, StructureData
from ase.units import Bohr, GPa, Hartree, Ry, kB

from aiida_plugin.data.label_scheme import SCHEME
from aiida_plugin.data.structures import StructureSetData
from aiida_plugin.engines import hubbard
from aiida_plugin.engines.base import Call, Engine, plain_call
from aiida_plugin.engines.jobs import job_options
from aiida_plugin.engines.kpoints import mesh_of
from cgcnn_ase.core.arrays import Floats

if TYPE_CHECKING:
    from aiida.engine import ProcessBuilder
    from aiida.orm import AbstractCode, ProcessNode, Str, StructureData
    from ase import Atoms

    from aiida_plugin.data.structures import StructureSetData


_OUTPUT = "aiida.out"
_VERSION = re.compile(r"^ CP2K\| version string:\s+CP2K version (\S+)", re.M)
_FUNCTIONAL = re.compile(r"^ FUNCTIONAL\| (\w+):", re.M)
_CUTOFF = re.compile(r"^ QS\| Density cutoff \[a\.u\.\]:\s+(\S+)", re.M)
_RELATIVE = re.compile(r"^ QS\| Relative density cutoff \[a\.u\.\]:\s+(\S+)", re.M)
_KIND = re.compile(r"\d+\. Atomic kind: (\S+).*?Orbital Basis Set\s+(\S+).*?Potential information for\s+(\S+)", re.S)

#: until 2024.1, and after
_FORCES = (
    re.compile(r"^ ATOMIC FORCES in \[a\.u\.\]\n\n.*\n((?: +\d+ +\d+ +\S+(?: +[-+.\dE]+){3}\n)+)", re.M),
    re.compile(r"^ FORCES\| Atomic forces \[hartree/bohr\]\n.*\n((?: FORCES\| +\d+(?: +[-+.\dE]+){4}\n)+)", re.M),
)
_STRESS = re.compile(
    r"^ STRESS\| Analytical stress tensor \[GPa\]\n.*\n((?: STRESS\| +[xyz](?: +[-+.\dE]+){3}\n){3})", re.M
)

#: versions up to 2023.1 go on after it
_NOT_CONVERGED = "SCF run NOT converged"
_MULLIKEN = "Mulliken Population Analysis"


@calcfunction
def labels_of_cp2k(
    structure: StructureData, output_parameters: Dict, retrieved: FolderData, parameters: Dict, structure_id: Str
) -> StructureSetData:
    """Energy, forces, stress and magnetic moments (Mulliken's) of the last step, with what made them.

    Parameters
    ----------
    structure
        Where the last step was made: the one that was given, or the relaxed one.
    output_parameters, retrieved
        Of the run.
    parameters
        The input that it was given.
    structure_id
        The id in the set.

    Raises
    ------
    ValueError
        If there is no energy among the outputs, the last step did not converge, or the text lacks what a label needs.
    """
    result = output_parameters.get_dict()
    if "energy" not in result:
        raise ValueError("the outputs of CP2K hold no energy")
    text = retrieved.base.repository.get_object_content(_OUTPUT, "r")
    if _NOT_CONVERGED in text[text.rfind("SCF WAVEFUNCTION OPTIMIZATION") :]:
        raise ValueError("CP2K's self-consistent field did not converge; raise max_scf_steps or lower mixing_beta")
    atoms = structure.get_ase()
    spin = bool(parameters["FORCE_EVAL"]["DFT"]["UKS"])
    _attach(atoms, result["energy"] * Hartree, text, spin)
    atoms.info[SCHEME] = _scheme(structure, parameters.get_dict(), text, spin)
    return StructureSetData.from_ase([atoms], [structure_id.value])


def _attach(atoms: "Atoms", energy: float, text: str, spin: bool) -> None:
    """The results of the last step, in ASE's units, order and signs."""
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.stress import full_3x3_to_voigt_6_stress

    calculator = SinglePointCalculator(atoms, energy=energy, free_energy=energy)
    calculator.name = "cp2k"
    for columns, pattern in zip((slice(3, 6), slice(2, 5)), _FORCES, strict=True):
        if blocks := pattern.findall(text):
            calculator.results["forces"] = _numbers(blocks[-1], columns) * (Hartree / Bohr)
    if blocks := _STRESS.findall(text):  # CP2K counts compression as positive, ASE tension
        calculator.results["stress"] = -full_3x3_to_voigt_6_stress(_numbers(blocks[-1], slice(2, 5))) * GPa
    if spin:
        calculator.results["magmoms"] = _moments(text)
    atoms.calc = calculator


def _scheme(structure: StructureData, parameters: dict[str, Any], text: str, spin: bool) -> dict[str, Any]:

    symbols = {kind.name: kind.symbol for kind in structure.kinds}
    scf = parameters["FORCE_EVAL"]["DFT"]["SCF"]
    return {
        "engine": "cp2k",
        "engine_version": _one(_VERSION, text, "its version"),
        "functional": _one(_FUNCTIONAL, text, "the functional"),
        "hubbard_u": _hubbard(parameters, text),
        "pseudopotentials": {
            symbols.get(kind, kind): f"{potential} with {basis}" for kind, basis, potential in _KIND.findall(text)
        },
        "cutoffs": {
            "density": round(float(_one(_CUTOFF, text, "the cutoff")) * Hartree, 3),
            "relative": round(float(_one(_RELATIVE, text, "the relative cutoff")) * Hartree, 3),
        },
        "kpoints_distance": parameters["GLOBAL"][DISTANCE],
        "smearing": [scf["SMEAR"]["METHOD"].lower(), round(scf["SMEAR"]["ELECTRONIC_TEMPERATURE"], 3)],
        "spin": spin,
        "relaxed": parameters["GLOBAL"]["RUN_TYPE"] == "GEO_OPT",
    }


def _hubbard(parameters: dict[str, Any], text: str) -> dict[str, float]:
    """U in eV by element, if the run says that it used it."""
    expected_input = {
        kind["ELEMENT"]: float(kind["DFT_PLUS_U"]["U_MINUS_J"].split()[-1])
        for kind in parameters["FORCE_EVAL"]["SUBSYS"]["KIND"]
        if "DFT_PLUS_U" in kind
    }
    if expected_input and "DFT+U energy:" not in text:
        raise ValueError("CP2K left out the Hubbard U that it was given")
    return expected_input


def _moments(text: str) -> Floats:
    from cp2k_output_tools.blocks.mulliken import match_mulliken_population_analysis

    start = text.rfind(_MULLIKEN)
    result = match_mulliken_population_analysis(text[text.rfind("\n", 0, start) + 1 :]) if start >= 0 else None
    if result is None:
        raise ValueError("the output of CP2K holds no Mulliken population analysis, so no magnetic moments")
    return np.array([atom["spin"] for atom in result["mulliken population analysis"]["per atom"]])


def _numbers(block: str, columns: slice) -> Floats:
    return np.array([[float(word) for word in line.split()[columns]] for line in block.splitlines()])


def _one(pattern: re.Pattern[str], text: str, what: str) -> str:
    match = pattern.search(text)
    if match is None:
        raise ValueError(f"the output of CP2K does not say {what}")
    return match[1]


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
        made = _merge_sections(_parameters(structure, settings, moments, values), settings["parameters"])
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


def _merge_sections(made: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The user's own sections over those made of the settings."""
    merged = dict(made)
    for key, value in overrides.items():
        old = merged.get(key.upper())
        merged[key.upper()] = (
            _merge_sections(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
        )
    return merged
