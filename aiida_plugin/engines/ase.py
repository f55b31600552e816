"""Runs of ``cgcnn.ase_dft.base``, which GPAW and every other ASE calculator share."""

import sys
from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any, cast

from aiida_plugin.engines.base import Call, Engine, plain_call
from aiida_plugin.engines.jobs import job_options

if TYPE_CHECKING:
    from aiida.engine import ProcessBuilder
    from aiida.orm import AbstractCode, ProcessNode, Str, StructureData

    from aiida_plugin.data.structures import StructureSetData


class ASEJobsEngine(Engine):
    """An engine whose runs are jobs of a Python interpreter with ASE."""

    code_plugin = "cgcnn.ase_dft"

    def labelled(  # the job has labelled already
        self,
        run: "ProcessNode",
        structure_id: "Str",  # noqa: ARG002
        call: Call = plain_call,  # noqa: ARG002
    ) -> "StructureSetData":
        """The job's own output; its one structure has the id ``0``, as the job knows no names."""
        if "labelled" not in run.outputs:
            raise ValueError(f"run {run.pk} holds no labels: {run.exit_message or run.process_state}")
        result: StructureSetData = run.outputs.labelled
        return result


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
        if settings["functional"]:
            job["functional"] = settings["functional"]
        return job_builder(structure, code, job, options, (calculator.partition(":")[0].partition(".")[0],))


def job_builder(
    structure: "StructureData",
    code: "AbstractCode",
    job: Mapping[str, Any],
    options: Mapping[str, Any],
    packages: tuple[str, ...],
) -> "ProcessBuilder":
    """All inputs of a run, one thread unless the options say otherwise.

    Parameters
    ----------
    structure, code
        As `Engine.builder` has them.
    job
        The settings of ``cgcnn.ase_dft``.
    options
        ``metadata.options``.
    packages
        Whose versions decide, besides ASE's; they are noted where the code is the Python that runs this.
    """
    from aiida.orm import Dict
    from aiida.plugins import WorkflowFactory

    chain: Any = WorkflowFactory("cgcnn.ase_dft.base")
    builder: Any = chain.get_builder()
    builder.calc.structure = structure
    builder.calc.code = code
    builder.calc.settings = Dict(dict(job))
    if str(getattr(code, "filepath_executable", "")) == sys.executable:
        builder.calc.versions = Dict(_versions(("ase", *packages)))
    threads = {"OMP_NUM_THREADS": "1", **options.get("environment_variables", {})}
    builder.calc.metadata.options = job_options(code, options) | {"environment_variables": threads}
    return cast("ProcessBuilder", builder)


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    return {name: metadata.version(name) for name in packages if next(iter(metadata.distributions(name=name)), None)}
