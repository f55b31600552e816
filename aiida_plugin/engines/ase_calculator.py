"""Any ASE calculator by name: EMT to try workflows in seconds, CHGNet as a stand-in where DFT is too slow."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aiida_plugin.engines.ase_jobs import ASEJobsEngine, job_builder

if TYPE_CHECKING:
    from aiida.engine import ProcessBuilder
    from aiida.orm import AbstractCode, StructureData


class ASEEngine(ASEJobsEngine):
    """A calculator that ASE knows by name, or ``module:Class``; the label scheme says which, and what it is."""

    name = "ase"

    def builder(
        self,
        structure: "StructureData",
        code: "AbstractCode",
        settings: Mapping[str, Any],
        *,
        moments: Mapping[str, float],
        options: Mapping[str, Any],
    ) -> "ProcessBuilder":
        """All inputs of one run; the settings must name a ``calculator``."""
        calculator = settings["calculator"]
        if not calculator:
            raise ValueError(
                "engine 'ase' needs the setting calculator: one that ASE knows (emt, ...), chgnet, or module:Class"
            )
        job = {
            "calculator": calculator,
            "parameters": dict(settings["parameters"]),
            "task": "relax" if settings["relax"] else "energy",
            "moments": dict(moments),
        }
        if settings["relax"]:
            job |= {"fmax": settings["fmax"], "max_steps": settings["max_relax_steps"]}
        if settings["functional"] and settings["functional"] != "PBE":
            job["functional"] = settings["functional"]
        return job_builder(structure, code, job, options, (calculator.partition(":")[0].partition(".")[0],))
