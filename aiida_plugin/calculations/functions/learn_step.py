"""``cgcnn.learn_step``: one step of a relaxation that asks a reference: the newest label in, the next structure out.

A relaxation is made again from its start and its labels at each step, so that nodes are all its state.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, replace
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from aiida.engine import calcfunction
from aiida.orm import Dict, Int, Str, StructureData

from aiida_plugin.calculations.functions import node_default
from aiida_plugin.calculations.functions.labels import structure_with_kinds
from aiida_plugin.data.labels import CONVERGED, SCHEME, is_converged, only_scheme, scheme_id, scheme_of
from aiida_plugin.data.model import CGCNNModelData
from aiida_plugin.data.structures import StructureSetData, as_set
from cgcnn_ase.core.environment import package_version as version
from cgcnn_ase.core.errors import unknown_name
from cgcnn_ase.graphs.crystal_graph import geometry
from cgcnn_ase.learning.reference import ReferenceLabel, check_elements
from cgcnn_ase.learning.session import LearnedRelaxation, LearnedRelaxOptions, ReferenceRequest, label_of
from cgcnn_ase.learning.shared import SharedMemory, energy_offsets
from cgcnn_ase.learning.surface import PotentialSurface

if TYPE_CHECKING:
    from ase import Atoms

# settings with their defaults
SETTINGS: Mapping[str, Any] = {each.name: each.default for each in fields(LearnedRelaxOptions)}
_VERSION = node_default(version(), Str)
Outputs = dict[str, StructureData | StructureSetData | Dict]


class _Labelled(NamedTuple):
    """A label of this run: as the learning takes it, and with all that the engine said."""

    reference: ReferenceLabel
    atoms: "Atoms"
    id: str


@calcfunction
def learn_step(
    structures: StructureSetData | StructureData,
    settings: Dict,
    label_settings: Dict | None = None,
    model: CGCNNModelData | None = None,
    labels: StructureSetData | None = None,
    new_label: StructureSetData | None = None,
    request: Dict | None = None,
    failed: Dict | None = None,
    finetune_every: Int | None = None,
    tuned: CGCNNModelData | None = None,
    learned: StructureSetData | None = None,
    package_version: Str = _VERSION,  # noqa: ARG001
    **memory: StructureSetData,
) -> Outputs:
    """Take the newest label, and find the structure that the reference must be asked about next.

    Structures are relaxed one after the other, each with the labels of those before it.

    Parameters
    ----------
    structures
        Where the relaxations start; atoms of an ASE ``FixAtoms`` stay.
    settings
        ``fmax`` (eV/Å), ``max_force_std`` (eV/Å), ``max_energy_std`` (eV/atom), ``fixed_cell`` and ``max_calls``; see
        :class:`cgcnn_ase.learning.session.LearnedRelaxOptions`.
    label_settings
        Of the engine's runs; where they are not ``converged`` each label's scheme says so.
    model
        A potential; without one the walk is on springs.
    labels
        The output of this name of the step before.
    new_label, request
        The engine's label (a set of one structure) of what the step before asked for, and that step's ``request``.
    failed
        ``structures``: list of ``id`` and ``message``, of those that the engine has no label for.
    finetune_every
        So many labels, those of the memory among them, after which the potential is to be tuned on all of them.
    tuned, learned
        The potential that was tuned last, which stands in for ``model``, and the output ``frames`` that it learned.
    package_version
        Of what learns, so that caching tells versions apart; filled in.
    **memory
        Labels of earlier relaxations. Those of a relaxation with the same start are taken as if made here.

    Returns
    -------
    dict
        ``labels``: all labels of this run so far, in their order, if there is a new one. As long as a label is needed,
        ``structure`` and its ``request``: ``id``, ``call``, ``reason``, ``steps`` walked, ``with_cell``, ``moments`` by
        kind (μB) and, where something was predicted, ``energy`` (eV), ``energy_std`` and ``max_force_std``. In the end
        ``summary``, and the converged structures as ``relaxed_structures`` with energy, forces and stress or, of a
        ``StructureData``, as ``relaxed_structure``. When it is time to tune the potential, ``frames`` and nothing else
        but ``labels``: all labels with energies on the potential's own zero (``info["energy_shift"]``, eV, was taken
        off), as ``cgcnn.train`` learns them.

    Raises
    ------
    ValueError
        If a setting is out of range, the label is of other atoms than asked, or the memory cannot be used.
    """
    starts = as_set(structures)
    potential = model if tuned is None else tuned
    run = _Run(starts, LearnedRelaxOptions(**settings.get_dict()), potential, labels, memory_labels(memory))
    outputs: Outputs = {}
    if new_label is not None and request is not None:
        run.tell(new_label.atoms(0), request.get_dict(), converged=_converged(label_settings))
        outputs["labels"] = StructureSetData.from_ase(
            [each.atoms for each in run.labels], [each.id for each in run.labels]
        )
    if finetune_every is not None and model is not None:
        n_learned = 0 if learned is None else len(learned)
        if run.n_labels // finetune_every.value > n_learned // finetune_every.value:
            return {**outputs, "frames": run.frames(model)}
    errors = {each["id"]: each["message"] for each in (failed["structures"] if failed is not None else ())}
    rows: list[dict[str, Any]] = []
    relaxed: dict[str, Atoms] = {}
    for name, start in zip(starts.ids, starts.iter_atoms(), strict=True):
        row: dict[str, Any] = {"id": name, "formula": start.get_chemical_formula(mode="metal"), "n_atoms": len(start)}
        rows.append(row)
        try:
            session = run.session(name, start)
            asked = None if name in errors else session.ask()
        except ValueError as error:  # told in the row
            row |= {"n_calls": run.n_calls(name), "converged": False, "error": str(error)}
            continue
        if asked is not None:
            return {**outputs, **_asked(session, asked, name, run.n_calls(name))}
        row |= _row(session, run.n_calls(name))
        if name in errors:
            row["reference_error"] = errors[name]
        if session.converged is not None:
            relaxed[name] = _relaxed(start, session.converged, run.atoms_of(session.converged))
    outputs["summary"] = Dict(run.summary(rows, learned))
    if relaxed and isinstance(structures, StructureData):
        (atoms,) = relaxed.values()
        outputs["relaxed_structure"] = _as_before(structures, atoms)
    elif relaxed:
        outputs["relaxed_structures"] = StructureSetData.from_ase(relaxed.values(), list(relaxed))
    return outputs


class _Run:
    """Labels of this run and of the memory at one step."""

    def __init__(
        self,
        starts: StructureSetData,
        options: LearnedRelaxOptions,
        model: CGCNNModelData | None,
        labels: StructureSetData | None,
        memory: list[tuple[ReferenceLabel, "Atoms"]],
    ) -> None:
        self.starts, self.options, self.model, self.memory = starts, options, model, memory
        self.shared = SharedMemory(None if model is None else PotentialSurface(model.load()))
        self.labels: list[_Labelled] = []
        if labels is not None:
            pairs = zip(labels.ids, labels.iter_atoms(), strict=True)
            self.labels = [_Labelled(ReferenceLabel.from_atoms(atoms), atoms, name) for name, atoms in pairs]

    @property
    def n_labels(self) -> int:
        """Number of labels of this run and of the memory."""
        return len(self.memory) + len(self.labels)

    def frames(self, model: CGCNNModelData) -> StructureSetData:
        """All labels, brought to the zero of a potential's energies by one energy an element."""
        from ase.calculators.singlepoint import SinglePointCalculator

        known = {f"{label.trajectory}:{k}": (label, atoms) for k, (label, atoms) in enumerate(self.memory)}
        known |= {each.id: (each.reference, each.atoms) for each in self.labels}
        offsets = energy_offsets(PotentialSurface(model.load()), [label for label, _ in known.values()])
        frames = []
        for label, labelled in known.values():
            shift = float(offsets[label.atoms.numbers].sum())
            atoms = label.atoms.copy()
            scheme = scheme_of(labelled)
            atoms.info = {"energy_shift": shift} | ({} if scheme is None else {SCHEME: dict(scheme)})
            names = {"forces", "stress"} & set(labelled.calc.results)
            results = {name: labelled.calc.results[name] for name in sorted(names)}
            atoms.calc = SinglePointCalculator(atoms, energy=label.energy - shift, **results)
            atoms.calc.name = labelled.calc.name
            frames.append(atoms)
        return StructureSetData.from_ase(frames, list(known))

    def n_calls(self, name: str) -> int:
        """Number of labels that were made of a structure here."""
        return sum(each.reference.trajectory == name for each in self.labels)

    def labels_for(self, name: str, start: "Atoms") -> tuple[list[ReferenceLabel], list[ReferenceLabel]]:
        """Labels of a structure on its way, and those of the memory and of the structures before it."""
        structure = geometry(start)
        same_start = {label.trajectory for label, _ in self.memory if label.is_of(structure)}
        mine = [label for label, _ in self.memory if label.trajectory in same_start]
        others = [label for label, _ in self.memory if label.trajectory not in same_start]
        before = set(self.starts.ids[: self.starts.row_of(name)])
        for label in (each.reference for each in self.labels):
            if label.trajectory == name:
                mine.append(label)
            elif label.trajectory in before:
                others.append(label)
        return mine, others

    def session(self, name: str, start: "Atoms") -> LearnedRelaxation:
        """The relaxation of a structure as far as it has come."""
        mine, others = self.labels_for(name, start)
        session = LearnedRelaxation(start, self.shared, self.options, trajectory=name, others=others)
        for label in mine:
            session.add(label)
        return session

    def tell(self, atoms: "Atoms", request: Mapping[str, Any], *, converged: bool) -> None:
        """Put a label of the engine to the others, with what was expected of it."""
        name, start = request["id"], self.starts.atoms(request["id"])
        if not np.array_equal(atoms.numbers, start.numbers):
            raise ValueError(f"the label is of {atoms.symbols!s}, and {name!r} is {start.symbols!s}")
        session, told = self.session(name, start), ReferenceLabel.from_atoms(atoms)
        estimate = None
        if "energy" in request:
            mine, others = self.labels_for(name, start)
            estimate = self.shared.corrected(mine, others, with_cell=session.with_cell)(told.structure)
        asked = ReferenceRequest(told.structure, estimate, request["reason"], request["steps"], [])
        made = label_of(told.atoms, asked, name, told.energy, told.forces, told.stress)
        atoms.info |= made.to_atoms().info
        if SCHEME in atoms.info and not converged:
            atoms.info[SCHEME] = {**atoms.info[SCHEME], CONVERGED: False}
        self.labels.append(_Labelled(made, atoms, f"{name}:{request['call']}"))

    def atoms_of(self, label: ReferenceLabel) -> "Atoms":
        """All that the engine said of a label."""
        known = [(each.reference, each.atoms) for each in self.labels] + self.memory
        return next(atoms for reference, atoms in known if reference is label)

    def summary(self, rows: list[dict[str, Any]], learned: StructureSetData | None) -> dict[str, Any]:
        """Results of all structures in plain values, with what they were made by."""
        scheme = only_scheme([*(each.atoms for each in self.labels), *(atoms for _, atoms in self.memory)])
        of_model: dict[str, object] = {"name": "springs", "sha256": ""}
        if self.model is not None:
            of_model = {"name": self.model.names[0], "sha256": str(self.model.base.attributes.get("sha256"))}
        if learned is not None:
            of_model["n_labels"] = len(learned)
        return {
            "structures": rows,
            "n_structures": len(rows),
            "n_converged": sum(row["converged"] for row in rows),
            "n_calls": len(self.labels),
            "n_memory": len(self.memory),
            "model": of_model,
            "settings": asdict(self.options),
            "labels_converged": is_converged(scheme),
            **({} if scheme is None else {"scheme": scheme, "scheme_id": scheme_id(scheme)}),
        }


