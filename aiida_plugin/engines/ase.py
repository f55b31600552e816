"""ASE calculators through ``cgcnn.ase_dft``: what GPAW and every other one share, and the engine of any by name."""

import sys
from collections.abc import Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from aiida_plugin.engines.base import (
    ONE_THREAD,
    Call,
    CodeSpec,
    CommonSettings,
    Engine,
    Run,
    S,
    is_in_this_environment,
    plain_call,
)
from cgcnn_ase.core.environment import installed_versions

if TYPE_CHECKING:
    from aiida.engine import ProcessBuilder, WorkChain
    from aiida.orm import ProcessNode, Str

    from aiida_plugin.data.structures import StructureSetData


class ASEJobsEngine(Engine[S]):
    """An engine whose runs are jobs of a Python interpreter with ASE."""

    code_plugin = "cgcnn.ase_dft"

    def labelled(  # the job has labelled already
        self,
        run: "ProcessNode",
        structure_id: "Str",  # noqa: ARG002
        call: Call = plain_call,  # noqa: ARG002
    ) -> "StructureSetData":
        """Return the job's own output; its one structure has the id ``0``, as the job knows no names."""
        if "labelled" not in run.outputs:
            raise ValueError(f"run {run.pk} holds no labels: {run.exit_message or run.process_state}")
        labels: StructureSetData = run.outputs.labelled
        return labels

    def setup_code(self) -> CodeSpec:
        """Return the Python that runs this."""
        gpaw = f"with GPAW {metadata.version('gpaw')}" if find_spec("gpaw") else "for ASE calculators, without GPAW"
        return CodeSpec("python", self.code_plugin, Path(sys.executable), f"Python {gpaw}", prepend=ONE_THREAD)

    def job(self, run: Run[S], packages: tuple[str, ...], settings: Mapping[str, Any]) -> "ProcessBuilder":
        """Fill the inputs of a job of one thread; `settings` are of ``cgcnn.ase_dft``, besides those of a relaxation.

        The versions of ASE, NumPy and `packages`, which decide, are asked for where the code is the Python that runs
        this.
        """
        from aiida.orm import Dict
        from aiida.plugins import WorkflowFactory

        job = {"task": "energy", **settings}
        if run.settings["relax"]:
            job |= {"task": "relax", "fmax": run.settings["fmax"], "max_steps": run.settings["max_relax_steps"]}
        options = run.job_options
        del options["prepend_text"]  # the job has it already
        options |= {name: run.options[name] for name in ("prepend_text",) if name in run.options}
        options["environment_variables"] = {"OMP_NUM_THREADS": "1", **options.get("environment_variables", {})}
        inputs = {"structure": run.structure, "code": run.code, "settings": Dict(job), "metadata": {"options": options}}
        if is_in_this_environment(run.code):
            inputs["versions"] = Dict(installed_versions("ase", "numpy", *packages))
        builder: ProcessBuilder = cast("type[WorkChain]", WorkflowFactory("cgcnn.ase_dft.base")).get_builder()
        builder._update({"calc": inputs})
        return builder


class ASESettings(CommonSettings):
    """Settings that ``ase.yaml`` adds."""

    calculator: str | None
    parameters: dict[str, Any]


class ASEEngine(ASEJobsEngine[ASESettings]):
    """A calculator that ASE knows by name, or ``module:Class``; the label scheme says which, and what it is."""

    name = "ase"
    title = "ASE"

    def builder(self, run: Run[ASESettings]) -> "ProcessBuilder":
        """See :meth:`Engine.builder`; the settings must name a ``calculator``."""
        calculator = run.settings["calculator"]
        if not calculator:
            raise ValueError(
                "engine 'ase' needs the setting calculator: one that ASE knows (emt, ...), chgnet, or module:Class"
            )
        job = {"calculator": calculator, "parameters": dict(run.settings["parameters"]), "moments": dict(run.moments)}
        if run.settings["functional"]:
            job["functional"] = run.settings["functional"]
        return self.job(run, (calculator.partition(":")[0].partition(".")[0],), job)

    def describe(self, settings: ASESettings, protocol: str, version: str | None = None) -> str:  # noqa: ARG002
        """Name the calculator."""
        return f"the ASE calculator {settings['calculator']} through AiiDA"
