"""CP2K's Quickstep through aiida-cp2k's `Cp2kBaseWorkChain`."""

import re
from collections.abc import Mapping
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from aiida.engine import calcfunction
from aiida.orm import CalcJobNode, Dict, FolderData, Str, StructureData
from ase.units import Bohr, GPa, Hartree, Ry, kB

from aiida_plugin.data.structures import StructureSetData
from aiida_plugin.engines.base import (
    ONE_THREAD,
    Call,
    CodeSpec,
    CommonSettings,
    Engine,
    Inputs,
    Run,
    hubbard_shell,
    is_gamma,
    on_path,
    plain_call,
    retrieved_text,
)
from aiida_plugin.engines.labels import check_outputs, labelled_set
from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.core.yaml_settings import merged

if TYPE_CHECKING:
    from aiida.engine import ProcessBuilder
    from aiida.orm import ProcessNode
    from aiida.orm.nodes.data.structure import Kind

DISTANCE = "# KPOINTS_DISTANCE"  # a line that CP2K reads as a comment: keeps the setting with the inputs made of it
_OF_WALL_TIME = 0.95  # part of the wall time after which CP2K stops by itself, with a restart file
_ANGULAR_MOMENTUM = {"s": 0, "p": 1, "d": 2, "f": 3}
_FUNCTIONALS = ("PBE",)


class CP2KSettings(CommonSettings):
    """Settings that ``cp2k.yaml`` adds."""

    basis_file: str
    basis_set: str
    basis_sets: dict[str, str]
    potential_file: str
    potential: str
    potentials: dict[str, str]
    cutoff_density: float
    cutoff_relative: float
    mixing_beta: float
    parameters: dict[str, Any]


class CP2KEngine(Engine[CP2KSettings]):
    """CP2K with Gaussians and plane waves; the basis sets and potentials are those of its data folder, by name.

    The energy is the free energy at the temperature of the Fermi-Dirac smearing. Where Γ alone is left of the k-points
    it is used as such, else CP2K has no Hubbard U.
    """

    name = "cp2k"
    title = "CP2K"
    code_plugin = "cp2k"

    def builder(self, run: Run[CP2KSettings]) -> "ProcessBuilder":
        """See :meth:`Engine.builder`."""
        from aiida_cp2k.workchains.base import Cp2kBaseWorkChain

        kpoints = run.mesh
        if run.hubbard_u and not is_gamma(kpoints):
            raise ValueError(
                "CP2K has no Hubbard U with k-points; label a supercell with a kpoints_distance at which Γ alone is "
                "left, or set hubbard: false"
            )
        parameters: Inputs = merged(_parameters(run), _upper(run.settings["parameters"]))
        if "max_wallclock_seconds" in run.options:
            parameters["GLOBAL"].setdefault("WALLTIME", int(_OF_WALL_TIME * run.options["max_wallclock_seconds"]))
        inputs = {
            "structure": run.structure,
            "code": run.code,
            "parameters": Dict(parameters),
            "metadata": {"options": run.job_options},
            **({} if is_gamma(kpoints) else {"kpoints": kpoints}),
        }
        builder: ProcessBuilder = Cp2kBaseWorkChain.get_builder()
        # a restart links the folder of the job before, which a container does not see
        restarts = Dict({"restart_incomplete_calculation": {"enabled": not run.is_in_container}})
        builder._update({"cp2k": inputs, "handler_overrides": restarts})
        return builder

    def labelled(self, run: "ProcessNode", structure_id: Str, call: Call = plain_call) -> StructureSetData:
        """See :meth:`Engine.labelled`."""
        check_outputs(run, "output_parameters")
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

    def error_message(self, job: CalcJobNode) -> str | None:
        """See :meth:`Engine.error_message`; CP2K writes it into a box of asterisks, beside the picture of a hand."""
        boxes = _ERROR.findall(retrieved_text(job, job.get_option("output_filename") or _OUTPUT))
        lines = [line[_HAND:].rstrip("* ") for line in boxes[0].splitlines()] if boxes else []
        return " ".join(" ".join(lines).split()) or super().error_message(job)

    def setup_code(self) -> CodeSpec:
        """See :meth:`Engine.setup_code`."""
        return CodeSpec(
            "cp2k",
            self.code_plugin,
            on_path("cp2k", "cp2k.psmp", "cp2k.ssmp"),
            "CP2K, one process",
            needs="aiida_cp2k",
            install="sudo apt-get install cp2k",
            prepend=ONE_THREAD,
        )

    def basis(self, settings: CP2KSettings) -> str:
        """See :meth:`Engine.basis`."""
        return str(settings["basis_set"])


