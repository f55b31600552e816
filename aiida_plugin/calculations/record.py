"""``cgcnn.record``: what a node of `aiida_plugin.provenance.record` is to AiiDA."""

from typing import TYPE_CHECKING

from aiida.engine import ExitCode, Process
from aiida.orm import CalculationNode, Dict, Str

from aiida_plugin.data.model import CGCNNModelData
from aiida_plugin.data.predictions import PredictionsData
from aiida_plugin.data.structures import StructureSetData

if TYPE_CHECKING:
    from aiida.engine.processes.process_spec import ProcessSpec


class RecordedCalculation(Process):
    """All that a calculator computed in a block ``with record(calculator)``, recorded when it was over.

    The work was done outside of AiiDA's engine, so this class tells what inputs, outputs and exit codes such a node
    has; it cannot be run.
    """

    _node_class = CalculationNode

    @classmethod
    def define(cls, spec: "ProcessSpec") -> None:
        """Declare inputs, outputs and exit codes."""
        super().define(spec)
        spec.input("model", valid_type=CGCNNModelData, help="The calculator's model.")
        spec.input("structures", valid_type=StructureSetData, help="Each structure that was computed, in order.")
        spec.input("settings", valid_type=Dict, help="Of the calculator.")
        spec.input("package_version", valid_type=Str, help="Version of cgcnn-ase that computed.")
        spec.output("predictions", valid_type=PredictionsData, help="A row for each structure.")
        spec.exit_code(400, "ERROR_STOPPED", message="stopped after {n} evaluations: {reason}")
        spec.exit_code(410, "ERROR_NOT_RUN", message="a recorded run cannot be run again: with record(calculator): ...")

    async def run(self) -> ExitCode:
        """Refuse: only `record` makes such nodes."""
        return self.exit_codes("ERROR_NOT_RUN")
