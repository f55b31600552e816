"""``cgcnn.ase_dft.base``: an ASE calculator that starts again when out of time or not converged."""

from typing import TYPE_CHECKING, Any

from aiida.engine import (
    BaseRestartWorkChain,
    ExitCode,
    ProcessHandlerReport,
    ToContext,
    append_,
    process_handler,
    while_,
)

from aiida_plugin.calculations.ase_dft import RESULTS, STATE, AseCalculation, complete_settings
from aiida_plugin.workflows.idempotent import submitted

if TYPE_CHECKING:
    from aiida.engine.processes.workchains.workchain import WorkChainSpec
    from aiida.orm import CalcJobNode

_BETA, _SMALLER_BETA = 0.05, 0.02  # GPAW's own mixing, and what is tried when it does not converge
_WIDER, _MORE = 2.0, 2  # factors of the second try: smearing and steps
_MAXITER, _WIDTH = 333, 0.1  # steps and width (eV) of GPAW where the parameters do not say


class AseBaseWorkChain(BaseRestartWorkChain):
    """``cgcnn.ase_dft`` with restarts.

    Out of wall time: goes on from the last positions and wave functions. Electrons not converged (GPAW): smaller
    mixing and more steps, then wider smearing too, which the label scheme tells. Relaxation out of steps: goes on from
    the last positions. Any other end is the work chain's own, with its number and words.
    """

    _process_class = AseCalculation

    @classmethod
    def define(cls, spec: "WorkChainSpec") -> None:
        """Declare inputs, outline, outputs and exit codes."""
        super().define(spec)
        spec.expose_inputs(AseCalculation, namespace="calc")
        spec.expose_outputs(AseCalculation)
        # a daemon killed while a job is uploaded may leave the job without it; its labels are good all the same
        spec.outputs["remote_folder"].required = False
        spec.outline(cls.setup, while_(cls.should_run_process)(cls.run_process, cls.inspect_process), cls.results)
        spec.exit_code(430, "ERROR_GAVE_UP", message="gave up after {n} tries; the last: {reason}")

    def setup(self) -> None:
        """Prepare the inputs of the first job."""
        super().setup()
        self.ctx.inputs = self.exposed_inputs(AseCalculation, "calc")
        self.ctx.n_unconverged = 0

    def run_process(self) -> Any:
        """Start the next job, unless this step is run again and it was started before."""
        before = submitted(self, f"iteration_{self.ctx.iteration + 1:02d}", AseCalculation)
        if before is None:
            return super().run_process()
        self.ctx.iteration += 1
        return ToContext(children=append_(before))

    def results(self) -> None:
        """Give all outputs of the last job, also where this step is run again and some are linked already."""
        last = self.ctx.children[self.ctx.iteration - 1]
        for name, output in self.exposed_outputs(last, AseCalculation).items():
            self.out(name, output)

    def inspect_process(self) -> ExitCode | None:
        """Judge the last job; when giving up, its words are told."""
        ended = super().inspect_process()
        if ended is not None and ended.status == self.exit_codes.ERROR_MAXIMUM_ITERATIONS_EXCEEDED.status:
            last = self.ctx.children[self.ctx.iteration - 1]
            return self.exit_codes("ERROR_GAVE_UP").format(n=self.ctx.iteration, reason=last.exit_message)
        return ended

    @process_handler(priority=500, exit_codes=[AseCalculation.exit_codes.ERROR_OUT_OF_WALLTIME])
    def handle_out_of_time(self, node: "CalcJobNode") -> ProcessHandlerReport | None:
        """Go on where the job was stopped; of one that left nothing, another would leave nothing again."""
        left = node.outputs.retrieved.base.repository.list_object_names()
        return self._go_on(node) if RESULTS in left or STATE in left else None

    @process_handler(priority=500, exit_codes=[AseCalculation.exit_codes.ERROR_RELAX_NOT_CONVERGED])
    def handle_relaxation(self, node: "CalcJobNode") -> ProcessHandlerReport | None:
        """Go on from the last positions."""
        return self._go_on(node)

    @process_handler(priority=500, exit_codes=[AseCalculation.exit_codes.ERROR_SCF_NOT_CONVERGED])
    def handle_electrons(self, node: "CalcJobNode") -> ProcessHandlerReport | None:
        """Mix less, then smear wider, with more steps each time; only GPAW's parameters are known here."""
        # after the first change a plain dict: checkpoints hold stored nodes only
        settings = complete_settings(self.ctx.inputs["settings"])
        if settings["calculator"] != "gpaw" or self.ctx.n_unconverged > 1:
            return None
        parameters = dict(settings["parameters"])
        parameters["maxiter"] = _MORE * int(parameters.get("maxiter", _MAXITER))
        if self.ctx.n_unconverged == 0:
            mixer = dict(parameters.get("mixer", {}))
            parameters["mixer"] = mixer | {"beta": _SMALLER_BETA / _BETA * mixer.get("beta", _BETA)}
            self.report(f"job {node.pk} did not converge: smaller mixing, {parameters['maxiter']} steps")
        else:
            smearing = {"name": "fermi-dirac", "width": _WIDTH, **parameters.get("occupations", {})}
            parameters["occupations"] = smearing | {"width": _WIDER * smearing["width"]}
            self.report(f"job {node.pk} did not converge: smearing {parameters['occupations']['width']} eV")
        self.ctx.n_unconverged += 1
        self.ctx.inputs["settings"] = {**settings, "parameters": parameters}
        self.ctx.inputs.pop("restart_folder", None)
        return ProcessHandlerReport(do_break=True)

    @process_handler(priority=0)
    def handle_the_rest(self, node: "CalcJobNode") -> ProcessHandlerReport | None:
        """Nothing helps: end as the job did, in its words."""
        if node.is_finished_ok:
            return None
        return ProcessHandlerReport(do_break=True, exit_code=ExitCode(node.exit_status or 1, node.exit_message))

    def _go_on(self, node: "CalcJobNode") -> ProcessHandlerReport | None:
        if "remote_folder" not in node.outputs:
            return None
        self.report(f"job {node.pk} came to no end ({node.exit_message}): going on from there")
        self.ctx.inputs["restart_folder"] = node.outputs.remote_folder
        return ProcessHandlerReport(do_break=True)


AseDftBaseWorkChain = AseBaseWorkChain  # its name in early versions
