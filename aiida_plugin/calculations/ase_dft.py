"""``cgcnn.ase_dft``: one structure through any ASE calculator, by name, in a job that needs no cgcnn-ase there."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiida.orm import ArrayData, Dict, Float, RemoteData, StructureData

from aiida_plugin.calculations.crash_safe import VERSIONS_DIFFER, CrashSafeCalcJob
from aiida_plugin.data.labels import method_without_functional
from aiida_plugin.data.structures import StructureSetData
from aiida_plugin.engines.base import is_in_container, is_in_this_environment
from cgcnn_ase.core.environment import installed_versions

if TYPE_CHECKING:
    from aiida.common.datastructures import CalcInfo
    from aiida.common.folders import Folder
    from aiida.engine import CalcJobProcessSpec

SETTINGS: dict[str, Any] = {  # names and defaults
    "calculator": None,
    "parameters": {},
    "task": "energy",
    "fmax": 0.05,
    "max_steps": 100,
    "moments": {},
    "properties": None,
    "kpoints_distance": None,
    "functional": None,
}
TASKS = ("energy", "relax")
PROPERTIES = ("energy", "forces", "stress", "magmoms")

WORKER, PREVIOUS = "ase_worker.py", "previous"
INPUT, RESULTS, STATE, LOG, GPW = "input.json", "results.json", "state.json", "calculator.txt", "restart.gpw"
_EXIT_CODES = (
    (310, "ERROR_USAGE", "the calculator could not start: {reason}"),
    (311, "ERROR_NOT_INSTALLED", "{reason}: install it for the Python of the code"),
    (312, "ERROR_CALCULATOR", "the calculator stopped: {reason}"),
    (320, "ERROR_KILLED", "the calculator was killed ({reason}): most often by running out of memory; ask for more"),
    (321, "ERROR_OUT_OF_WALLTIME", "out of wall time: {reason}"),
    (330, "ERROR_MISSING_OUTPUT", "the job left no {file}: {reason}"),
    (331, "ERROR_CORRUPT_OUTPUT", "{file} cannot be read: {reason}"),
    (332, "ERROR_NOT_FINITE", "the calculator gave no number: {reason}"),
    VERSIONS_DIFFER,
    (410, "ERROR_SCF_NOT_CONVERGED", "the electrons did not converge: {reason}"),
    (420, "ERROR_RELAX_NOT_CONVERGED", "the relaxation did not converge: {reason}"),
)
_MAY_BE_CURED = ("ERROR_NOT_INSTALLED", "ERROR_CALCULATOR", "ERROR_KILLED", "ERROR_OUT_OF_WALLTIME",
                 "ERROR_MISSING_OUTPUT", "ERROR_CORRUPT_OUTPUT", "ERROR_VERSIONS")  # fmt: skip


class AseCalculation(CrashSafeCalcJob):
    """Energy, forces, stress and magnetic moments of a structure by an ASE calculator; or its relaxed positions.

    Whether that is DFT depends on the calculator: the label's scheme tells. The entry point keeps its name, so that
    stored process types stay valid.

    The code is a Python interpreter that has ASE and the calculator. Settings:

    - ``calculator``: ASE's name (gpaw, emt, ...), chgnet, or ``module:Class``;
    - ``parameters``: what it is made with, as JSON;
    - ``task``: energy (default) or relax, which relaxes the positions until no force is above ``fmax`` (eV/Å), in at
      most ``max_steps`` steps;
    - ``moments``: initial magnetic moments, μB by kind name;
    - ``properties``: what must be there, of energy, forces, stress, magmoms; by default what the calculator has;
    - ``kpoints_distance`` (1/Å) and ``functional``: noted in the label scheme where the parameters do not tell them; a
      calculator that has no functional, a machine-learned potential for one, takes none.
    """

    parser, stdout, stderr = "cgcnn.ase_dft", "ase.out", "ase.err"
    CACHE_VERSION = 1  # raised when the worker computes something else from the same inputs

    @classmethod
    def define(cls, spec: "CalcJobProcessSpec") -> None:
        """Declare inputs, outputs and exit codes."""
        super().define(spec)
        spec.input("structure", valid_type=StructureData, help="The structure.")
        spec.input(
            "settings", valid_type=Dict, validator=_check_settings, help=f"What to compute: {', '.join(SETTINGS)}."
        )
        spec.input(
            "restart_folder",
            valid_type=RemoteData,
            required=False,
            help="The folder of a job that came to no end: go on from its last positions and wave functions.",
        )
        spec.output("labelled", valid_type=StructureSetData, required=False, help="The structure with its labels.")
        spec.output("energy", valid_type=Float, required=False, help="Of the cell, eV.")
        spec.output("forces", valid_type=ArrayData, required=False, help="Array forces, (atoms, 3), eV/Å.")
        spec.output(
            "relaxed_structure", valid_type=StructureData, required=False, help="Of the task relax: where it ended."
        )
        spec.output("output_parameters", valid_type=Dict, help="Energy, versions, what the calculator says of itself.")
        spec.default_output_node = "output_parameters"
        for status, name, message in _EXIT_CODES:
            # what another machine, more time or more memory could cure is not taken from the cache
            spec.exit_code(status, name, message=message, invalidates_cache=name in _MAY_BE_CURED)

    @classmethod
    def expected_versions(cls, inputs: Mapping[str, Any]) -> dict[str, str]:
        """Versions of ASE, NumPy and the calculator's package; cgcnn-ase is not needed there."""
        if not is_in_this_environment(inputs.get("code")) or "settings" not in inputs:
            return {}
        calculator = str(complete_settings(inputs["settings"])["calculator"])
        return installed_versions("ase", "numpy", calculator.partition(":")[0].partition(".")[0])

    def prepare_for_submission(self, folder: "Folder") -> "CalcInfo":
        """Write the input and the script, and say what to run."""
        settings = complete_settings(self.inputs.settings)
        structure: StructureData = self.inputs.structure
        moments = settings.pop("moments")
        del settings["kpoints_distance"]
        settings["structure"] = {
            "symbols": [structure.get_kind(site.kind_name).symbol for site in structure.sites],
            "positions": [list(site.position) for site in structure.sites],
            "cell": structure.cell,
            "pbc": list(structure.pbc),
            "moments": [moments.get(site.kind_name, 0.0) for site in structure.sites] if moments else None,
        }
        settings["packages"] = sorted(self.inputs.versions.get_dict()) if "versions" in self.inputs else []
        settings["wall_seconds"] = self.inputs.metadata.options.get("max_wallclock_seconds")
        with folder.open(INPUT, "w") as file:
            json.dump(settings, file)
        folder.insert_path(str(Path(__file__).with_name(WORKER)), WORKER)
        job = self.job(WORKER, retrieve=(RESULTS, STATE, LOG, "relax.log"))
        if "restart_folder" in self.inputs:
            before = self.inputs.restart_folder
            path, computer = before.get_remote_path(), before.computer.uuid
            if is_in_container(self.inputs.code):  # which does not see where a link leads; what is not there is left
                folder.get_subfolder(PREVIOUS, create=True)
                job.remote_copy_list = [(computer, f"{path}/{name}", f"{PREVIOUS}/{name}") for name in (STATE, GPW)]
            else:
                job.remote_symlink_list = [(computer, path, PREVIOUS)]
        return job