def memory_labels(memory: Mapping[str, StructureSetData]) -> list[tuple[ReferenceLabel, "Atoms"]]:
    """Labels of earlier relaxations, and the structures that carry them; a ValueError names one that has none."""
    result = []
    for key in sorted(memory):
        for name, atoms in zip(memory[key].ids, memory[key].iter_atoms(), strict=True):
            try:
                label = ReferenceLabel.from_atoms(atoms)
            except ValueError as error:
                raise ValueError(f"{key}: structure {name!r} is {error}") from error
            result.append((replace(label, trajectory=f"{key}/{label.trajectory or name}"), atoms))
    return result


def check_memory(memory: Mapping[str, StructureSetData], structures: "Iterable[Atoms]") -> dict[str, object] | None:
    """Return the scheme of the memory's labels; a ValueError if they cannot be used for these structures."""
    labels = memory_labels(memory)
    for atoms in structures:
        check_elements(atoms.numbers.tolist(), [label for label, _ in labels])
    return only_scheme([atoms for _, atoms in labels])


def settings_problem(settings: Mapping[str, object]) -> str | None:
    """Say what is wrong with the settings, None if nothing is."""
    for name in settings:
        if name not in SETTINGS:
            return str(unknown_name("setting", name, SETTINGS))
    options: dict[str, Any] = {**SETTINGS, **settings}
    for name in ("fmax", "max_force_std", "max_energy_std"):
        value = options[name]
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value) and value > 0
        if not is_number and not (name == "max_energy_std" and value is None):
            return f"{name} must be a number above 0, not {value!r}"
    calls = options["max_calls"]
    if not isinstance(calls, int) or isinstance(calls, bool) or calls < 1:
        return f"max_calls must be a whole number, 1 or more, not {calls!r}"
    if not isinstance(options["fixed_cell"], bool):
        return f"fixed_cell must be True or False, not {options['fixed_cell']!r}"
    return None


