"""``cgcnn.active_learning``: while there is budget: propose, predict, choose, label, retrain."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aiida.engine import ExitCode, ProcessBuilder, WorkChain, if_, while_
from aiida.orm import AbstractCode, Dict, Int, List

from aiida_plugin.calculations.functions.generate import defects
from aiida_plugin.calculations.functions.labels import merge_labelled
from aiida_plugin.calculations.functions.predictions import (
    SELECTION,
    check_selection,
    largest_std,
    learning_report,
    prediction_errors,
    select,
)
from aiida_plugin.calculations.functions.structure_sets import Structures, structures_node, subset, with_relaxed
from aiida_plugin.calculations.predict import PredictCalculation, hypothetical_by_default, model_node
from aiida_plugin.calculations.relax import (
    RelaxCalculation,
    check_parameters,
    check_potential,
    reasons_of,
    relaxation_inputs,
    unlearned,
)
from aiida_plugin.data.model import CGCNNModelData
from aiida_plugin.data.structures import StructureSetData
from aiida_plugin.engines.protocol import DEFAULT_PROTOCOL
from aiida_plugin.workflows.finetune import FinetuneWorkChain, finetune_inputs
from aiida_plugin.workflows.idempotent import call_once, submit_once
from aiida_plugin.workflows.label import LabelWorkChain, label_inputs

if TYPE_CHECKING:
    from aiida.engine.processes.workchains.workchain import WorkChainSpec
    from aiida.orm import ProcessNode

# when a loop ends: after so many rounds or labels, or when no candidate is less certain than this
BUDGET = {"rounds": 3, "labels": None, "std_below": None}
MIN_LABELS = 2  # of a training: one to learn from, one to hold out
DEFAULT_SELECTION = SELECTION | {"take": {"lcb": 2}}


class ActiveLearningWorkChain(WorkChain):
    """A model that asks for the labels it learns most from.

    Each round predicts the candidates with the newest model, chooses some by an acquisition function, labels them by
    DFT, and trains the first model again on all labels so far: so rounds never compound each other's errors. Candidates
    are a set, or defects of a host that are generated anew for each round. A potential, if there is one, relaxes them
    first, and predictions and DFT start from there. By links alone the last model leads back to every DFT run.
    """

    @classmethod
    def define(cls, spec: "WorkChainSpec") -> None:
        """Declare inputs, outputs, steps and exit codes."""
        super().define(spec)
        spec.input("model", valid_type=CGCNNModelData, help="The model to begin with.")
        spec.input(
            "candidates",
            valid_type=StructureSetData,
            serializer=structures_node,
            required=False,
            help="What may be labelled.",
        )
        spec.input("host", valid_type=StructureSetData, required=False, help="Instead, what defects are made in.")
        spec.input("proposal", valid_type=Dict, required=False, help="Settings of cgcnn.defects, for the host.")
        spec.input("labelled", valid_type=StructureSetData, required=False, help="Labels that there are already.")
        spec.input(
            "budget", valid_type=Dict, default=lambda: Dict(BUDGET), validator=_check_budget, help=", ".join(BUDGET)
        )
        spec.input(
            "selection",
            valid_type=Dict,
            default=lambda: Dict(DEFAULT_SELECTION),
            validator=check_selection,
            help=f"What each round labels: {', '.join(SELECTION)}.",
        )
        spec.input(
            "potential",
            valid_type=CGCNNModelData,
            serializer=model_node,
            validator=check_potential,
            required=False,
            help="Relaxes candidates of whose elements it has learned all; without it they stay as they are built.",
        )
        spec.input("relaxation", valid_type=Dict, required=False, validator=check_parameters, help="See cgcnn.relax.")
        spec.expose_inputs(PredictCalculation, namespace="predict", exclude=("structures", "model"))
        hypothetical_by_default(spec.inputs)
        spec.expose_inputs(
            LabelWorkChain, namespace="label", exclude=("structures", "indices"), namespace_options={"required": True}
        )
        spec.expose_inputs(FinetuneWorkChain, namespace="finetune", exclude=("structures", "model"))
        spec.inputs.validator = _check_inputs
        spec.output("model", valid_type=CGCNNModelData, required=False, help="The last one.")
        spec.output("labelled", valid_type=StructureSetData, required=False, help="All labels.")
        spec.output("reference_energies", valid_type=Dict, required=False, help="eV/atom by element, and their scheme.")
        spec.output("report", valid_type=Dict, required=False, help="Errors, labels and what was learned, by round.")
        spec.outline(
            cls.begin,
            while_(cls.has_budget)(
                cls.propose_candidates,
                if_(cls.is_to_relax)(cls.relax, cls.take_relaxed),
                cls.predict,
                cls.choose,
                if_(cls.has_chosen)(cls.label, cls.gather, cls.retrain, cls.end_round),
            ),
            cls.report_rounds,
        )
        spec.exit_code(
            410, "ERROR_PREDICTION_FAILED", message="round {k}: the candidates could not be predicted: {reason}"
        )
        spec.exit_code(412, "ERROR_RELAXATION_FAILED", message="round {k}: no candidate could be relaxed: {reason}")
        spec.exit_code(420, "ERROR_NOTHING_CHOSEN", message="round {k}: no structure could be chosen: {reason}")
        spec.exit_code(430, "ERROR_LABELS_FAILED", message="round {k}: nothing could be labelled: {reason}")
        spec.exit_code(
            431, "ERROR_LABELS_DIFFER", message="round {k}: the new labels do not go with the others: {reason}"
        )
        spec.exit_code(440, "ERROR_TRAINING_FAILED", message="round {k}: the model could not be retrained: {reason}")

    @classmethod
    def get_builder_from_protocol(
        cls,
        code: AbstractCode,
        model: CGCNNModelData,
        label_code: AbstractCode,
        *,
        candidates: StructureSetData | Structures | None = None,
        host: StructureSetData | None = None,
        proposal: Mapping[str, Any] | None = None,
        engine: str = "gpaw",
        protocol: str = DEFAULT_PROTOCOL,
        overrides: Mapping[str, Any] | None = None,
        finetune: Mapping[str, Any] | None = None,
        selection: Mapping[str, Any] | None = None,
        budget: Mapping[str, Any] | None = None,
        labelled: StructureSetData | None = None,
        relax: CGCNNModelData | str | bool | None = None,
        relaxation: Mapping[str, Any] | None = None,
        predict_options: Mapping[str, Any] | None = None,
        **label: Any,
    ) -> ProcessBuilder:
        """Fill the inputs of a loop.

        Parameters
        ----------
        code, label_code
            That runs ``cgcnn-ase``, and the engine's.
        model
            To begin with.
        candidates, host, proposal
            A pool to choose from; or a host, and settings of ``cgcnn.defects`` whose seed counts up with the rounds.
        engine, protocol, overrides, label
            See :meth:`LabelWorkChain.get_builder_from_protocol`.
        finetune
            Arguments of :meth:`FinetuneWorkChain.get_builder_from_protocol`: ``protocol``, ``overrides``, ``test``,
            ``target``, ``model_name`` and ``options``.
        selection, budget
            Over the defaults `DEFAULT_SELECTION` and `BUDGET`.
        labelled
            Labels that there are already, of the same kind.
        relax, relaxation
            The potential that relaxes candidates (a name or a node), and the parameters of ``cgcnn.relax``. By default
            cathode-potential where the property is an energy, as energies of cells as built mislead; False: none.
        predict_options
            ``metadata.options`` of the prediction's jobs.

        Raises
        ------
        ValueError
            If a name is none of the allowed, or neither candidates nor a host are given.
        """
        structures = candidates if candidates is not None else host
        if structures is None:
            raise ValueError("give candidates, or a host and the settings of its defects")
        selection, budget = DEFAULT_SELECTION | dict(selection or {}), BUDGET | dict(budget or {})
        builder = cls.get_builder()
        builder.model = model
        builder._update({"predict": {"code": code, "metadata": {"options": dict(predict_options or {})}}})
        if candidates is not None:
            builder.candidates = candidates
        if host is not None:
            builder.host, builder.proposal = host, Dict(dict(proposal or {}))
        if labelled is not None:
            builder.labelled = labelled
        builder._update(relaxation_inputs(model, relax, relaxation, (finetune or {}).get("target")))
        builder.selection, builder.budget = Dict(selection), Dict(budget)
        builder.label = label_inputs(label_code, structures, engine, protocol, overrides, **label)
        builder.finetune = finetune_inputs(code, dict(finetune or {}), _n_labels(selection, budget, labelled))
        return builder

    def begin(self) -> None:
        """Prepare what the loop carries from round to round."""
        self.ctx.round = 1
        self.ctx.model = self.inputs.model
        self.ctx.labelled = self.inputs.labelled if "labelled" in self.inputs else None
        self.ctx.references = self.inputs.label.get("reference_energies", None)
        self.ctx.rounds = {}
        self.ctx.ended, self.ctx.relaxed = None, None

    def has_budget(self) -> bool:
        """Tell whether another round begins; if not, why is noted."""
        budget, n = self._budget(), self._n_labelled()
        if self.ctx.ended is None and self.ctx.round > budget["rounds"]:
            self.ctx.ended = f"{budget['rounds']} rounds were done"
        if self.ctx.ended is None and budget["labels"] is not None and n >= budget["labels"]:
            self.ctx.ended = f"there are {n} labels; the budget is {budget['labels']}"
        return self.ctx.ended is None

    def propose_candidates(self) -> None:
        """Take the set, or make new defects of the host."""
        if "candidates" in self.inputs:
            self.ctx.candidates = self.inputs.candidates if self.ctx.relaxed is None else self.ctx.relaxed
            return
        proposal = self.inputs.proposal.get_dict()
        name = f"{proposal.get('name', self.inputs.host.ids[0])}-r{self.ctx.round}"
        settings = Dict(proposal | {"name": name, "seed": proposal.get("seed", 42) + self.ctx.round - 1})
        made = call_once(self, self._label("propose"), defects, host=self.inputs.host, settings=settings)
        self.ctx.candidates = made["structures"]

    def is_to_relax(self) -> bool:
        """Tell whether there is a potential, and candidates that it has not relaxed."""
        return "potential" in self.inputs and ("host" in self.inputs or self.ctx.relaxed is None)

    def relax(self) -> "dict[str, ProcessNode] | None":
        """Relax the candidates of whose elements the potential has learned all."""
        structures, self.ctx.relaxation = self.ctx.candidates, None
        self.ctx.not_relaxed = unlearned(self.inputs.potential, structures)
        known = [name for name in structures.ids if name not in self.ctx.not_relaxed]
        if not known:
            return None
        if len(known) < len(structures):
            structures = call_once(self, self._label("learned"), subset, structures=structures, indices=List(known))
        inputs = {"code": self.inputs.predict.code, "model": self.inputs.potential, "structures": structures}
        inputs |= {"parameters": self.inputs.relaxation} if "relaxation" in self.inputs else {}
        options = dict(self.inputs.predict.metadata.get("options", {}))
        inputs["metadata"] = {"options": {name: each for name, each in options.items() if name != "parser_name"}}
        return {"relaxation": submit_once(self, self._label("relax"), RelaxCalculation, **inputs)}

    def take_relaxed(self) -> ExitCode | None:
        """Put the candidates where they were relaxed; say which were not, and why."""
        run, reasons = self.ctx.relaxation, dict(self.ctx.not_relaxed)
        inputs = {}
        if run is not None:
            if "results" not in run.outputs:
                return self._error("ERROR_RELAXATION_FAILED", run.exit_message or str(run.process_state))
            reasons |= reasons_of(run.outputs.results)
            inputs = {"relaxed": run.outputs.relaxed} if "relaxed" in run.outputs else {}
        if reasons:
            name, reason = next(iter(reasons.items()))
            self.report(f"round {self.ctx.round}: {len(reasons)} candidates are not relaxed, as {name}: {reason}")
        inputs |= {"structures": self.ctx.candidates, "not_relaxed": Dict(reasons)}
        self.ctx.candidates = self.ctx.relaxed = call_once(self, self._label("relaxed"), with_relaxed, **inputs)
        return None

    def predict(self) -> "dict[str, ProcessNode]":
        """Predict the candidates with the newest model."""
        inputs = self.exposed_inputs(PredictCalculation, "predict")
        inputs |= {"structures": self.ctx.candidates, "model": self.ctx.model}
        return {"prediction": submit_once(self, self._label("predict"), PredictCalculation, **inputs)}

    def choose(self) -> ExitCode | None:
        """Choose what to label, or find that nothing is left."""
        run = self.ctx.prediction
        if not run.is_finished_ok or "predictions" not in run.outputs:
            reason = run.exit_message or "the model node holds several models; give one with a single model"
            return self._error("ERROR_PREDICTION_FAILED", reason)
        budget = self._budget()
        predictions = run.outputs.predictions
        inputs = {"predictions": predictions, "settings": self.inputs.selection}
        if self.ctx.labelled is not None:
            inputs["labelled"] = self.ctx.labelled
        if budget["labels"] is not None:
            inputs["at_most"] = Int(budget["labels"] - self._n_labelled())
        if budget["std_below"] is not None and largest_std(predictions) < budget["std_below"]:
            self.ctx.ended = f"no candidate has a std of {budget['std_below']} or more"
            return None
        try:
            chosen = call_once(self, self._label("select"), select, **inputs)
        except ValueError as error:
            if self.ctx.round == 1:
                return self._error("ERROR_NOTHING_CHOSEN", str(error))
            self.ctx.ended = str(error)
            return None
        self.ctx.indices = chosen["indices"]
        return None

    def has_chosen(self) -> bool:
        """Tell whether there is something to label."""
        return self.ctx.ended is None

    def label(self) -> "dict[str, ProcessNode]":
        """Label what was chosen, and the elements that no round before had."""
        inputs = self.exposed_inputs(LabelWorkChain, "label")
        inputs |= {"structures": self.ctx.candidates, "indices": self.ctx.indices}
        if self.ctx.references is not None:
            inputs["reference_energies"] = self.ctx.references
        return {"labels": submit_once(self, self._label("label"), LabelWorkChain, **inputs)}

    def gather(self) -> ExitCode | None:
        """Put the new labels to the others, and hold the predictions against them."""
        run: ProcessNode = self.ctx.labels
        if "labelled" not in run.outputs or not run.is_finished_ok:
            return self._error("ERROR_LABELS_FAILED", run.exit_message or str(run.process_state))
        new = run.outputs.labelled
        if "reference_energies" in run.outputs:
            self.ctx.references = run.outputs.reference_energies
        inputs = {"predictions": self.ctx.prediction.outputs.predictions, "labelled": new}
        errors = call_once(self, self._label("agreement"), prediction_errors, **inputs)
        self.ctx.rounds = {**self.ctx.rounds, self._label("agreement"): errors}
        if self.ctx.labelled is None:
            self.ctx.labelled = new
            return None
        sets = {"set_0": self.ctx.labelled, "set_1": new}
        try:
            self.ctx.labelled = call_once(self, self._label("merge"), merge_labelled, **sets)
        except ValueError as error:
            return self._error("ERROR_LABELS_DIFFER", str(error))
        return None

    def retrain(self) -> "dict[str, ProcessNode] | None":
        """Train the first model on all labels, as soon as there is one to hold out."""
        self.ctx.training = None
        if len(self.ctx.labelled) < MIN_LABELS:
            self.report(f"round {self.ctx.round}: with {len(self.ctx.labelled)} label the model stays as it is")
            return None
        inputs = self.exposed_inputs(FinetuneWorkChain, "finetune")
        inputs |= {"model": self.inputs.model, "structures": self.ctx.labelled}
        return {"training": submit_once(self, self._label("finetune"), FinetuneWorkChain, **inputs)}

    def end_round(self) -> ExitCode | None:
        """Take the new model."""
        run = self.ctx.training
        if run is not None and not run.is_finished_ok:
            return self._error("ERROR_TRAINING_FAILED", run.exit_message or str(run.process_state))
        if run is not None:
            self.ctx.model = run.outputs.model
            self.ctx.rounds = {**self.ctx.rounds, self._label("finetune"): run.outputs.report}
        self.report(f"round {self.ctx.round}: {len(self.ctx.labelled)} labels, model {self.ctx.model.pk}")
        self.ctx.round += 1
        return None

    def report_rounds(self) -> None:
        """Give the results of the whole loop."""
        self._out_what_there_is()
        ended = Dict({"ended": self.ctx.ended})
        self.out("report", call_once(self, "report", learning_report, ended=ended, **self.ctx.rounds))

    def _budget(self) -> dict[str, Any]:
        return {**BUDGET, **self.inputs.budget.get_dict()}

    def _n_labelled(self) -> int:
        return 0 if self.ctx.labelled is None else len(self.ctx.labelled)

    def _label(self, step: str) -> str:
        return f"{step}_{self.ctx.round}"

    def _out_what_there_is(self) -> None:
        if self.ctx.labelled is not None:
            self.out("labelled", self.ctx.labelled)
        if self.ctx.references is not None:
            self.out("reference_energies", self.ctx.references)
        if self.ctx.model.pk != self.inputs.model.pk:
            self.out("model", self.ctx.model)

    def _error(self, name: str, reason: str) -> ExitCode:
        """End in words; what was labelled and learned before is not lost."""
        self._out_what_there_is()
        return self.exit_codes(name).format(k=self.ctx.round, reason=reason)


def _n_labels(selection: Mapping[str, Any], budget: Mapping[str, Any], labelled: StructureSetData | None) -> int:
    """Number of labels in the end."""
    known = 0 if labelled is None else len(labelled)
    most = known + budget["rounds"] * sum(selection["take"].values())
    return int(most if budget["labels"] is None else min(most, budget["labels"]))


def _check_budget(budget: Dict, _: object) -> str | None:
    values = budget.get_dict()
    if unknown := sorted(set(values) - set(BUDGET)):
        return f"unknown {', '.join(unknown)}; allowed: {', '.join(BUDGET)}"
    rounds, labels = values.get("rounds", 1), values.get("labels")
    if not isinstance(rounds, int) or rounds < 1:
        return f"rounds must be a whole number from 1 on, not {rounds!r}"
    return None if labels is None or (isinstance(labels, int) and labels > 0) else f"labels: {labels!r} is no number"


def _check_inputs(inputs: Mapping[str, Any], _: object) -> str | None:
    if ("candidates" in inputs) == ("host" in inputs):
        return "give either candidates, or a host and a proposal"
    if "host" not in inputs:
        return None
    if "proposal" not in inputs or inputs["proposal"].get_dict().get("num") is None:
        return (
            "the host needs a proposal: settings of cgcnn.defects for random structures, such as {'num': 20, "
            "'n_vacancies': 2}; for all distinct defects make them by cgcnn.defects, and give them as candidates"
        )
    return None
