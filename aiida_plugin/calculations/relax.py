"""``cgcnn.relax``: one job relaxes a whole set of structures on a potential with ``cgcnn-ase relax``."""

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from aiida.orm import ArrayData, Dict, Str, StructureData, TrajectoryData

from aiida_plugin.calculations.crash_safe import VERSIONS_DIFFER, CrashSafeCalcJob
from aiida_plugin.calculations.functions.structure_sets import structures_node
from aiida_plugin.calculations.predict import copies_of, model_node, model_path
from aiida_plugin.data.model import CGCNNModelData
from aiida_plugin.data.structures import SINGLE, StructureSetData, as_set
from cgcnn_ase.core.environment import ENVIRONMENT, package_version
from cgcnn_ase.core.errors import unknown_name

if TYPE_CHECKING:
    from aiida.common.datastructures import CalcInfo
    from aiida.common.folders import Folder
    from aiida.engine import CalcJobProcessSpec
    from ase import Atoms

# what relaxes candidates by default, where their property is an energy
POTENTIAL = "cathode-potential"
# parameters with their defaults, which are those of `cgcnn_ase.potential.relax.relax`
PARAMETERS: Mapping[str, float | int | bool] = {
    "fmax": 0.05,
    "steps": 500,
    "fixed_cell": False,
    "keep_symmetry": False,
    "trajectory": False,
}
_SWITCHES = {"fixed_cell": "--fixed-cell", "keep_symmetry": "--keep-symmetry"}

# the structures go in as a packed file; if atoms are fixed, which that cannot say, as a trajectory of ASE
PACKED, WITH_CONSTRAINTS = "structures.npz", "structures.traj"
RELAXED, TABLE, TRAJECTORY = "relaxed.extxyz", "relaxed.csv", "trajectory"
_EXIT_CODES = (
    (310, "ERROR_USAGE", "cgcnn-ase could not start: {reason}"),
    (
        320,
        "ERROR_KILLED",
        "cgcnn-ase was killed (exit code {code}): most often by running out of memory; ask for more, or split the "
        "structures",
    ),
    (
        321,
        "ERROR_OUT_OF_WALLTIME",
        "the job ended before cgcnn-ase did, after {n_done} of {n} structures: ask for more wall time, or split the "
        "structures",
    ),
    (330, "ERROR_MISSING_OUTPUT", "the job left no {file}: {reason}"),
    (331, "ERROR_CORRUPT_OUTPUT", "{file} cannot be read: {reason}"),
    (332, "ERROR_INCOMPLETE_OUTPUT", "{n_missing} of {n} structures have no row: {ids}"),
    (333, "ERROR_MODEL_MISMATCH", "the structures were relaxed on a model {found}, asked was {asked}"),
    VERSIONS_DIFFER,
    (340, "ERROR_ALL_FAILED", "no structure could be relaxed; the first: {reason}"),
    (
        341,
        "ERROR_SOME_FAILED",
        "{n_failed} of {n} structures could not be relaxed: {ids} (the first: {reason}); the others are among the "
        "outputs{and_not_converged}",
    ),
    (
        342,
        "ERROR_NOT_CONVERGED",
        "{n_not} of {n} structures have forces above {fmax} eV/Å after {steps} steps: {ids}; where they ended is among "
        "the outputs: go on from there, or allow more steps",
    ),
)
# what another attempt cannot mend, so that it may be taken from the cache
_FINAL = ("ERROR_MODEL_MISMATCH", "ERROR_ALL_FAILED", "ERROR_SOME_FAILED", "ERROR_NOT_CONVERGED")


