"""Interface of a DFT engine: its code, how a run is built, and its labels; and the engines by name.

The names are those of the entry points of the group ``cgcnn.engines``: this package's own and those of other packages.
"""

import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeAlias

from aiida_plugin.engines.checks import Part
from aiida_plugin.engines.inputs import Run, S, is_in_container
from cgcnn_ase.core.elements import fetched_scale
from cgcnn_ase.core.errors import install_line
from cgcnn_ase.core.registry import Registry

if TYPE_CHECKING:
    from aiida.engine import ProcessBuilder
    from aiida.orm import AbstractCode, CalcJobNode, ProcessNode, Str

    from aiida_plugin.data.labels import Scheme
    from aiida_plugin.data.structures import StructureSetData

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
