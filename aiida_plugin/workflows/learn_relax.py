"""``cgcnn.learn_relax``: relax structures by DFT that is asked only where the potential does not know."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from aiida.engine import ExitCode, ProcessBuilder, WorkChain, if_, while_
from aiida.orm import AbstractCode, Dict, Int, Str, StructureData

from aiida_plugin.calculations.functions.labels import structure_with_kinds
from aiida_plugin.calculations.functions.learn_step import SETTINGS, check_memory, learn_step, settings_problem
from aiida_plugin.calculations.functions.structure_sets import Structures, structures_node
from aiida_plugin.calculations.predict import model_node
from aiida_plugin.calculations.relax import check_potential, check_structures
from aiida_plugin.calculations.train import TrainCalculation, validation_error
from aiida_plugin.data.labels import ENERGY_PER_ATOM, merge_schemes, scheme_of
from aiida_plugin.data.model import CGCNNModelData
from aiida_plugin.data.structures import StructureSetData, as_set
from aiida_plugin.engines.base import Run
from aiida_plugin.engines.base import engine as engine_of
from aiida_plugin.engines.labels import label_error, structure_error
from aiida_plugin.engines.protocol import DEFAULT_PROTOCOL
from aiida_plugin.workflows.idempotent import call_once, submit_once
from aiida_plugin.workflows.label import LabelWorkChain, label_inputs
from aiida_plugin.workflows.label_plan import starting_moments
from cgcnn_ase.core.environment import package_version
from cgcnn_ase.learning.learning_state import MIN_FINETUNE

if TYPE_CHECKING:
    from aiida.engine.processes.workchains.workchain import WorkChainSpec
    from aiida.orm import ProcessNode

# of a fine-tuning: labels of one relaxation are too much alike for a part of them to be a test
_RECIPE = {"val": 0.1, "test": 0.0}
# inputs of `cgcnn.train` that the work chain makes
_MADE_HERE = ("structures", "target", "model", "model_name", "test", "val", "restart_folder")
# inputs of `cgcnn.label` that mean nothing where one structure is labelled at a time
_NOT_TAKEN = ("structures", "indices", "references", "reference_energies", "max_parallel")


class LearnRelaxWorkChain(WorkChain):
    """Relax structures by an engine that is asked only where the potential does not know.

    Each step is one run of the engine, of energy, forces and stress, and one ``cgcnn.learn_step``, which learns from
    the label and walks on the corrected potential to where the engine must be asked next. A structure is relaxed when
    the engine's own forces are below ``fmax``. Several structures are relaxed one after the other, and share their
    labels. By links alone a relaxed structure leads back to each run. After every ``finetune_every`` labels a job of
    ``cgcnn.train`` tunes the potential on all of them, and the next steps are taken with it.
    """

    @classmethod
    def define(cls, spec: "WorkChainSpec") -> None:
        """Declare inputs, steps, outputs and exit codes."""
        super().define(spec)
        spec.input(
            "structures",
            valid_type=(StructureSetData, StructureData),
            serializer=structures_node,
            validator=check_structures,
            help="What to relax: a set (or a group, its label, a query or nodes), or one structure. Atoms fixed by "
            "ASE's FixAtoms stay.",
        )
        spec.input(
            "model",
            valid_type=CGCNNModelData,
            serializer=model_node,
            validator=check_potential,
            required=False,
            help="The potential: a node, or a name of a pretrained one, or a path. Without one, springs.",
        )
        spec.input(
            "settings",
            valid_type=Dict,
            default=lambda: Dict({}),
            validator=_check_settings,
            help=f"How to relax: {', '.join(f'{name} ({value})' for name, value in SETTINGS.items())}.",
        )
        spec.expose_inputs(LabelWorkChain, namespace="label", exclude=_NOT_TAKEN, namespace_options={"required": True})
        spec.input_namespace(
            "memory",
            valid_type=StructureSetData,
            required=False,
            dynamic=True,
            help="Labels of earlier relaxations by the same engine and settings.",
        )
        spec.input(
            "finetune_every",
            valid_type=Int,
            required=False,
            validator=_check_finetune_every,
            help=f"Tune the potential after so many labels, memory among them; at least {MIN_FINETUNE}.",
        )
        spec.expose_inputs(
            TrainCalculation,
            namespace="finetune",
            exclude=_MADE_HERE,
            namespace_options={"required": False, "populate_defaults": False},
        )
        spec.input("package_version", valid_type=Str, default=lambda: Str(package_version()), help="Of what learns.")
        spec.inputs.validator = _check_inputs
        steps: Any = cls  # the types of if_ and while_ know methods of WorkChain alone
        spec.outline(
            steps.begin,
            steps.learn,
            while_(steps.goes_on)(
                if_(steps.is_to_tune)(steps.tune, steps.take_tuned).else_(steps.label, steps.take_label), steps.learn
            ),
            steps.finish,
        )
        spec.output("relaxed_structure", valid_type=StructureData, required=False, help="Of a single StructureData.")
        spec.output(
            "relaxed_structures",
            valid_type=StructureSetData,
            required=False,
            help="Of a set: the structures that converged, with energy, forces and stress of the engine.",
        )
        spec.output(
            "labels", valid_type=StructureSetData, required=False, help="All labels in their order, with ids ID:CALL."
        )
        spec.output("model", valid_type=CGCNNModelData, required=False, help="The potential that was tuned last.")
        spec.output(
            "summary",
            valid_type=Dict,
            required=False,
            help="structures: a row each with n_calls, converged, energy (eV), max_force; model, scheme, settings.",
        )
        spec.exit_code(310, "ERROR_STRUCTURES", message="{n_failed} of {n} structures cannot be relaxed: {reason}")
        spec.exit_code(410, "ERROR_MEMORY", message="the labels of the memory cannot be used: {reason}")
        spec.exit_code(411, "ERROR_LABELS_DIFFER", message="the labels do not go with those before: {reason}")
        spec.exit_code(
            420,
            "ERROR_REFERENCE_FAILED",
            message="of {n_failed} of {n} structures the engine has no label: {reason}; give the labels that there are "
            "as memory to go on",
        )
        spec.exit_code(
            430,
            "ERROR_NOT_CONVERGED",
            message="{n_failed} of {n} structures have forces above {fmax} eV/Å after {max_calls} calls: {ids}; give "
            "the labels as memory and a larger max_calls to go on",
        )
        spec.exit_code(
            440,
            "ERROR_FINETUNING",
            message="the potential could not be tuned on {n} labels, job <{pk}>: {reason}; the labels are there: give "
            "them as memory to go on",
        )

    @classmethod
    def get_builder_from_protocol(
        cls,
        code: AbstractCode,
        structures: StructureSetData | StructureData | Structures,
        model: CGCNNModelData | str | None = None,
        engine: str = "gpaw",
        protocol: str = DEFAULT_PROTOCOL,
        overrides: Mapping[str, Any] | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        memory: StructureSetData | Iterable[StructureSetData] = (),
        finetune_every: int | None = None,
        finetune: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        check: bool = True,
    ) -> ProcessBuilder:
        """Fill the inputs of a run.

        Parameters
        ----------
        code, engine, protocol, overrides, options, check
            See :meth:`LabelWorkChain.get_builder_from_protocol`.
        structures, model
            As the inputs of the same names.
        settings
            ``fmax``, ``max_force_std``, ``max_energy_std``, ``fixed_cell``, ``max_calls``.
        memory
            Labels of earlier relaxations: one set or several, such as the output ``labels``.
        finetune_every, finetune
            Tune the potential after so many labels; by ``code`` (needed, of ``cgcnn.train``), with ``settings`` over
            the recipe, ``replay`` (a set of frames that the potential has learned) and ``options`` of the jobs.

        Raises
        ------
        ValueError
            If a name is none of the allowed, a value is out of range, or no structure can be given to the engine.
        """
        builder = cls.get_builder()
        builder.structures = structures
        if model is not None:
            builder.model = model
        builder.settings = Dict(dict(settings or {}))
        inputs = label_inputs(
            code, as_set(builder["structures"]), engine, protocol, overrides, options=options, check=check
        )
        builder.label = {name: value for name, value in inputs.items() if name not in _NOT_TAKEN}
        sets = [memory] if isinstance(memory, StructureSetData) else list(memory)
        if sets:
            builder.memory = {f"memory_{k}": each for k, each in enumerate(sets)}
        if finetune_every is not None:
            builder.finetune_every = Int(finetune_every)
        if finetune is not None:
            builder.finetune = _finetune_inputs(finetune)
        else:
            builder.pop("finetune", None)
        return builder

    # Each step may run twice, if the daemon is killed within it: what was started before is looked for first.

    def begin(self) -> ExitCode | None:
        """See that the memory can be used, and prepare what the loop carries from step to step."""
        self.ctx.n, self.ctx.labels, self.ctx.label, self.ctx.request = 0, None, None, None
        self.ctx.failed, self.ctx.schemes = [], []
        self.ctx.tuned, self.ctx.learned, self.ctx.frames = None, None, None
        memory = self._memory()
        if not memory:
            return None
        try:
            self.ctx.schemes = [check_memory(memory, as_set(self.inputs.structures).iter_atoms())]
        except ValueError as error:
            return self.exit_codes("ERROR_MEMORY").format(reason=str(error))
        return None

    def learn(self) -> None:
        """Learn from the newest label, and find what to ask next."""
        inputs: dict[str, Any] = {
            "structures": self.inputs.structures,
            "settings": self.inputs.settings,
            "label_settings": self.inputs.label.settings,
            "package_version": self.inputs.package_version,
            **self._memory(),
        }
        if "model" in self.inputs:
            inputs["model"] = self.inputs.model
        if self.ctx.labels is not None:
            inputs["labels"] = self.ctx.labels
        if self.ctx.label is not None:
            inputs |= {"new_label": self.ctx.label, "request": self.ctx.request}
        if self.ctx.failed:
            inputs["failed"] = Dict({"structures": self.ctx.failed})
        if "finetune_every" in self.inputs:
            inputs["finetune_every"] = self.inputs.finetune_every
        if self.ctx.tuned is not None:
            inputs |= {"tuned": self.ctx.tuned, "learned": self.ctx.learned}
        result = dict(call_once(self, f"step_{self.ctx.n}", learn_step, **inputs))
        self.ctx.labels = result.get("labels", self.ctx.labels)
        self.ctx.label, self.ctx.request, self.ctx.asked = None, result.get("request"), result.get("structure")
        self.ctx.result, self.ctx.frames = result, result.get("frames")
        self.ctx.n += 1

    def goes_on(self) -> bool:
        """Tell whether the engine must be asked, or the potential tuned."""
        return self.ctx.request is not None or self.is_to_tune()

    def is_to_tune(self) -> bool:
        """Tell whether there are enough new labels to tune the potential on."""
        return self.ctx.frames is not None

    def tune(self) -> None:
        """Start the job that tunes the potential on all labels; always the first one, so that errors do not add up."""
        inputs = self.exposed_inputs(TrainCalculation, "finetune", agglomerate=False)
        inputs |= {"model": self.inputs.model, "structures": self.ctx.frames, "target": Str(ENERGY_PER_ATOM)}
        node = submit_once(self, f"finetune_{self.ctx.n}", TrainCalculation, **inputs)
        self.report(f"the potential is tuned on {len(self.ctx.frames)} labels: job {node.pk}")
        self.to_context(training=node)

    def take_tuned(self) -> ExitCode | None:
        """Take the tuned potential for the next steps."""
        job: ProcessNode = self.ctx.training
        if not job.is_finished_ok:
            self._out_labels()
            reason = job.exit_message or f"it ended in the state {job.process_state}"
            return self.exit_codes("ERROR_FINETUNING").format(n=len(self.ctx.frames), pk=job.pk, reason=reason)
        self.ctx.tuned, self.ctx.learned, self.ctx.frames = job.outputs.model, self.ctx.frames, None
        return None

    def label(self) -> None:
        """Start the engine's run of the structure that is asked for."""
        self.ctx.run, self.ctx.conflict = None, None
        settings, structure, request = self.inputs.label.settings.get_dict(), self.ctx.asked, self.ctx.request
        moments = starting_moments(structure, request["moments"], settings, is_reference=False)
        options = self.inputs.label.options.get_dict() if "options" in self.inputs.label else {}
        try:
            if reason := structure_error(structure.get_ase(), settings):
                raise ValueError(reason)
            start, _ = structure_with_kinds(as_set(self.inputs.structures).atoms(request["id"]))
            run = Run(structure, self.inputs.label.code, settings, moments, options, mesh_structure=start)
            builder = self._engine().builder(run)
        except ValueError as error:
            self.ctx.conflict = str(error)
            return
        node = submit_once(self, f"label_{self.ctx.n}", builder)
        self.report(f"call {request['call']} of {request['id']!r}: run {node.pk}, {request['reason']}")
        self.to_context(run=node)

    def take_label(self) -> ExitCode | None:
        """Read the label, or why there is none."""
        try:
            label = self._label()
        except ValueError as error:
            message = f"call {self.ctx.request['call']}: {error}"
            self.report(f"{self.ctx.request['id']!r} has no label: {message}")
            self.ctx.failed = [*self.ctx.failed, {"id": self.ctx.request["id"], "message": message}]
            return None
        try:
            self.ctx.schemes = [merge_schemes([*self.ctx.schemes, scheme_of(label.atoms(0))])]
        except ValueError as error:
            self._out_labels()
            return self.exit_codes("ERROR_LABELS_DIFFER").format(reason=str(error))
        self.ctx.label = label
        return None

    def finish(self) -> ExitCode | None:
        """Give the results; what did not work is told, and nothing of the rest is lost."""
        self._out_labels()
        for name in ("relaxed_structure", "relaxed_structures", "summary"):
            if name in self.ctx.result:
                self.out(name, self.ctx.result[name])
        summary = self.ctx.result["summary"].get_dict()
        rows = summary["structures"]
        for key, code in (("reference_error", "ERROR_REFERENCE_FAILED"), ("error", "ERROR_STRUCTURES")):
            if bad := [row for row in rows if key in row]:
                reason = f"{bad[0]['id']}: {bad[0][key]}"
                return self.exit_codes(code).format(n_failed=len(bad), n=len(rows), reason=reason)
        if bad := [row for row in rows if not row["converged"]]:
            ids = ", ".join(row["id"] for row in bad)
            facts = {name: summary["settings"][name] for name in ("fmax", "max_calls")}
            return self.exit_codes("ERROR_NOT_CONVERGED").format(n_failed=len(bad), n=len(rows), ids=ids, **facts)
        return None

    def _label(self) -> StructureSetData:
        """The label of the engine's run; a ValueError if there is none, or it cannot be learned from."""
        if self.ctx.conflict is not None:
            raise ValueError(self.ctx.conflict)
        run: ProcessNode = self.ctx.run
        if not run.is_finished_ok:
            raise ValueError(self._engine().failure(run))
        call = partial(call_once, self, f"read_{self.ctx.n}")
        label: StructureSetData = self._engine().labelled(run, Str(self.ctx.request["id"]), call)
        atoms = label.atoms(0)
        if "forces" not in atoms.calc.results:
            raise ValueError("the engine gives no forces")
        if self.ctx.request["with_cell"] and "stress" not in atoms.calc.results:
            raise ValueError("the cell moves, and the engine gives no stress: keep the cell (fixed_cell)")
        if reason := label_error(atoms, self.inputs.label.settings.get_dict()):
            raise ValueError(f"its label is implausible: {reason}")
        return label

    def _memory(self) -> dict[str, StructureSetData]:
        """The sets by name, under names that are no other input's."""
        return {f"memory_{name.removeprefix('memory_')}": each for name, each in self.inputs.get("memory", {}).items()}

    def _engine(self) -> Any:
        return engine_of(self.inputs.label.engine.value)

    def _out_labels(self) -> None:
        if self.ctx.labels is not None:
            self.out("labels", self.ctx.labels)
        if self.ctx.tuned is not None:
            self.out("model", self.ctx.tuned)