class RelaxCalculation(CrashSafeCalcJob):
    """Relax every structure of a set on one potential.

    One process node, whatever the number of structures. Structures that cannot be relaxed, and those whose forces are
    still too large after the last step, give an exit code (341, 342); all others are among the outputs nevertheless.
    With ``steps`` 0 energies, forces and stresses of the structures as they are come out, and that is no failure.
    """

    parser, stdout, stderr = "cgcnn.relax", "cgcnn-ase.out", "cgcnn-ase.err"

    @classmethod
    def define(cls, spec: "CalcJobProcessSpec") -> None:
        """Declare inputs, outputs and exit codes."""
        super().define(spec)
        spec.input(
            "model",
            valid_type=CGCNNModelData,
            serializer=model_node,
            validator=check_potential,
            help="The potential: a node, or a name of a pretrained one, or a path, whose node is found or made.",
        )
        spec.input(
            "structures",
            valid_type=(StructureSetData, StructureData),
            serializer=structures_node,
            validator=check_structures,
            help=f"The structures to relax: a set, or one structure (which has the id {SINGLE}). A group, its "
            "label, or a query becomes the set of what it holds at that time.",
        )
        spec.input(
            "parameters",
            valid_type=Dict,
            required=False,
            validator=check_parameters,
            help=f"How to relax: {', '.join(f'{name} ({value})' for name, value in PARAMETERS.items())}.",
        )
        spec.input(
            "package_version",
            valid_type=Str,
            default=lambda: Str(package_version()),
            help="Version of cgcnn-ase that is to run; the job reports the one that did.",
        )
        of_every_job = cast("Any", spec.inputs.validator)
        spec.inputs.validator = lambda inputs, port: of_every_job(inputs, port) or _check_trajectory(inputs)
        spec.output(
            "relaxed",
            valid_type=(StructureSetData, StructureData),
            required=False,
            help="Where the structures ended, of the kind that went in; a set has energy, forces and stress, and lacks "
            "the structures that failed.",
        )
        spec.output(
            "results",
            valid_type=ArrayData,
            required=False,
            help="Arrays with a row for each structure: id, energy, energy_std, steps, converged, max_force, error...",
        )
        spec.output(
            "trajectory",
            valid_type=TrajectoryData,
            required=False,
            help="All steps of a single structure, with arrays energies, forces and stresses.",
        )
        spec.output("summary", valid_type=Dict, help="Counts; of a single structure its results, too.")
        spec.default_output_node = "summary"
        for status, name, message in _EXIT_CODES:
            spec.exit_code(status, name, message=message, invalidates_cache=name not in _FINAL)

    def prepare_for_submission(self, folder: "Folder") -> "CalcInfo":
        """Write the structures, copy the model (its files unchanged), and say what to run."""
        model: CGCNNModelData = self.inputs.model
        model.contents()
        structures = as_set(self.inputs.structures)
        file = input_file(structures)
        _write(structures, Path(folder.get_abs_path(file)))
        parameters = complete_parameters(self.inputs.get("parameters"))
        with_trajectory = ("--trajectory", TRAJECTORY) if parameters["trajectory"] else ()
        job = self.job(
            "relax", file, "--model", model_path(model),
            "--fmax", str(parameters["fmax"]), "--steps", str(parameters["steps"]),
            *(option for name, option in _SWITCHES.items() if parameters[name]),
            "--output", RELAXED, *with_trajectory, "--environment", ENVIRONMENT,
            retrieve=(ENVIRONMENT,),
        )  # fmt: skip
        job.local_copy_list = copies_of(model)
        # nothing is kept twice: the structures are the input's, and what comes out becomes nodes
        job.provenance_exclude_list = [file]
        job.retrieve_temporary_list = [RELAXED, TABLE, *with_trajectory[1:]]
        return job


def complete_parameters(parameters: "Dict | None") -> dict[str, Any]:
    """Fill in the defaults of all that the parameters do not say."""
    return {**PARAMETERS, **({} if parameters is None else parameters.get_dict())}


def input_file(structures: StructureSetData) -> str:
    """Name the file that the structures go into."""
    return WITH_CONSTRAINTS if any(atoms.constraints for atoms in structures.iter_atoms()) else PACKED


def ids_in_table(structures: StructureSetData) -> list[str]:
    """The ids that the command gives the structures, in order: their own, or those of a trajectory's frames."""
    if input_file(structures) == PACKED:
        return list(structures.ids)
    stem = Path(WITH_CONSTRAINTS).stem
    return [stem] if len(structures) == 1 else [f"{stem}:{k}" for k in range(len(structures))]


def _write(structures: StructureSetData, path: Path) -> None:
    if path.name == PACKED:
        structures.write_packed(path)
        return
    from ase.io import Trajectory

    with Trajectory(path, "w") as frames:
        for atoms in structures.iter_atoms():
            frames.write(_bare(atoms))


def _bare(atoms: "Atoms") -> "Atoms":
    """Only what is relaxed: no info, no results."""
    from ase import Atoms

    return Atoms(
        numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc, constraint=atoms.constraints
    )


