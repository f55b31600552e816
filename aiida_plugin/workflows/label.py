"""``cgcnn.label``: structures -> labels by DFT, by the engine of a name."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from aiida.engine import ExitCode, ProcessBuilder, WorkChain, if_, while_
from aiida.orm import AbstractCode, Bool, Dict, Int, List, Str

from aiida_plugin.calculations.functions.labels import (
    elements_to_label,
    formation_energy,
    join_labels,
    join_references,
    label_failures,
    reference_error,
    reference_structures,
    structures_to_label,
)
from aiida_plugin.calculations.functions.structure_sets import Structures, structures_node
from aiida_plugin.data.labels import largest_group, merge_schemes, scheme_difference, scheme_of
from aiida_plugin.data.structures import StructureSetData
from aiida_plugin.engines.base import ENGINES, Run, engine_names
from aiida_plugin.engines.base import engine as engine_of
from aiida_plugin.engines.labels import energy_outliers, formation_energy_error, label_error, structure_error
from aiida_plugin.engines.protocol import DEFAULT_PROTOCOL, resolve
from aiida_plugin.workflows.idempotent import call_once, submit_once
from aiida_plugin.workflows.label_plan import REFERENCE, check_submission, elements_of, starting_moments

if TYPE_CHECKING:
    from aiida.engine.processes.workchains.workchain import WorkChainSpec
    from aiida.orm import ProcessNode
    from ase import Atoms


class LabelWorkChain(WorkChain):
    """Energy, forces, stress and magnetic moments of structures from a DFT engine, as one labelled set.

    One process of the engine a structure, `max_parallel` of them at a time. Structures that fail are listed in
    ``failures`` and the others kept; so are those that no engine should be given (no cell, atoms that overlap), and
    labels that are implausible (:mod:`aiida_plugin.engines.labels`). With ``references`` the elements (O2 and
    other gases as molecules) are computed with the same settings and formation energies noted; ``reference_energies``
    of an earlier run do the same if they were made alike, and with both only the elements that are not among them are
    computed.
    """

    @classmethod
    def define(cls, spec: "WorkChainSpec") -> None:
        """Declare inputs, outline, outputs and exit codes."""
        super().define(spec)
        spec.input("structures", valid_type=StructureSetData, serializer=structures_node, help="The structures.")
        spec.input("indices", valid_type=List, required=False, help="Rows or ids of those to label; default all.")
        spec.input(
            "engine", valid_type=Str, validator=_check_engine, help=f"Who computes: {', '.join(engine_names())}."
        )
        spec.input("code", valid_type=AbstractCode, help="The engine's code.")
        spec.input("settings", valid_type=Dict, help="A resolved protocol of the engine.")
        spec.input("options", valid_type=Dict, required=False, help="metadata.options of the engine's jobs.")
        spec.input("references", valid_type=Bool, default=lambda: Bool(False), help="Whether to compute the elements.")
        spec.input("reference_energies", valid_type=Dict, required=False, help="Those of an earlier run.")
        spec.input("max_parallel", valid_type=Int, required=False, validator=_check_max, help="Engine runs at a time.")
        spec.inputs.validator = _check_inputs
        spec.output("labelled", valid_type=StructureSetData, required=False, help="What could be labelled.")
        spec.output(
            "failures",
            valid_type=Dict,
            help="n (structures), n_failed, and failed: by id exit_status and message; "
            "references_failed: the same by element.",
        )
        spec.output("reference_energies", valid_type=Dict, required=False, help="eV/atom by element, and their scheme.")
        spec.outline(
            cls.prepare,
            while_(cls.any_left)(cls.submit_some),
            cls.collect,
            if_(cls.has_references)(cls.join_references),
            cls.join,
        )
        spec.exit_code(310, "ERROR_STRUCTURES", message="the structures cannot be labelled: {reason}")
        spec.exit_code(340, "ERROR_ALL_FAILED", message="no structure could be labelled; the first: {reason}")
        spec.exit_code(
            350,
            "ERROR_REFERENCES",
            message="the labels are there, without formation energies, as the reference energies do not suit: {reason}",
        )
        spec.exit_code(
            351,
            "ERROR_REFERENCES_FAILED",
            message="the labels are there, without the formation energies of structures with {elements}, whose "
            "reference energy could not be computed; the first: {reason}",
        )

    @classmethod
    def get_builder_from_protocol(
        cls,
        code: AbstractCode,
        structures: StructureSetData | Structures,
        engine: str = "gpaw",
        protocol: str = DEFAULT_PROTOCOL,
        overrides: Mapping[str, Any] | None = None,
        *,
        indices: Iterable[int | str] | None = None,
        options: Mapping[str, Any] | None = None,
        references: bool = False,
        reference_energies: Dict | None = None,
        max_parallel: int | None = None,
        check: bool = True,
    ) -> ProcessBuilder:
        """Fill the inputs of a run.

        Parameters
        ----------
        code, engine
            The engine's code and name: gpaw, say, or ase (any ASE calculator, named by the override ``calculator``).
        structures, indices
            The set (or a group, its label, a query or nodes, of which one is made), and rows or ids of those to label
            (default all); initial magnetic moments of its structures, where
            they carry any, go before the protocol's.
        protocol, overrides
            fast, balanced or stringent, and settings over it, nested as in the YAML files.
        options, max_parallel
            ``metadata.options`` of the engine's jobs (resources, wall time, queue), and how many run at a time.
        references, reference_energies
            Whether to compute the elements too, and those of an earlier run, which are not computed again.
        check
            Whether to see now that the engine can be given one of the first structures.

        Raises
        ------
        ValueError
            If there is no such engine, protocol or setting, the code is of another plugin than the engine's, or none
            of the first structures can be given to it: pseudopotentials, Hubbard U, cutoffs, k-points that do not go
            together are found here. :func:`aiida_plugin.workflows.label_plan.label_plan` of the builder tells all.
        """
        needed = engine_of(engine).code_plugin
        if code.default_calc_job_plugin not in (None, needed):
            raise ValueError(
                f"code {code.full_label!r} is made for {code.default_calc_job_plugin}; engine {engine!r} needs one for "
                f"{needed}"
            )
        builder = cls.get_builder()
        builder.code, builder.structures, builder.engine = code, structures, Str(engine)
        settings = resolve(engine, protocol, overrides)
        indices = None if indices is None else list(indices)
        if check:
            check_submission(engine, code, _first_of(builder["structures"], indices), settings)
        builder.settings = Dict(settings)
        builder.references = Bool(references)
        if indices is not None:
            builder.indices = List(indices)
        if options:
            builder.options = Dict(dict(options))
        if reference_energies is not None:
            builder.reference_energies = reference_energies
        if max_parallel is not None:
            builder.max_parallel = Int(max_parallel)
        return builder

    # Each step may run twice, if the daemon is killed within it: what was started before is looked for first.

    def prepare(self) -> ExitCode | None:
        """Make the structures as the engine takes them, those of the elements too."""
        structures: StructureSetData = self.inputs.structures
        indices = self.inputs.indices if "indices" in self.inputs else List(list(range(len(structures))))
        self.ctx.failures, self.ctx.reference_failures, self.ctx.done = {}, {}, []
        try:
            rows = structures.rows_of(indices)
        except ValueError as error:
            return self.exit_codes("ERROR_STRUCTURES").format(reason=str(error))
        self.ctx.rows = [f"row_{row}" for row in rows]
        self.ctx.names = {f"row_{row}": structures.ids[row] for row in rows}
        good = self._without_bad(rows)
        if len(good) < len(rows):
            indices = List(good)
        elements = self._elements(good)
        if good:
            self.ctx.extracted = dict(
                call_once(self, "extract", structures_to_label, structure_set=structures, indices=indices)
            )
        if elements:
            self.ctx.extracted_references = dict(
                call_once(self, "extract_references", reference_structures, elements=self._elements_node(indices))
            )
        self.ctx.todo = [f"row_{row}" for row in good] + [f"{REFERENCE}{element}" for element in elements]
        return None

    def any_left(self) -> bool:
        """Tell whether any structure has not been given to the engine."""
        return bool(self.ctx.todo)

    def submit_some(self) -> None:
        """Start the next runs of the engine."""
        most = self.inputs.max_parallel.value if "max_parallel" in self.inputs else len(self.ctx.todo)
        now, self.ctx.todo = self.ctx.todo[:most], self.ctx.todo[most:]
        for label in now:
            try:
                builder = self._builder(label)
            except ValueError as error:
                self._failed(label, None, str(error))
                continue
            run = submit_once(self, label, builder)
            self.report(f"{self.inputs.engine.value} run {run.pk} labels {self._name(label)!r}")
            self.to_context(**{label: run})
            self.ctx.done.append(label)

    def collect(self) -> None:
        """Read the label of each run, or why there is none."""
        labels, settings = {}, self.inputs.settings.get_dict()
        for label in self.ctx.done:
            run: ProcessNode = self.ctx[label]
            if not run.is_finished_ok:
                self._failed(label, run.exit_status, engine_of(self.inputs.engine.value).failure(run))
                continue
            try:
                call = partial(call_once, self, f"read_{label}")
                labelled = engine_of(self.inputs.engine.value).labelled(run, Str(self._name(label)), call)
            except ValueError as error:
                self._failed(label, run.exit_status, str(error))
                continue
            if reason := label_error(labelled.atoms(0), settings):
                self._failed(label, run.exit_status, f"its label is implausible: {reason}")
            else:
                labels[label] = labelled
        of_structures = {label: node.atoms(0) for label, node in labels.items() if not label.startswith(REFERENCE)}
        for label, reason in energy_outliers(of_structures, settings).items():
            self._failed(label, 0, f"its label is implausible: {reason}")
            del labels[label]
        self.ctx.labels = {label: labels[label] for label in self._alike(labels)}

    def _alike(self, labels: Mapping[str, StructureSetData]) -> list[str]:
        """Keep the most structures that are of one kind, and the elements that are of the same."""
        schemes = {label: scheme_of(labelled.atoms(0)) for label, labelled in labels.items()}
        of_structures = {label: scheme for label, scheme in schemes.items() if not label.startswith(REFERENCE)}
        alike, others = largest_group(of_structures or schemes)
        for label in [label for label in schemes if label not in alike and label not in others]:
            reason = scheme_difference(merge_schemes(schemes[each] for each in alike), schemes[label])
            if reason is None:
                alike.append(label)
            else:
                others[label] = reason
        for label, reason in others.items():
            self._failed(label, 0, f"its label is of another kind than the others': {reason}")
        return alike

    def has_references(self) -> bool:
        """Tell whether any element was computed."""
        return any(label.startswith(REFERENCE) for label in self.ctx.labels)

    def join_references(self) -> None:
        """Join the energies of the elements."""
        inputs = {label: node for label, node in self.ctx.labels.items() if label.startswith(REFERENCE)}
        if "reference_energies" in self.inputs:
            if self._misfit(inputs) is not None:  # told by `join`
                return
            inputs["known"] = self.inputs.reference_energies
        settings = self.inputs.settings
        self.out("reference_energies", call_once(self, "references", join_references, settings=settings, **inputs))

    def join(self) -> ExitCode | None:
        """Join all labels into one set."""
        labels = {label: node for label, node in self.ctx.labels.items() if not label.startswith(REFERENCE)}
        references, misfit = self._references(labels) if labels else (None, None)
        labels = self._with_plausible_formation_energies(labels, references)
        failed, without = dict(self.ctx.failures), dict(self.ctx.get("reference_failures", {}))
        ended = Dict({"n": len(self.ctx.rows), "failed": failed, "references_failed": without})
        self.out("failures", call_once(self, "failures", label_failures, ended=ended))
        if not labels:
            reason = next(f"{name}: {why['message']}" for name, why in failed.items())
            return self.exit_codes("ERROR_ALL_FAILED").format(reason=reason)
        inputs = {**labels, "settings": self.inputs.settings}
        if references is not None:
            inputs["reference_energies"] = references
        self.out("labelled", call_once(self, "join", join_labels, structure_set=self.inputs.structures, **inputs))
        if misfit is not None:
            return self.exit_codes("ERROR_REFERENCES").format(reason=misfit)
        if without:
            reason = next(f"{element}: {why['message']}" for element, why in without.items())
            return self.exit_codes("ERROR_REFERENCES_FAILED").format(elements=", ".join(without), reason=reason)
        return None

    def _with_plausible_formation_energies(
        self, labels: dict[str, StructureSetData], references: Dict | None
    ) -> dict[str, StructureSetData]:
        if references is None:
            return labels
        energies, settings, kept = references["energies"], self.inputs.settings.get_dict(), {}
        for label, labelled in labels.items():
            if reason := formation_energy_error(formation_energy(labelled.atoms(0), energies), settings):
                self._failed(label, 0, f"its label is implausible: {reason}")
            else:
                kept[label] = labelled
        return kept

    def _references(self, labels: Mapping[str, StructureSetData]) -> tuple[Dict | None, str | None]:
        """Energies of the elements, or why those that were given do not suit."""
        if "reference_energies" in self.node.outputs:
            return self.node.outputs.reference_energies, None
        if "reference_energies" not in self.inputs:
            return None, None
        misfit = self._misfit(labels)
        return (self.inputs.reference_energies, None) if misfit is None else (None, misfit)

    def _misfit(self, labels: Mapping[str, StructureSetData]) -> str | None:
        """In what the labels differ from the reference energies that were given; None if they do not."""
        references: Dict = self.inputs.reference_energies
        try:
            merge_schemes([references["scheme"], *(scheme_of(labelled.atoms(0)) for labelled in labels.values())])
        except ValueError as error:
            return str(error)
        return None

    def _elements(self, rows: Iterable[int]) -> list[str]:
        """Elements to compute: those of the structures that are not known."""
        if not self.inputs.references.value:
            return []
        structures: StructureSetData = self.inputs.structures
        known = self.inputs.reference_energies["energies"] if "reference_energies" in self.inputs else {}
        elements = []
        for element in elements_of(map(structures.atoms, rows), known):
            if (reason := reference_error(element)) is None:
                elements.append(element)
            else:
                self._failed(f"{REFERENCE}{element}", None, reason)
        return elements

    def _elements_node(self, indices: List) -> List:
        """The elements to compute as a node, made of the structures by a calcfunction."""
        inputs = {"structure_set": self.inputs.structures, "indices": indices}
        if "reference_energies" in self.inputs:
            inputs["known"] = self.inputs.reference_energies
        return call_once(self, "elements", elements_to_label, **inputs)

    def _without_bad(self, rows: Iterable[int]) -> list[int]:
        """Rows of the structures that an engine can be given; of the others the reason is noted."""
        settings, good = self.inputs.settings.get_dict(), []
        for row in rows:
            if reason := structure_error(self.inputs.structures.atoms(row), settings):
                self._failed(f"row_{row}", None, reason)
            else:
                good.append(row)
        return good

    def _builder(self, label: str) -> ProcessBuilder:
        """Fill the inputs of the engine's run of one structure."""
        is_reference = label.startswith(REFERENCE)
        extracted = self.ctx.extracted_references if is_reference else self.ctx.extracted
        settings, structure = self.inputs.settings.get_dict(), extracted[label]
        moments = starting_moments(
            structure, extracted["moments"].get_dict().get(label), settings, is_reference=is_reference
        )
        options = self.inputs.options.get_dict() if "options" in self.inputs else {}
        run = Run(structure, self.inputs.code, settings, moments, options)
        return engine_of(self.inputs.engine.value).builder(run)

    def _failed(self, label: str, status: int | None, message: str) -> None:
        why = {"exit_status": status, "message": message}
        self.report(f"{self._name(label)!r} has no label: {message}")
        if label.startswith(REFERENCE):
            failures = {**self.ctx.get("reference_failures", {}), label.removeprefix(REFERENCE): why}
            self.ctx.reference_failures = failures
        else:
            self.ctx.failures = {**self.ctx.failures, self.ctx.names[label]: why}

    def _name(self, label: str) -> str:
        """Id of a structure; of an element the label itself."""
        return str(self.ctx.names.get(label, label))


def label_inputs(code: AbstractCode, structures: StructureSetData, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Fill all inputs but the structures, for a work chain that labels its own; arguments as of the builder."""
    builder = LabelWorkChain.get_builder_from_protocol(code, structures, *args, **kwargs)
    builder.pop("structures")
    return dict(builder)


def _first_of(structures: StructureSetData, indices: Sequence[int | str] | None) -> "Iterator[Atoms]":
    return structures.iter_atoms() if indices is None else map(structures.atoms, indices)


def _check_engine(name: Str, _: object) -> str | None:
    try:
        ENGINES.check(name.value)
    except ValueError as error:
        return str(error)
    return None


def _check_max(number: Int | None, _: object) -> str | None:
    return None if number is None or number.value > 0 else f"max_parallel is {number.value}; it must be 1 or more"


def _check_inputs(inputs: Mapping[str, Any], _: object) -> str | None:
    references = inputs.get("reference_energies")
    if references is None:
        return None
    missing = sorted({"energies", "scheme"} - set(references.get_dict()))
    return f"reference_energies lacks {', '.join(missing)}; give that output of an earlier run" if missing else None