def _parameters(run: Run[CP2KSettings]) -> Inputs:
    """Sections of CP2K's input."""
    settings = run.settings
    if settings["functional"] not in _FUNCTIONALS:
        raise ValueError(f"functional is {settings['functional']!r}; allowed with CP2K: {', '.join(_FUNCTIONALS)}")
    sections: Inputs = {
        "GLOBAL": {
            "RUN_TYPE": "GEO_OPT" if settings["relax"] else "ENERGY_FORCE",
            "PRINT_LEVEL": "MEDIUM",
            DISTANCE: settings["kpoints_distance"],
        },
        "FORCE_EVAL": {
            "METHOD": "QUICKSTEP",
            "STRESS_TENSOR": "ANALYTICAL",
            "PRINT": {"FORCES": {"_": "ON"}, "STRESS_TENSOR": {"_": "ON"}},
            "DFT": _electrons(len(run.structure.sites), settings),
            "SUBSYS": {"KIND": [_kind(kind, run) for kind in run.structure.kinds]},
        },
    }
    if run.hubbard_u:
        sections["FORCE_EVAL"]["DFT"]["PLUS_U_METHOD"] = "MULLIKEN"
    if settings["relax"]:
        steps = {"OPTIMIZER": "BFGS", "MAX_ITER": settings["max_relax_steps"]}
        sections["MOTION"] = {"GEO_OPT": steps | {"MAX_FORCE": settings["fmax"] / (Hartree / Bohr)}}
    return sections


def _electrons(n_atoms: int, settings: CP2KSettings) -> Inputs:
    """Grids, smearing, mixing, functional."""
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
            "ADDED_MOS": 10 + 2 * n_atoms,
            "DIAGONALIZATION": {"_": "ON"},
            "SMEAR": {"_": "ON", "METHOD": "FERMI_DIRAC", "ELECTRONIC_TEMPERATURE": settings["smearing"] / kB},
            "MIXING": {"METHOD": "BROYDEN_MIXING", "ALPHA": settings["mixing_beta"]},
        },
        "XC": {"XC_FUNCTIONAL": {"_": settings["functional"]}},
    }


def _kind(kind: "Kind", run: Run[CP2KSettings]) -> Inputs:
    """Basis set, potential, moment to start from and U of the atoms of one kind."""
    settings, u = run.settings, run.hubbard_u
    section: Inputs = {
        "_": kind.name,
        "ELEMENT": kind.symbol,
        "BASIS_SET": settings["basis_sets"].get(kind.symbol, settings["basis_set"]),
        "POTENTIAL": settings["potentials"].get(kind.symbol, settings["potential"]),
    }
    if settings["spin"] and run.moments.get(kind.name):
        section["MAGNETIZATION"] = run.moments[kind.name]
    if kind.name in u:
        momentum = _ANGULAR_MOMENTUM[hubbard_shell(kind.symbol)[-1]]
        section["DFT_PLUS_U"] = {"L": momentum, "U_MINUS_J": f"[eV] {u[kind.name]}"}
    return section


def _upper(sections: Mapping[str, Any]) -> Inputs:
    return {key.upper(): _upper(value) if isinstance(value, Mapping) else value for key, value in sections.items()}


# Labels, from the text of the run

_OUTPUT = "aiida.out"
_VERSION = re.compile(r"^ CP2K\| version string:\s+CP2K version (\S+)", re.M)
_FUNCTIONAL = re.compile(r"^ FUNCTIONAL\| (\w+):", re.M)
_CUTOFF = re.compile(r"^ QS\| Density cutoff \[a\.u\.\]:\s+(\S+)", re.M)
_RELATIVE = re.compile(r"^ QS\| Relative density cutoff \[a\.u\.\]:\s+(\S+)", re.M)
_KIND = re.compile(r"\d+\. Atomic kind: (\S+).*?Orbital Basis Set\s+(\S+).*?Potential information for\s+(\S+)", re.S)
_FORCES = (  # with the columns of x, y, z: until 2024.1, and after
    (re.compile(r"^ ATOMIC FORCES in \[a\.u\.\]\n\n.*\n((?: +\d+ +\d+ +\S+(?: +[-+.\dE]+){3}\n)+)", re.M), slice(3, 6)),
    (
        re.compile(r"^ FORCES\| Atomic forces \[hartree/bohr\]\n.*\n((?: FORCES\| +\d+(?: +[-+.\dE]+){4}\n)+)", re.M),
        slice(2, 5),
    ),
)
_STRESS = re.compile(
    r"^ STRESS\| Analytical stress tensor \[GPa\]\n.*\n((?: STRESS\| +[xyz](?: +[-+.\dE]+){3}\n){3})", re.M
)
_ERROR = re.compile(r"^ \*{40,}\n((?: \*.*\n)*? \* \[ABORT\] .*\n(?: \*.*\n)*?) \*{40,}", re.M)
_HAND = 10  # columns of the picture
_NOT_CONVERGED = "SCF run NOT converged"  # versions up to 2023.1 go on after it
_MULLIKEN = "Mulliken Population Analysis"