def check_potential(model: CGCNNModelData | None, _: object) -> str | None:
    """Say why a model is no potential, None if it is one."""
    if model is None:
        return None
    if len(model.names) > 1:
        return f"the node holds {len(model.names)} models ({', '.join(model.names)}); a relaxation needs one potential"
    from cgcnn_ase.models.crystal_model import POTENTIAL_TARGETS
    from cgcnn_ase.nn.architecture import ARCHITECTURES

    (target,), name = model.base.attributes.get("targets"), model.names[0]
    architecture = str(model.base.attributes.get("architecture"))
    try:
        is_smooth = ARCHITECTURES.get(architecture).is_smooth
    except ValueError as error:
        return f"the model {name}: {error}"
    if not is_smooth:
        return (
            f"the model {name} is no potential: the energy of its architecture {architecture} jumps when neighbours "
            "change places, so it has no forces; cathode-potential has"
        )
    if target not in POTENTIAL_TARGETS:
        return f"the model {name} is no potential: it predicts {target}; allowed: {', '.join(POTENTIAL_TARGETS)}"
    return None


def unlearned(potential: CGCNNModelData, structures: StructureSetData) -> dict[str, str]:
    """Say of each structure with elements that a potential has not learned, by id, which they are.

    Empty where the potential does not say what it has learned.
    """
    from cgcnn_ase.core.elements import symbols

    calibration = potential.load().calibration
    if calibration is None or calibration.domain is None:
        return {}
    known, result = calibration.domain.elements, {}
    for name, atoms in zip(structures.ids, structures.iter_atoms(), strict=True):
        if unseen := sorted(set(atoms.numbers.tolist()) - known):
            result[name] = f"{potential.names[0]} has not learned {', '.join(symbols()[z] for z in unseen)}"
    return result


def reasons_of(results: ArrayData) -> dict[str, str]:
    """Say of each structure in the results of a job that it did not relax, or not to the end, by id, why."""
    rows = dict(results.get_iterarrays())
    ended = zip(rows["id"].tolist(), rows["error"].tolist(), rows["converged"].tolist(), strict=True)
    return {
        name: str(error) or "forces are too large after the last step"
        for name, error, converged in ended
        if error or not converged
    }


def relaxation_inputs(
    model: CGCNNModelData, relax: CGCNNModelData | str | bool | None, relaxation: Mapping[str, Any] | None, target: Any
) -> dict[str, Any]:
    """Return the inputs ``potential`` and ``relaxation`` of a work chain whose model predicts candidates.

    None where ``relax`` is False, or None and the property (``target``, else the model's) is no energy.
    """
    if relax is None:
        relax = all("energy" in name for name in ([target] if target else model.base.attributes.get("targets")))
    if relax is False:
        return {}
    return {"potential": POTENTIAL if relax is True else relax} | (
        {} if relaxation is None else {"relaxation": Dict(dict(relaxation))}
    )


def check_structures(structures: StructureSetData | StructureData | None, _: object) -> str | None:
    """Say why a structure cannot be relaxed, None if nothing is known against it."""
    if isinstance(structures, StructureData):
        try:
            as_set(structures)
        except ValueError as error:
            return str(error)
    return None


def check_parameters(parameters: Dict | None, _: object) -> str | None:
    """Say what is wrong with the parameters, as AiiDA asks for it."""
    return None if parameters is None else parameters_problem(parameters.get_dict())


def parameters_problem(parameters: Mapping[str, object]) -> str | None:
    """Say what is wrong with the parameters of a relaxation, None if nothing is."""
    for name in parameters:
        if name not in PARAMETERS:
            return str(unknown_name("parameter", name, PARAMETERS))
    options = {**PARAMETERS, **parameters}
    fmax, steps = options["fmax"], options["steps"]
    if not isinstance(fmax, int | float) or isinstance(fmax, bool) or not (isfinite(fmax) and fmax > 0):
        return f"fmax must be a number above 0 (eV/Å), not {fmax!r}"
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
        return f"steps must be a whole number, 0 or more, not {steps!r}"
    for name in ("fixed_cell", "keep_symmetry", "trajectory"):
        if not isinstance(options[name], bool):
            return f"{name} must be True or False, not {options[name]!r}"
    return None


def _check_trajectory(inputs: Mapping[str, Any]) -> str | None:
    """Refuse the trajectories of many structures: each would be a node."""
    structures, parameters = inputs.get("structures"), inputs.get("parameters")
    if parameters is None or not parameters.get_dict().get("trajectory"):
        return None
    if isinstance(structures, StructureSetData) and len(structures) > 1:
        return (
            f"a trajectory is kept of a single structure, and the set has {len(structures)}: give a StructureData or a "
            "set of one (cgcnn.extract, cgcnn.subset), or leave trajectory out"
        )
    return None
