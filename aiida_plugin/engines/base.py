"""Interface of a DFT engine: its code, how a run is built of its inputs, and its labels; and the engines by name.

What every engine makes of the inputs is here, too: job options, a mesh of k-points, a Hubbard U by kind. The names are
those of the entry points of the group ``cgcnn.engines``: this package's own and those of other packages.
"""

import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeAlias, TypedDict, TypeVar

from aiida_plugin.engines.checks import Part
from cgcnn_ase.core.elements import fetched_scale
from cgcnn_ase.core.elements import hubbard_shell as hubbard_shell
from cgcnn_ase.core.errors import install_line
from cgcnn_ase.core.registry import Registry

if TYPE_CHECKING:
    from aiida.engine import ProcessBuilder
    from aiida.orm import AbstractCode, CalcJobNode, KpointsData, ProcessNode, Str, StructureData

    from aiida_plugin.data.labels import Scheme
    from aiida_plugin.data.structures import StructureSetData

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


Call: TypeAlias = Callable[..., Any]  # calls a calcfunction with inputs

_LENGTH = 400  # characters of an error that are told
ONE_THREAD = "export OMP_NUM_THREADS=1"  # DFT codes thread badly on small cells


def plain_call(function: Call, **inputs: object) -> object:
    """Call a function with its inputs."""
    return function(**inputs)


class CodeSpec(NamedTuple):
    """A code that ``aiida-cgcnn setup`` stores on this machine."""

    label: str  # before ``@localhost``
    plugin: str  # entry point (group ``aiida.calculations``) of the calculation that `Code.get_builder` builds
    executable: Path | None  # None where there is none on this machine
    description: str  # of the code's node, and of the report
    needs: str = ""  # the Python package that the plugin comes from
    install: str = ""  # how to get the executable; empty for one that comes with this package
    prepend: str = ""  # shell lines before each run


class Engine(ABC, Generic[S]):
    """A DFT code that labels one structure at a time through its own AiiDA plugin.

    A subclass is registered as an entry point of the group ``cgcnn.engines``; the entry point's name is what users call
    it. The settings that it adds to the shared ones, with their protocols, are in a YAML file beside its module.

    An engine holds no state. The process that it builds handles what can go wrong in its own way (more steps, other
    mixing, a restart when out of time), so that who calls it sees a success or an exit code in words. Its AiiDA plugin
    is imported in the methods, so that the class is there without it.
    """

    name: ClassVar[str]  # of the entry point
    title: ClassVar[str]  # for people
    code_plugin: ClassVar[str]  # entry point (group ``aiida.calculations``) of the code and of the jobs that run it

    @abstractmethod
    def builder(self, run: Run[S]) -> "ProcessBuilder":
        """Fill the inputs of the process that computes one structure.

        Raises
        ------
        ValueError
            If the settings do not suit the engine, or what it needs is missing (pseudopotentials of an element, say);
            the message says what to do.
        """

    def conflict(self, run: Run[S]) -> str | None:
        """Find before anything is submitted why a run cannot be built; None if it can. Nothing is stored."""
        try:
            self.builder(run)
        except ValueError as error:
            return str(error)
        return None

    def pseudopotentials(self, run: Run[S]) -> dict[str, str]:  # noqa: ARG002
        """Name the pseudopotential of each element; empty where the engine brings its own. Raises as `builder`."""
        return {}

    @abstractmethod
    def labelled(self, run: "ProcessNode", structure_id: "Str", call: Call = plain_call) -> "StructureSetData":
        """Read the labels of a finished run, as a set of one structure.

        The structure carries energy (eV), and where the engine gives them forces (eV/Å), stress (eV/Å³) and magnetic
        moments, and the label scheme (:mod:`aiida_plugin.data.labels`) that the run tells of itself.

        Parameters
        ----------
        run
            The process that `builder` built.
        structure_id
            The id in the set.
        call
            Calls the calcfunction that makes the set, so that links lead back: ``call_once`` of a work chain, say.

        Raises
        ------
        ValueError
            If the run's outputs hold no energy.
        """

    def failure(self, run: "ProcessNode") -> str:
        """Say why a run failed: its own words, those of its last job, and what the code wrote of it."""
        from aiida.orm import CalcJobNode

        words = [run.exit_message or str(run.process_state)]
        jobs = [each for each in run.called_descendants if isinstance(each, CalcJobNode)]
        job = max(jobs, key=lambda each: each.pk or 0) if jobs else None
        if job is not None and not job.is_finished_ok and "retrieved" in job.outputs:
            words += [job.exit_message or "", self.error_message(job) or ""]
        return "; ".join(dict.fromkeys(word.strip().rstrip(".") for word in words if word.strip()))

    def error_message(self, job: "CalcJobNode") -> str | None:
        """Find the code's own message in the files of a job that failed: by default the last line on its stderr."""
        text = retrieved_text(job, job.get_option("scheduler_stderr"))
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1][:_LENGTH] if lines else None

    def has_project_settings(self, scheme: "Scheme", symbols: Iterable[str]) -> bool:  # noqa: ARG002
        """Tell whether total energies of these elements, labelled by this scheme, are those of the Materials Project.

        They are not where pseudopotentials are others: each element then has its own zero of energy.
        """
        return False

    def setup_code(self) -> CodeSpec | None:
        """Return the code that a set-up of this machine has, which is also the default one; None if users make it."""
        return None

    def setup_parts(self) -> Iterator[Part]:
        """Yield what else a set-up needs: pseudopotentials, say."""
        yield from ()

    def basis(self, settings: S) -> str:  # noqa: ARG002
        """Name the basis for people, such as ``plane waves 500 eV``."""
        return ""

    def version(self, code: "AbstractCode") -> str | None:  # noqa: ARG002
        """Return the engine's version where it is known before a run."""
        return None

    def describe(self, settings: S, protocol: str, version: str | None = None) -> str:
        """Describe runs for people: ``GPAW 26.7.0 (PBE+U, plane waves 500 eV, protocol balanced) through AiiDA``."""
        functional = settings["functional"] + ("+U" if settings["hubbard"] and settings["hubbard_u"] else "")
        relaxed = f"positions relaxed to {settings['fmax']:g} eV/Å" if settings["relax"] else ""
        parts = [functional, self.basis(settings), f"protocol {protocol}", relaxed]
        title = f"{self.title} {version}" if version else self.title
        return f"{title} ({', '.join(part for part in parts if part)}) through AiiDA"