def _converged(label_settings: Dict | None) -> bool:
    return label_settings is None or label_settings.get_dict().get(CONVERGED) is not False


def _asked(session: LearnedRelaxation, asked: ReferenceRequest, name: str, call: int) -> Outputs:
    """The structure as engines take it, and why it is asked about."""
    node, moments = structure_with_kinds(session.atoms_of(asked.structure))
    request: dict[str, Any] = {"id": name, "call": call, "reason": asked.reason, "steps": asked.steps}
    request |= {"with_cell": session.with_cell, "moments": moments}
    if (estimate := asked.estimate) is not None:
        request |= {
            "energy": float(estimate.energy),
            "energy_std": float(estimate.energy_std),
            "max_force_std": float(estimate.forces_std.max()),
        }
    return {"structure": node, "request": Dict(request)}


def _row(session: LearnedRelaxation, n_calls: int) -> dict[str, Any]:
    """Row of one structure; if it has not converged, of its label with the lowest energy."""
    row: dict[str, Any] = {"n_calls": n_calls, "n_labels": len(session.labels)}
    row["converged"] = session.converged is not None
    if session.stopped:
        row["stopped"] = session.stopped
    if (label := session.converged or session.lowest) is not None:
        row |= {"energy": label.energy, "energy_per_atom": label.energy / len(label.atoms)}
        row["max_force"] = session.largest_force(label)
        row["first_energy"] = session.labels[0].energy
    return row


def _relaxed(start: "Atoms", label: ReferenceLabel, labelled: "Atoms") -> "Atoms":
    """The structure where it is relaxed, with its info and constraints, and the results of the reference."""
    from ase.calculators.singlepoint import SinglePointCalculator

    constraints = start.constraints
    start.set_constraint()
    start.set_cell(label.atoms.cell.array, scale_atoms=False)
    start.set_positions(label.atoms.positions)
    start.set_constraint(constraints)
    start.calc = SinglePointCalculator(start)
    start.calc.results.update(labelled.calc.results)
    start.calc.name = labelled.calc.name
    start.info.pop(SCHEME, None)
    if (scheme := scheme_of(labelled)) is not None:
        start.info[SCHEME] = scheme
    return start


def _as_before(structure: StructureData, atoms: "Atoms") -> StructureData:
    """The structure with its own kinds at other positions."""
    node = cast("StructureData", structure.clone())
    node.reset_cell(atoms.cell.array.tolist())
    node.reset_sites_positions(atoms.positions.tolist())
    return node
