"""``cgcnn.screen``: structures -> predictions -> the ones worth computing -> labels -> how well both agree."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aiida.engine import ExitCode, ProcessBuilder, WorkChain, if_
from aiida.orm import AbstractCode, Dict, Int, Str

from aiida_plugin.calculations.functions.predictions import SELECTION, check_selection, prediction_errors, select
from aiida_plugin.calculations.functions.structure_sets import Structures, structures_node
from aiida_plugin.calculations.predict import (
    SHARDS_OF_OPINIONS,
    PredictCalculation,
    asks_second_opinions,
    hypothetical_by_default,
    model_node,
)
from aiida_plugin.data.model import CGCNNModelData
from aiida_plugin.data.predictions import PredictionsData
from aiida_plugin.data.structures import StructureSetData
from aiida_plugin.engines.protocol import DEFAULT_PROTOCOL
from aiida_plugin.workflows.idempotent import call_once, submit_once
from aiida_plugin.workflows.label import LabelWorkChain, label_inputs
from aiida_plugin.workflows.predict_shards import PredictShardsWorkChain

if TYPE_CHECKING:
    from aiida.engine.processes.workchains.workchain import WorkChainSpec
    from aiida.orm import ProcessNode


class ScreenWorkChain(WorkChain):
    """Predict a set, choose the best and the least certain structures, label them by DFT, and say how well both agree.

    Without inputs in ``label`` it ends with the choice. Structures whose labels failed are listed, and cost no other.
    """

    @classmethod
    def define(cls, spec: "WorkChainSpec") -> None:
        """Declare inputs, outputs, steps and exit codes."""
        super().define(spec)
        spec.input("structures", valid_type=StructureSetData, serializer=structures_node, help="The candidates.")
        spec.input("model", valid_type=CGCNNModelData, serializer=model_node, help="The model that predicts them.")
        spec.input(
            "property", valid_type=Str, required=False, help="Of a model node with several models, the one to rank by."
        )
        spec.expose_inputs(PredictCalculation, namespace="predict", exclude=("structures", "model"))
        hypothetical_by_default(spec.inputs)
        spec.input(
            "n_shards", valid_type=Int, required=False, help="Predict in so many jobs; see cgcnn.predict_shards."
        )
        spec.input(
            "selection",
            valid_type=Dict,
            default=lambda: Dict(SELECTION),
            validator=check_selection,
            help=f"What is chosen, and how: {', '.join(SELECTION)}.",
        )
        spec.expose_inputs(
            LabelWorkChain,
            namespace="label",
            exclude=("structures", "indices"),
            namespace_options={"required": False, "populate_defaults": False},
        )
        spec.inputs.validator = _check_inputs
        spec.output("predictions", valid_type=PredictionsData, help="Of all candidates.")
        spec.output("chosen", valid_type=Dict, help="The structures worth computing, each with the reason.")
        spec.expose_outputs(LabelWorkChain)
        spec.outputs["failures"].required = False
        spec.output("agreement", valid_type=Dict, required=False, help="Errors of the predictions against the labels.")
        spec.outline(cls.predict, cls.choose, if_(cls.is_to_label)(cls.label, cls.compare))
        spec.exit_code(410, "ERROR_PREDICTION_FAILED", message="the candidates could not be predicted: {reason}")
        spec.exit_code(
            411, "ERROR_NO_SUCH_PROPERTY", message="the model node has no model of {property}; it has {known}"
        )
        spec.exit_code(420, "ERROR_NOTHING_CHOSEN", message="no structure could be chosen: {reason}")
        spec.exit_code(430, "ERROR_LABELS_FAILED", message="the chosen structures could not be labelled: {reason}")
        spec.exit_code(431, "ERROR_LABELS_INCOMPLETE", message="the chosen structures are labelled, but: {reason}")

    @classmethod
    def get_builder_from_protocol(
        cls,
        code: AbstractCode,
        model: CGCNNModelData | str,
        structures: StructureSetData | Structures,
        *,
        label_code: AbstractCode | None = None,
        engine: str = "gpaw",
        protocol: str = DEFAULT_PROTOCOL,
        overrides: Mapping[str, Any] | None = None,
        selection: Mapping[str, Any] | None = None,
        n_shards: int | None = None,
        predict_options: Mapping[str, Any] | None = None,
        **label: Any,
    ) -> ProcessBuilder:
        """Fill the inputs of a screening.

        Parameters
        ----------
        code, model, structures
            That runs ``cgcnn-ase``, that predicts (a node or a name), and what is predicted: a set, or a group, its
            label, a query or nodes, of which a set is made.
        label_code
            The engine's; without it nothing is labelled.
        engine, protocol, overrides, label
            See :meth:`LabelWorkChain.get_builder_from_protocol`.
        selection
            Over the default; see :func:`aiida_plugin.calculations.functions.predictions.select`.
        n_shards
            Predict in so many jobs.
        predict_options
            ``metadata.options`` of the prediction's jobs.

        Raises
        ------
        ValueError
            If a name is none of the allowed.
        """
        builder = cls.get_builder()
        builder.model, builder.structures = model, structures
        builder._update({"predict": {"code": code, "metadata": {"options": dict(predict_options or {})}}})
        if selection is not None:
            builder.selection = Dict(SELECTION | dict(selection))
        if n_shards is not None:
            builder.n_shards = Int(n_shards)
        if label_code is not None:
            builder.label = label_inputs(label_code, builder["structures"], engine, protocol, overrides, **label)
        else:
            builder.pop("label")
        return builder

    def predict(self) -> "dict[str, ProcessNode]":
        """Predict all candidates, in one job or in shards."""
        inputs = self.exposed_inputs(PredictCalculation, "predict")
        inputs |= {"structures": self.inputs.structures, "model": self.inputs.model}
        if "n_shards" not in self.inputs:
            return {"prediction": submit_once(self, "predict", PredictCalculation, **inputs)}
        inputs["job"] = {"metadata": inputs.pop("metadata", {})}
        inputs["n_shards"] = self.inputs.n_shards
        return {"prediction": submit_once(self, "predict", PredictShardsWorkChain, **inputs)}

    def choose(self) -> ExitCode | None:
        """Rank the candidates and choose those to label."""
        run = self.ctx.prediction
        if not run.is_finished_ok:
            return self.exit_codes("ERROR_PREDICTION_FAILED").format(reason=run.exit_message)
        outputs = run.outputs
        name = self.inputs.property.value.replace("-", "_") if "property" in self.inputs else "(not said)"
        if "predictions" not in outputs and name not in outputs.by_model:
            known = ", ".join(sorted(outputs.by_model))
            return self.exit_codes("ERROR_NO_SUCH_PROPERTY").format(property=name, known=known)
        self.ctx.predictions = outputs.predictions if "predictions" in outputs else outputs.by_model[name]
        self.out("predictions", self.ctx.predictions)
        inputs = {"predictions": self.ctx.predictions, "settings": self.inputs.selection}
        try:
            chosen = call_once(self, "select", select, **inputs)
        except ValueError as error:
            return self.exit_codes("ERROR_NOTHING_CHOSEN").format(reason=str(error))
        self.ctx.indices = chosen["indices"]
        self.out("chosen", chosen["chosen"])
        return None

    def is_to_label(self) -> bool:
        """Tell whether there is an engine."""
        return "label" in self.inputs and "code" in self.inputs.label

    def label(self) -> "dict[str, ProcessNode]":
        """Label what was chosen."""
        inputs = self.exposed_inputs(LabelWorkChain, "label")
        inputs |= {"structures": self.inputs.structures, "indices": self.ctx.indices}
        return {"labels": submit_once(self, "label", LabelWorkChain, **inputs)}

    def compare(self) -> ExitCode | None:
        """Hold the predictions against the labels."""
        run = self.ctx.labels
        for name, node in self.exposed_outputs(run, LabelWorkChain).items():
            self.out(name, node)
        if "labelled" not in run.outputs:
            return self.exit_codes("ERROR_LABELS_FAILED").format(reason=run.exit_message)
        inputs = {"predictions": self.ctx.predictions, "labelled": run.outputs.labelled}
        self.out("agreement", call_once(self, "agreement", prediction_errors, **inputs))
        if not run.is_finished_ok:  # the labels lack what was asked for
            return self.exit_codes("ERROR_LABELS_INCOMPLETE").format(reason=run.exit_message)
        return None


def _check_inputs(inputs: Mapping[str, Any], _: object) -> str | None:
    sharded = "n_shards" in inputs and asks_second_opinions(inputs.get("predict", {}))
    return SHARDS_OF_OPINIONS if sharded else None