AseDftCalculation = AseCalculation  # its name in early versions


def complete_settings(settings: "Dict | Mapping[str, Any]") -> dict[str, Any]:
    """Fill in the defaults of all that the settings do not say."""
    return {**SETTINGS, **(settings.get_dict() if isinstance(settings, Dict) else settings)}


def _check_settings(settings: Dict, _: object) -> str | None:
    options = settings.get_dict()
    if unknown := sorted(set(options) - set(SETTINGS)):
        return f"unknown settings {', '.join(unknown)}; allowed: {', '.join(SETTINGS)}"
    if not isinstance(options.get("calculator"), str):
        return "settings must name a calculator: one that ASE knows (gpaw, emt, ...), chgnet, or module:Class"
    method, functional = method_without_functional(options["calculator"]), options.get("functional")
    if method is not None and functional not in (None, "", method):
        return (
            f"functional {functional!r}: the calculator {options['calculator']} has none, it is {method}; leave it out"
        )
    if options.get("task", "energy") not in TASKS:
        return f"task {options['task']!r}; allowed: {', '.join(TASKS)}"
    if unknown := sorted(set(options.get("properties") or ()) - set(PROPERTIES)):
        return f"unknown properties {', '.join(unknown)}; allowed: {', '.join(PROPERTIES)}"
    for name in ("parameters", "moments"):
        if not isinstance(options.get(name, {}), dict):
            return f"{name} must be a dict, not {options[name]!r}"
    return None