ENGINES: Registry[type[Engine[Any]]] = Registry("engine", "cgcnn.engines")


def engine_names() -> list[str]:
    """Return the names that `engine` takes."""
    return ENGINES.names()


def engine(name: str) -> Engine[Any]:
    """Return the engine of a name; a ValueError if there is none, or a package that it needs is not installed."""
    try:
        return ENGINES.get(name)()
    except ImportError as error:
        raise ValueError(f"engine {name!r} needs {error.name or error}: {install_line('dft')}") from error


def engines() -> Iterator[Engine[Any]]:
    """Yield all engines; raises as `engine`."""
    return map(engine, engine_names())


def label_scale(scheme: "Scheme | None", symbols: Iterable[str]) -> str | None:
    """Name the scale of the energy of a label, by its scheme (:mod:`cgcnn_ase.energies.scales`).

    ``uncorrected`` are energies with the settings of the Materials Project, ``other:ENGINE FUNCTIONAL`` all others that
    an engine computed; those of a database have the scale of its corrections. None where the scheme does not tell.

    Parameters
    ----------
    scheme
        See :mod:`aiida_plugin.data.labels`.
    symbols
        Of the elements in the structure.
    """
    if scheme is None or "functional" not in scheme:
        return None
    name, functional = str(scheme.get("engine")), str(scheme["functional"])
    if "corrections" in scheme:
        return fetched_scale(str(scheme["corrections"]), functional=functional)
    if name in engine_names() and engine(name).has_project_settings(scheme, symbols):
        return "uncorrected"
    return f"other:{name} {functional}"


def retrieved_text(job: "CalcJobNode", name: str | None) -> str:
    """Text of a file that a job retrieved; empty where there is none."""
    files = job.outputs.retrieved.base.repository
    if not name or name not in files.list_object_names():
        return ""
    return str(files.get_object_content(name, "rb").decode(errors="replace"))


def plane_waves(cutoff: float | None) -> str:
    """Name a basis of plane waves by its cutoff (eV), where that is known."""
    return "plane waves" if cutoff is None else f"plane waves {float(cutoff):g} eV"


def on_path(*names: str) -> Path | None:
    """Find the first of these executables that is on the PATH."""
    return next((Path(path) for name in names if (path := shutil.which(name))), None)


def is_in_this_environment(code: "AbstractCode | None") -> bool:
    """Tell whether a code runs on this machine, with the Python that runs this or a command beside it."""
    path = getattr(code, "filepath_executable", None)
    if code is None or path is None or code.computer is None or code.computer.transport_type != "core.local":
        return False
    return not is_in_container(code) and Path(path).parent == Path(sys.executable).parent
