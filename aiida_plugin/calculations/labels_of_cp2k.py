"""What a run of CP2K found, as a labelled set of one structure."""

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from aiida.engine import calcfunction
from aiida.orm import Dict, FolderData, Str, StructureData
from ase.units import Bohr, GPa, Hartree

from aiida_plugin.data.label_scheme import SCHEME
from aiida_plugin.data.structures import StructureSetData

if TYPE_CHECKING:
    from ase import Atoms

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
    found = output_parameters.get_dict()
    if "energy" not in found:
        raise ValueError("the outputs of CP2K hold no energy")
    text = retrieved.base.repository.get_object_content(_OUTPUT, "r")
    if _NOT_CONVERGED in text[text.rfind("SCF WAVEFUNCTION OPTIMIZATION") :]:
        raise ValueError("CP2K's self-consistent field did not converge; raise max_scf_steps or lower mixing_beta")
    atoms = structure.get_ase()
    spin = bool(parameters["FORCE_EVAL"]["DFT"]["UKS"])
    _attach(atoms, found["energy"] * Hartree, text, spin)
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
    from aiida_plugin.engines.cp2k import DISTANCE

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
    given = {
        kind["ELEMENT"]: float(kind["DFT_PLUS_U"]["U_MINUS_J"].split()[-1])
        for kind in parameters["FORCE_EVAL"]["SUBSYS"]["KIND"]
        if "DFT_PLUS_U" in kind
    }
    if given and "DFT+U energy:" not in text:
        raise ValueError("CP2K left out the Hubbard U that it was given")
    return given


def _moments(text: str) -> npt.NDArray[np.float64]:
    from cp2k_output_tools.blocks.mulliken import match_mulliken_population_analysis

    start = text.rfind(_MULLIKEN)
    found = match_mulliken_population_analysis(text[text.rfind("\n", 0, start) + 1 :]) if start >= 0 else None
    if found is None:
        raise ValueError("the output of CP2K holds no Mulliken population analysis, so no magnetic moments")
    return np.array([atom["spin"] for atom in found["mulliken population analysis"]["per atom"]])


def _numbers(block: str, columns: slice) -> npt.NDArray[np.float64]:
    return np.array([[float(word) for word in line.split()[columns]] for line in block.splitlines()])


def _one(pattern: re.Pattern[str], text: str, what: str) -> str:
    match = pattern.search(text)
    if match is None:
        raise ValueError(f"the output of CP2K does not say {what}")
    return match[1]