def _check_settings(settings: Dict, _: object) -> str | None:
    return settings_problem(settings.get_dict())


def _check_finetune_every(every: Int, _: object) -> str | None:
    return None if every.value >= MIN_FINETUNE else f"finetune_every must be {MIN_FINETUNE} or more, not {every.value}"


def _finetune_inputs(finetune: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs of the namespace ``finetune``; a ValueError names what is none."""
    if unknown := sorted(set(finetune) - {"code", "settings", "replay", "options"}):
        raise ValueError(f"finetune: unknown {', '.join(unknown)}; allowed: code, settings, replay, options")
    inputs: dict[str, Any] = {"settings": Dict(_RECIPE | dict(finetune.get("settings") or {}))}
    inputs |= {name: finetune[name] for name in ("code", "replay") if finetune.get(name) is not None}
    return inputs | {"metadata": {"options": dict(finetune.get("options") or {})}}


def _check_inputs(inputs: Mapping[str, Any], _: object) -> str | None:
    if "finetune_every" in inputs:
        if "model" not in inputs:
            return "finetune_every needs a potential to tune: give model"
        if "code" not in inputs.get("finetune", {}):
            return "finetune_every needs finetune.code, the cgcnn-ase that tunes"
        settings = inputs["finetune"].get("settings")
        wrong = validation_error({} if settings is None else settings.get_dict(), tunes=True, potential=True)
        if wrong is not None:
            return f"finetune.settings: {wrong}"
    if "label" in inputs and "settings" in inputs["label"] and inputs["label"]["settings"].get_dict().get("relax"):
        return "label: relax is true, and a label must be of the structure that was asked for; set relax: false"
    return None
