"""``cgcnn.finetune``: a model and labelled structures -> a model that fits the labels better, and how much better."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, cast

from aiida.engine import ExitCode, WorkChain, if_, while_
from aiida.orm import AbstractCode, CalcJobNode, Dict, Int, Str

from aiida_plugin.calculations.functions.finetune_steps import parts, report_finetuning, split_test
from aiida_plugin.calculations.predict import PredictCalculation
from aiida_plugin.calculations.train import (
    Inputs,
    TrainCalculation,
    arguments,
    is_potential,
    model_facts,
    validation_error,
)
from aiida_plugin.calculations.training_data import gather
from aiida_plugin.data.model import CGCNNModelData
from aiida_plugin.data.predictions import PredictionsData
from aiida_plugin.data.structures import StructureSetData
from aiida_plugin.workflows.idempotent import call_once, submit_once
from cgcnn_ase.core.errors import unknown_name
from cgcnn_ase.core.targets import is_name_of
from cgcnn_ase.core.yaml_settings import merged, read_yaml

if TYPE_CHECKING:
    from aiida.engine import ProcessBuilder
    from aiida.engine.processes.workchains.workchain import WorkChainSpec

Layer: TypeAlias = dict[str, object]


class _Protocols(TypedDict):
    """Content of the protocols' file: layers of inputs, each over those before it."""

    default_protocol: str
    few_below: int
    default: Layer
    protocols: dict[str, Layer]
    few_labels: Layer


def _protocols() -> _Protocols:
    return cast("_Protocols", read_yaml(Path(__file__).parent / "protocols" / "finetune.yaml"))


def protocol_names() -> dict[str, str]:
    """Descriptions of the protocols by name."""
    return {name: str(values["description"]) for name, values in _protocols()["protocols"].items()}


def protocol_inputs(
    protocol: str | None, n_labels: int, overrides: Mapping[str, object] | None = None
) -> tuple[dict[str, object], int]:
    """Recipe of a protocol for so many labels, and how often a job is gone on with.

    The recipe says how the set is split and scales the epochs; the rest goes by the number of labels, wherever a model
    is tuned (:func:`cgcnn_ase.training.finetune_recipe.recipe_for`). Of fewer than 50 labels none is kept to test on.
    Parameters and errors as of :meth:`FinetuneWorkChain.get_builder_from_protocol`.
    """
    known = _protocols()
    name = protocol or known["default_protocol"]
    if name not in known["protocols"]:
        raise unknown_name("protocol", name, known["protocols"])
    few = known["few_labels"] if n_labels < known["few_below"] else {}
    layer = {key: value for key, value in known["protocols"][name].items() if key != "description"}
    if unknown := sorted(set(overrides or {}) - set(known["default"])):
        raise ValueError(f"overrides of {', '.join(unknown)}; allowed: {', '.join(known['default'])}")
    inputs = merged(known["default"], layer, few, overrides or {})
    return cast("dict[str, object]", inputs["recipe"]), int(str(inputs["max_restarts"]))


def finetune_inputs(code: AbstractCode, arguments: dict[str, Any], n_labels: int) -> dict[str, Any]:
    """Fill the inputs of the namespace ``finetune`` of a work chain; a ValueError names what is unknown."""
    recipe, max_restarts = protocol_inputs(arguments.pop("protocol", None), n_labels, arguments.pop("overrides", None))
    if unknown := sorted(set(arguments) - {"test", "target", "model_name", "options"}):
        raise ValueError(
            f"finetune: unknown {', '.join(unknown)}; allowed: protocol, overrides, test, target, model_name, options"
        )
    texts: dict[str, object] = {
        name: Str(arguments.pop(name)) for name in ("target", "model_name") if name in arguments
    }
    return {"code": code, "recipe": Dict(recipe), "max_restarts": Int(max_restarts), **texts, **arguments}


