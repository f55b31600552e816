"""GPAW through ``cgcnn.ase_dft``."""

from collections.abc import Iterable, Iterator
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from aiida_plugin.engines.ase import ASEJobsEngine
from aiida_plugin.engines.base import CommonSettings, Inputs, Run, is_in_this_environment, mesh_of, plane_waves
from aiida_plugin.engines.checks import MAKE_ENGINES, SETUP, Finding, Part

if TYPE_CHECKING:
    from aiida.engine import ProcessBuilder
    from aiida.orm import AbstractCode, StructureData


class GPAWSettings(CommonSettings):
    """Settings that ``gpaw.yaml`` adds."""

    cutoff: float
    setups: dict[str, str]
    density_tolerance: float
    eigenstates_tolerance: float
    parameters: dict[str, Any]


class GPAWEngine(ASEJobsEngine[GPAWSettings]):
    """GPAW with plane waves; its code is a Python interpreter that has it."""

    name = "gpaw"
    title = "GPAW"

    def builder(self, run: Run[GPAWSettings]) -> "ProcessBuilder":
        """See :meth:`Engine.builder`."""
        settings = run.settings
        job = {
            "calculator": "gpaw",
            "parameters": gpaw_parameters(run.mesh_structure or run.structure, settings),
            "moments": dict(run.moments) if settings["spin"] else {},
            "kpoints_distance": settings["kpoints_distance"],
        }
        return self.job(run, ("gpaw", "gpaw-data"), job)

    def setup_parts(self) -> Iterator[Part]:
        """Yield GPAW itself, which the code, a Python, has or has not."""
        yield Part("GPAW", _look, needs_profile=False)

    def basis(self, settings: GPAWSettings) -> str:
        """See :meth:`Engine.basis`."""
        return plane_waves(settings["cutoff"])

    def version(self, code: "AbstractCode") -> str | None:
        """Return that of the Python package, where the code is the Python that runs this."""
        return metadata.version("gpaw") if is_in_this_environment(code) else None


def _look() -> Finding:
    if find_spec("gpaw") is None:
        words = "it is not installed in this Python, so that nothing can be labelled by the engine gpaw"
        return Finding("GPAW", "optional", words, f"{MAKE_ENGINES} && {SETUP}")
    return Finding("GPAW", "there", metadata.version("gpaw"))


def gpaw_parameters(structure: "StructureData", settings: GPAWSettings) -> Inputs:
    """Parameters of GPAW, as JSON: plane waves, the mesh of a structure around Γ, PAW data sets with U."""
    parameters: Inputs = {
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
    return parameters | ({"setups": setups} if setups else {}) | settings["parameters"]


def _setups(elements: Iterable[str], settings: GPAWSettings) -> dict[str, str]:
    """PAW data sets by element, with U on the d electrons: ``{"Ni": "10:d,6.2"}``."""
    u = settings["hubbard_u"] if settings["hubbard"] else {}
    setups = {
        element: str(settings["setups"].get(element, "")) + (f":d,{float(u[element])}" if u.get(element) else "")
        for element in sorted(elements)
    }
    return {element: name for element, name in setups.items() if name}
