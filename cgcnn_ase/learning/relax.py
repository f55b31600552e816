"""Relax structures on a potential, or by a reference that is asked where the potential does not know."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgcnn_ase.core.progress import with_progress
from cgcnn_ase.learning.learning_state import LearningState
from cgcnn_ase.learning.reference import ReferenceCalculationError, ReferenceLabel, reference_by_name
from cgcnn_ase.learning.session import MAX_FORCE_STD, LearnedRelaxation, LearnedRelaxOptions
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.models.registry import load_model
from cgcnn_ase.potential.relax import DEFAULT_POTENTIAL
from cgcnn_ase.potential.relax import relax as relax_by_potential
from cgcnn_ase.potential.relax_results import Relaxed, RelaxResults
from cgcnn_ase.structures import StructureRecord, read_structures

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator


def relax(
    structures: object,
    model: "str | Path | CrystalModel | None" = DEFAULT_POTENTIAL,
    *,
    fmax: float = 0.05,
    steps: int = 500,
    fixed_cell: bool = False,
    keep_symmetry: bool = False,
    reference: "BaseCalculator | str | None" = None,
    memory: str | Path | None = None,
    max_force_std: float = MAX_FORCE_STD,
    max_energy_std: float | None = None,
    max_calls: int = 100,
    finetune_every: int | None = None,
    replay: object = None,
    trajectory: bool = False,
    workers: int | None = None,
    progress: bool | None = None,
) -> RelaxResults:
    """Relax structures until no force is larger than ``fmax``.

    With a ``reference`` (DFT, as a rule) its forces decide, and its energy is what is returned. It is asked about the
    first structure, where the std of the potential is too large, and about each minimum that is found; in between the
    walk is on the potential, corrected by all labels so far.

    Parameters
    ----------
    structures, fmax, steps, fixed_cell, keep_symmetry, trajectory, workers, progress
        As in :func:`cgcnn_ase.potential.relax.relax`.
    model
        A potential: pretrained name, model folder, or loaded model. With a reference it may be None: then a walk is on
        springs, corrected by the labels.
    reference
        Any ASE calculator with forces (and stress, unless ``fixed_cell``), or a name that
        :func:`cgcnn_ase.learning.reference.reference_by_name` knows.
    memory
        Folder of the labels. The structures share them, and so do later calls with the same folder; a call that was
        interrupted goes on, and asks nothing twice.
    max_force_std, max_energy_std, max_calls
        See :class:`cgcnn_ase.learning.session.LearnedRelaxOptions`.
    finetune_every, replay
        See :class:`cgcnn_ase.learning.learning_state.LearningState`.

    Returns
    -------
    RelaxResults
        A row a structure, in their order; what cannot be relaxed has an ``error`` and no other is lost. With a
        reference ``n_reference_calls`` counts the calls, and ``trajectory`` holds the labelled structures.

    Raises
    ------
    NotAPotentialError
        If the model has no forces.
    ReferenceChangedError
        If the labels in ``memory`` come from other settings of the reference.

    Examples
    --------
    >>> relax("structures/", fmax=0.02).to_frame()  # doctest: +SKIP
    >>> relax(vacancies, reference=GPAW(mode=PW(400), xc="PBE"), memory="labels").to_frame()  # doctest: +SKIP
    """
    if reference is None:
        if model is None:
            raise ValueError("model: None is allowed with a reference only")
        return relax_by_potential(
            structures, model, fmax=fmax, steps=steps, fixed_cell=fixed_cell, keep_symmetry=keep_symmetry,
            trajectory=trajectory, workers=workers, progress=progress,
        )  # fmt: skip
    if keep_symmetry:
        raise ValueError("keep_symmetry: not with a reference, whose forces have the symmetry of the structure")
    options = LearnedRelaxOptions(
        fmax=fmax, max_force_std=max_force_std, max_energy_std=max_energy_std, fixed_cell=fixed_cell,
        max_calls=max_calls,
    )  # fmt: skip
    records = list(read_structures(structures))
    potential = model if model is None or isinstance(model, CrystalModel) else load_model(model)
    folder = None if memory is None else Path(memory)
    calculator = reference_by_name(reference, folder=folder) if isinstance(reference, str) else reference
    state = LearningState(
        folder, model=potential, reference=calculator, finetune_every=finetune_every, replay=replay
    )  # fmt: skip
    rows = stream_learned(records, state, options, trajectory=trajectory)
    return RelaxResults(list(with_progress(rows, "Relaxing", len(records), shown=progress)))


def stream_learned(
    records: "Iterable[StructureRecord]",
    state: LearningState,
    options: LearnedRelaxOptions,
    *,
    trajectory: bool = False,
) -> "Generator[Relaxed, None, None]":
    """As :func:`relax` with a reference, row by row."""
    for record in records:
        yield _learned(record, state, options, trajectory=trajectory)


def _learned(
    record: StructureRecord, state: LearningState, options: LearnedRelaxOptions, *, trajectory: bool
) -> Relaxed:
    model = state.model
    row: dict[str, Any] = {
        "id": record.id,
        "source": record.source,
        "model": "springs" if model is None else model.name,
        "model_sha256": "" if model is None else model.sha256,
    }
    if record.atoms is None:
        return Relaxed(**row, error=record.error)
    name = trajectory_name(record.id, record.atoms)
    row |= {"formula": record.atoms.get_chemical_formula(mode="metal"), "n_atoms": len(record.atoms)}
    try:
        session = session_of(name, record.atoms, state, options)
        while (request := session.ask()) is not None:
            atoms = session.atoms_of(request.structure)
            session.add(state.label(request, atoms, name, with_stress=session.with_cell))
            session.memory = state.memory()
    except (ValueError, ReferenceCalculationError) as error:
        n = len(state.of(name))
        return Relaxed(**row, n_reference_calls=n, error=f"{error} (after {n} calls that were kept)")
    label = session.converged or session.lowest
    assert label is not None
    first = session.labels[0]
    volume = None
    if record.atoms.pbc.all():
        volume = float(label.atoms.get_volume() / record.atoms.get_volume() - 1.0)
    return Relaxed(
        **row,
        energy=label.energy,
        initial_energy=first.energy if first.is_of(session.structure) else None,
        steps=len(session.labels),
        converged=session.converged is not None,
        stopped=session.stopped,
        max_force=session.largest_force(label),
        volume_change=volume,
        n_reference_calls=len(session.labels),
        atoms=_with_constraints(label, record.atoms),
        trajectory=tuple(each.to_atoms() for each in session.labels) if trajectory else (),
    )


def trajectory_name(structure_id: str, atoms: "Atoms") -> str:
    """Name of a structure in its labels: its id and a part of the hash of its start, as ids may come again."""
    arrays = (atoms.numbers, np.round(atoms.positions, 3) + 0.0, np.round(atoms.cell.array, 3) + 0.0)
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(each).tobytes() for each in arrays)).hexdigest()
    return f"{structure_id or atoms.get_chemical_formula(mode='metal')}@{digest[:8]}"


def session_of(name: str, atoms: "Atoms", state: LearningState, options: LearnedRelaxOptions) -> LearnedRelaxation:
    """The relaxation of a structure as far as the labels in the state have brought it."""
    session = LearnedRelaxation(
        atoms, state.memory(), options, trajectory=name, others=state.others(name)
    )  # fmt: skip
    for label in state.of(name):
        session.add(label)
    return session


def _with_constraints(label: ReferenceLabel, start: "Atoms") -> "Atoms":
    atoms = label.to_atoms()
    atoms.set_constraint(start.constraints)
    if np.any(start.get_initial_magnetic_moments()):
        atoms.set_initial_magnetic_moments(start.get_initial_magnetic_moments())
    return atoms