class FinetuneWorkChain(WorkChain):
    """Fine-tune a model on labelled structures, and measure it before and after on structures it has not seen.

    The test set is an input, or a part of the labelled set that becomes a node of its own. A training that runs out of
    time is gone on with. `get_builder_from_protocol` knows recipes.
    """

    @classmethod
    def define(cls, spec: "WorkChainSpec") -> None:
        """Inputs, steps, outputs and exit codes."""
        super().define(spec)
        spec.input("code", valid_type=AbstractCode, help="cgcnn-ase; it trains and predicts.")
        spec.input("model", valid_type=CGCNNModelData, help="The model to start from.")
        spec.input("model_name", valid_type=Str, required=False, help="Which, where the node holds several.")
        spec.input("structures", valid_type=StructureSetData, help="Labelled structures.")
        spec.input("test", valid_type=StructureSetData, required=False, help="Labelled structures to measure on.")
        spec.input("target", valid_type=Str, required=False, help="Their label; by default the model's target.")
        spec.input("recipe", valid_type=Dict, help="Settings of cgcnn.train; test: part to measure on, if none given.")
        spec.input("max_restarts", valid_type=Int, default=lambda: Int(5), help="Of a training out of time.")
        spec.input("options", valid_type=dict, required=False, non_db=True, help="metadata.options of the training.")
        spec.input("predict_options", valid_type=dict, required=False, non_db=True, help="The same of the predictions.")
        spec.inputs.validator = _check_inputs
        steps: Any = cls  # the types of if_ and while_ know methods of WorkChain alone
        spec.outline(
            steps.check,
            if_(steps.should_split)(steps.split),
            steps.predict_before,
            steps.inspect_before,
            while_(steps.should_train)(steps.train, steps.inspect_train),
            if_(steps.has_test)(steps.predict_after, steps.inspect_after),
            steps.report_all,
        )
        spec.output("model", valid_type=CGCNNModelData, help="The fine-tuned model.")
        spec.output("metrics", valid_type=Dict, help="Of the training.")
        spec.output("report", valid_type=Dict, help="before, after, offset between labels and the old model, counts.")
        spec.output("test", valid_type=StructureSetData, required=False, help="The part that was measured on.")
        spec.output("predictions", valid_type=PredictionsData, required=False, help="Of the new model on the test set.")
        spec.exit_code(401, "ERROR_LABELS", message="the labels cannot be learned: {reason}")
        spec.exit_code(410, "ERROR_PREDICTION_BEFORE", message="the model to tune could not predict: {reason}")
        spec.exit_code(420, "ERROR_TRAINING", message="the training <{pk}> failed: {reason}")
        spec.exit_code(
            421,
            "ERROR_TOO_MANY_RESTARTS",
            message="the training <{pk}> ran out of time after {n} restarts: ask for more wall time or max_restarts",
        )
        spec.exit_code(430, "ERROR_PREDICTION_AFTER", message="the tuned model could not predict: {reason}")
        spec.exit_code(440, "ERROR_REPORT", message="before and after cannot be compared: {reason}")

    @classmethod
    def get_builder_from_protocol(
        cls,
        code: AbstractCode,
        model: CGCNNModelData,
        structures: StructureSetData,
        protocol: str | None = None,
        overrides: Mapping[str, object] | None = None,
        *,
        test: StructureSetData | None = None,
        target: str | None = None,
        model_name: str | None = None,
        options: Mapping[str, object] | None = None,
    ) -> "ProcessBuilder":
        """The inputs of a protocol.

        Parameters
        ----------
        code, model, structures, test, target, model_name, options
            As the inputs of the same names.
        protocol
            fast, balanced (the default) or stringent.
        overrides
            ``recipe`` (settings by name) and ``max_restarts``.

        Raises
        ------
        ValueError
            If there is no such protocol, or nothing of that name to override.
        """
        recipe, max_restarts = protocol_inputs(protocol, len(structures), overrides)
        builder = cls.get_builder()
        builder.code, builder.model, builder.structures = code, model, structures
        builder.recipe, builder.max_restarts = Dict(recipe), Int(max_restarts)
        texts = {"target": target, "model_name": model_name}
        builder._update({name: Str(text) for name, text in texts.items() if text is not None})
        builder._update({} if test is None else {"test": test})
        builder._update({} if options is None else {"options": dict(options)})
        return builder

    def check(self) -> ExitCode | None:
        """See that the labels can be learned."""
        self.ctx.target, self.ctx.recipe = self._target(), self.inputs.recipe.get_dict()
        self.ctx.structures, self.ctx.test = self.inputs.structures, self.inputs.get("test")
        self.ctx.n_restarts, self.ctx.trained = 0, None
        facts = model_facts(self.inputs)
        if facts is not None and not is_name_of(self.ctx.target, facts["target"]):
            self.report(
                f"{self.ctx.target} is not the target of {facts['name']}, {facts['target']}: a new head is learned and "
                "'before' in the report is of another property"
            )
        try:
            if self.should_split():
                parts(self.ctx.structures, self.ctx.target, self.ctx.recipe)
            else:
                gather(self.ctx.structures, self.ctx.target, self.ctx.recipe, test=self.ctx.test)
        except ValueError as error:
            return self._fail("ERROR_LABELS", reason=str(error))
        return None

    def should_split(self) -> bool:
        """Tell whether a part is kept to measure on."""
        return self.ctx.test is None and float(self.ctx.recipe.get("test", 0.1)) > 0

    def split(self) -> None:
        """Two nodes of one."""
        inputs = {"structures": self.ctx.structures, "target": Str(self.ctx.target), "settings": self.inputs.recipe}
        result = call_once(self, "split", split_test, **inputs)
        self.ctx.structures, self.ctx.test = result["train"], result["test"]
        self.out("test", self.ctx.test)

    def predict_before(self) -> dict[str, object]:
        """The old model on what is learned, for the offset, and on the test set."""
        sets = {"before_on_train": self.ctx.structures} | ({"before": self.ctx.test} if self.has_test() else {})
        return {key: self._predict(self.inputs.model, structures, key) for key, structures in sets.items()}

    def inspect_before(self) -> ExitCode | None:
        """Go on if it could."""
        for key in ("before_on_train", "before"):
            if key in self.ctx and not self.ctx[key].is_finished_ok:
                return self._fail("ERROR_PREDICTION_BEFORE", reason=_why(self.ctx[key]))
        return None

    def should_train(self) -> bool:
        """Until a training has come to its end."""
        return self.ctx.trained is None

    def train(self) -> dict[str, object]:
        """Start, or go on after the wall time."""
        inputs = {
            "code": self.inputs.code, "model": self.inputs.model, "structures": self.ctx.structures,
            "target": Str(self.ctx.target), "settings": self.inputs.recipe,
            "metadata": {"options": dict(self.inputs.get("options", {}))},
        }  # fmt: skip
        inputs |= {"test": self.ctx.test} if self.has_test() else {}
        inputs |= {"model_name": self.inputs.model_name} if "model_name" in self.inputs else {}
        label = "train"
        if "restart_folder" in self.ctx:
            inputs["restart_folder"] = self.ctx.restart_folder
            label = f"train_{self.ctx.n_restarts}"
        return {"training": submit_once(self, label, TrainCalculation, **inputs)}

    def inspect_train(self) -> ExitCode | None:
        """Take the model, go on, or give up."""
        job: CalcJobNode = self.ctx.training
        if job.is_finished_ok:
            self.ctx.trained = job
            self.out("model", job.outputs.model)
            self.out("metrics", job.outputs.metrics)
            return None
        if job.exit_status != TrainCalculation.exit_codes.ERROR_OUT_OF_WALLTIME.status:
            return self._fail("ERROR_TRAINING", pk=job.pk, reason=_why(job))
        if self.ctx.n_restarts >= self.inputs.max_restarts.value:
            return self._fail("ERROR_TOO_MANY_RESTARTS", pk=job.pk, n=self.ctx.n_restarts)
        self.ctx.n_restarts += 1
        self.ctx.restart_folder = job.outputs.remote_folder
        self.report(f"training <{job.pk}>: {job.exit_message}; restart {self.ctx.n_restarts}")
        return None

    def has_test(self) -> bool:
        """Tell whether there is something to measure on."""
        return self.ctx.test is not None

    def predict_after(self) -> dict[str, object]:
        """The new model on the test set."""
        return {"after": self._predict(self.ctx.trained.outputs.model, self.ctx.test, "after")}

    def inspect_after(self) -> ExitCode | None:
        """Go on if it could."""
        if not self.ctx.after.is_finished_ok:
            return self._fail("ERROR_PREDICTION_AFTER", reason=_why(self.ctx.after))
        self.out("predictions", self._predictions("after"))
        return None

    def report_all(self) -> ExitCode | None:
        """Before and after, in one node."""
        inputs = {
            "target": Str(self.ctx.target),
            "metrics": self.ctx.trained.outputs.metrics,
            "train": self.ctx.structures,
            "before_on_train": self._predictions("before_on_train"),
        }
        if self.has_test():
            inputs |= {"test": self.ctx.test} | {key: self._predictions(key) for key in ("before", "after")}
        try:
            self.out("report", call_once(self, "report", report_finetuning, **inputs))
        except ValueError as error:
            return self._fail("ERROR_REPORT", reason=str(error))
        return None

    def _target(self) -> str:
        facts = model_facts(self.inputs)
        return str(self.inputs.target.value if "target" in self.inputs else facts["target"] if facts else "")

    def _predict(self, model: CGCNNModelData, structures: StructureSetData, label: str) -> object:
        inputs = {"code": self.inputs.code, "model": model, "structures": structures}
        metadata = {"options": dict(self.inputs.get("predict_options", {}))}
        return submit_once(self, f"predict_{label}", PredictCalculation, **inputs, metadata=metadata)

    def _predictions(self, key: str) -> PredictionsData:
        """Those of a job, of several models in a node those of the one that is tuned."""
        outputs = self.ctx[key].outputs
        if "predictions" in outputs:
            return cast("PredictionsData", outputs.predictions)
        facts = model_facts(self.inputs)
        assert facts is not None
        return cast("PredictionsData", outputs.by_model[facts["name"].replace("-", "_")])

    def _fail(self, name: str, **words: object) -> ExitCode:
        return self.exit_codes(name).format(**words)


def _why(job: CalcJobNode) -> str:
    return str(job.exit_message or f"it ended in the state {job.process_state}")


def _check_inputs(inputs: Inputs, _: object) -> str | None:
    """Find what is wrong with recipe and model; None if nothing is."""
    if "recipe" not in inputs or "model" not in inputs:
        return None  # the ports say so themselves
    recipe = inputs["recipe"].get_dict()
    if wrong := validation_error(recipe, tunes=True, potential=is_potential(inputs)):
        return f"recipe: {wrong}"
    try:
        facts = model_facts(inputs)
        target = inputs["target"].value if "target" in inputs else (facts or {}).get("target", "")
        arguments(recipe, target, facts)
    except ValueError as error:
        return str(error)
    return None
