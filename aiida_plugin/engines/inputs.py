"""Inputs of one run, and what every engine makes of them: job options, a mesh of k-points, a Hubbard U by kind."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypedDict, TypeVar

from cgcnn_ase.core.elements import hubbard_shell as hubbard_shell

if TYPE_CHECKING:
    from aiida.orm import AbstractCode, KpointsData, StructureData

# For the start of a job's script: where the daemon dies between the start of the job and noting its number, it starts
# the job a second time in the same folder. The second waits for the first, and does nothing if that came to its end.
START_ONCE = """\
exec 9>> .cgcnn_lock; flock 9 2> /dev/null
if [ -e .cgcnn_done ]; then exit 0; fi
trap 'touch .cgcnn_done' EXIT"""
Inputs: TypeAlias = dict[str, Any]  # nested inputs of a process or of a code, by name


class CommonSettings(TypedDict):
    """Settings that all engines share; ``common.yaml`` says what each is, and its unit."""

    functional: str
    spin: bool
    hubbard: bool
    hubbard_u: dict[str, float]
    initial_moments: dict[str, float]
    kpoints_distance: float
    smearing: float
    energy_tolerance: float
    max_scf_steps: int
    relax: bool
    fmax: float
    max_relax_steps: int
    converged: bool
    min_distance: float
    max_force: float
    max_energy: float


S = TypeVar("S", bound=CommonSettings)


@dataclass(frozen=True)
class Run(Generic[S]):
    """Inputs of one run."""

    structure: "StructureData"  # to be labelled
    code: "AbstractCode"  # of the engine's plugin
    settings: S  # a resolved protocol; see :func:`aiida_plugin.engines.protocol.resolve`
    moments: Mapping[str, float] = field(default_factory=dict)  # to start from, by kind name, μB; empty without spin
    options: Mapping[str, Any] = field(default_factory=dict)  # ``metadata.options`` of the jobs: resources, wall time
    # the structure whose mesh is taken: along a relaxation the mesh stays, or the energy would jump where it changes
    mesh_structure: "StructureData | None" = None

    @property
    def job_options(self) -> Inputs:
        """The options; unless they or the code say otherwise, one process on one machine and no MPI.

        A code may say itself whether it takes MPI: ``verdi code create --with-mpi``. The job's script begins with
        `START_ONCE`, so that a job runs once wherever the daemon dies.
        """
        defaults = {"num_machines": 1, "num_mpiprocs_per_machine": 1}
        asked = str(self.options.get("prepend_text", ""))
        once = {"prepend_text": asked if START_ONCE in asked else "\n".join([START_ONCE, asked]).strip()}
        return {"resources": defaults, "withmpi": bool(self.code.with_mpi), **self.options, **once}

    @property
    def is_in_container(self) -> bool:
        """Tell whether the code runs in a container, which sees the folder of its own job only."""
        return is_in_container(self.code)

    @property
    def mesh(self) -> "KpointsData":
        """Mesh of the structure, or of that whose mesh is to be taken; see `mesh_of`."""
        return mesh_of(self.mesh_structure or self.structure, float(self.settings["kpoints_distance"]))

    @property
    def hubbard_u(self) -> dict[str, float]:
        """U in eV by kind name, for the elements that have one; empty where the settings want none."""
        if not self.settings["hubbard"]:
            return {}
        u = self.settings["hubbard_u"]
        return {kind.name: float(u[kind.symbol]) for kind in self.structure.kinds if u.get(kind.symbol)}


def is_in_container(code: "AbstractCode") -> bool:
    """Tell whether a code runs in a container: a link to the folder of another job leads nowhere there."""
    from aiida.orm import ContainerizedCode

    return isinstance(code, ContainerizedCode)


def mesh_of(structure: "StructureData", distance: float) -> "KpointsData":
    """Make the coarsest mesh around Γ whose neighbours are at most this `distance` (1/Å, with the factor 2π) apart.

    It is not yet stored, and has one k-point along a direction that is not periodic.
    """
    from aiida.orm import KpointsData

    if not distance > 0:
        raise ValueError(f"kpoints_distance is {distance}; it must be more than 0 (1/Å)")
    kpoints = KpointsData()
    kpoints.set_cell_from_structure(structure)
    kpoints.set_kpoints_mesh_from_density(distance)
    return kpoints


def is_gamma(kpoints: "KpointsData") -> bool:
    """Tell whether Γ alone is left of a mesh."""
    return bool(kpoints.get_kpoints_mesh()[0] == [1, 1, 1])