@calcfunction
def labels_of_cp2k(
    structure: StructureData, output_parameters: Dict, retrieved: FolderData, parameters: Dict, structure_id: Str
) -> StructureSetData:
    """Read energy, forces, stress and magnetic moments (Mulliken's) of the last step, and what made them.

    `structure` is the one that was given, or the relaxed one; `parameters` are the run's input. A ValueError is raised
    if there is no energy among the outputs, the last step did not converge, or the text lacks what a label needs.
    """
    outputs, inputs = output_parameters.get_dict(), parameters.get_dict()
    if "energy" not in outputs:
        raise ValueError("the outputs of CP2K hold no energy")
    text = retrieved.base.repository.get_object_content(_OUTPUT, "r")
    if _NOT_CONVERGED in text[text.rfind("SCF WAVEFUNCTION OPTIMIZATION") :]:
        raise ValueError("CP2K's self-consistent field did not converge; raise max_scf_steps or lower mixing_beta")
    forces = [_numbers(blocks[-1], columns) for pattern, columns in _FORCES if (blocks := pattern.findall(text))]
    stress = _STRESS.findall(text)
    return labelled_set(
        structure,
        structure_id,
        _scheme(structure, inputs, text),
        outputs["energy"] * Hartree,
        forces=forces[-1] * (Hartree / Bohr) if forces else None,
        pressure=_numbers(stress[-1], slice(2, 5)) * GPa if stress else None,
        magmoms=_moments(text) if inputs["FORCE_EVAL"]["DFT"]["UKS"] else None,
        is_free_energy=True,
    )


def _scheme(structure: StructureData, inputs: Inputs, text: str) -> dict[str, object]:
    symbols = {kind.name: kind.symbol for kind in structure.kinds}
    scf = inputs["FORCE_EVAL"]["DFT"]["SCF"]
    return {
        "engine": "cp2k",
        "engine_version": _one(_VERSION, text, "its version"),
        "functional": _one(_FUNCTIONAL, text, "the functional"),
        "hubbard_u": _hubbard(inputs, text),
        "pseudopotentials": {
            symbols.get(kind, kind): f"{potential} with {basis}" for kind, basis, potential in _KIND.findall(text)
        },
        "cutoffs": {
            "density": round(float(_one(_CUTOFF, text, "the cutoff")) * Hartree, 3),
            "relative": round(float(_one(_RELATIVE, text, "the relative cutoff")) * Hartree, 3),
        },
        "kpoints_distance": inputs["GLOBAL"][DISTANCE],
        "smearing": [scf["SMEAR"]["METHOD"].lower(), round(scf["SMEAR"]["ELECTRONIC_TEMPERATURE"], 3)],
        "spin": bool(inputs["FORCE_EVAL"]["DFT"]["UKS"]),
        "relaxed": inputs["GLOBAL"]["RUN_TYPE"] == "GEO_OPT",
    }


def _hubbard(inputs: Inputs, text: str) -> dict[str, float]:
    """U in eV by element, if the run says that it used it."""
    u = {
        kind["ELEMENT"]: float(kind["DFT_PLUS_U"]["U_MINUS_J"].split()[-1])
        for kind in inputs["FORCE_EVAL"]["SUBSYS"]["KIND"]
        if "DFT_PLUS_U" in kind
    }
    if u and "DFT+U energy:" not in text:
        raise ValueError("CP2K left out the Hubbard U that it was given")
    return u


def _moments(text: str) -> Floats:
    from cp2k_output_tools.blocks.mulliken import match_mulliken_population_analysis

    start = text.rfind(_MULLIKEN)
    table = match_mulliken_population_analysis(text[text.rfind("\n", 0, start) + 1 :]) if start >= 0 else None
    if table is None:
        raise ValueError("the output of CP2K holds no Mulliken population analysis, so no magnetic moments")
    return np.array([atom["spin"] for atom in table["mulliken population analysis"]["per atom"]])


def _numbers(block: str, columns: slice) -> Floats:
    return np.array([[float(word) for word in line.split()[columns]] for line in block.splitlines()])


def _one(pattern: re.Pattern[str], text: str, what: str) -> str:
    match = pattern.search(text)
    if match is None:
        raise ValueError(f"the output of CP2K does not say {what}")
    return match[1]
