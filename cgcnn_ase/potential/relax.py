"""Relax structures on a potential: one or many, in batches, on all cores."""

from collections.abc import Generator, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cgcnn_ase.core.arrays import Bools, Floats
from cgcnn_ase.core.parallel import available_cores, ordered_map
from cgcnn_ase.core.progress import with_progress
from cgcnn_ase.graphs.crystal_graph import CrystalGraph, Geometry, batch, geometry
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.models.registry import ModelRef, find_model, load_refs
from cgcnn_ase.potential.minimizer import Minimizer, Point
from cgcnn_ase.potential.potential import NeighborList, Potential, checked_device
from cgcnn_ase.potential.relax_results import Relaxed, RelaxOptions, RelaxResults
from cgcnn_ase.structures import StructureRecord, read_structures
from cgcnn_ase.structures.validation import validation_error
from cgcnn_ase.uncertainty.protocol import MemberOutputs

if TYPE_CHECKING:
    from ase import Atoms
    from ase.constraints import FixSymmetry

DEFAULT_POTENTIAL = "cathode-potential"
# edges that go through the network at once: their tensors stay in a core's cache
MAX_EDGES = 8000
# structures of a task for a worker, and those from which on there are workers
CHUNK, MIN_PARALLEL = 16, 8
# so many times as many edges and structures at once on a GPU
MORE_ON_GPU = 40
# a volume that changes by more than this factor has left all that the potential knows
MAX_VOLUME_CHANGE = 2.5


def relax(
    structures: object,
    model: "str | Path | CrystalModel" = DEFAULT_POTENTIAL,
    *,
    fmax: float = 0.05,
    steps: int = 500,
    fixed_cell: bool = False,
    keep_symmetry: bool = False,
    trajectory: bool = False,
    workers: int | None = None,
    device: str = "cpu",
    progress: bool | None = None,
) -> RelaxResults:
    """Relax structures until no force is larger than ``fmax``.

    Parameters
    ----------
    structures
        Files, folders, ``ase.Atoms`` or pymatgen structures, one or many, as everywhere.
    model
        A potential: pretrained name, model folder, or loaded model.
    fmax
        Largest force that may remain, eV/Å; with the cell also largest row of virial / N, as in ASE's cell filters.
    steps
        Most steps; a structure that needs more comes back with ``converged`` False.
    fixed_cell
        Move the atoms only. The cell stays also where a structure is not periodic in all three directions.
    keep_symmetry
        Keep the space group of each structure.
    trajectory
        Keep the structure, energy and forces of each step.
    workers
        Processes; by default all cores for 8 structures and more, and one with a GPU.
    device
        Where the potential is evaluated: ``"cpu"``, ``"cuda"``, or ``"auto"`` for a GPU where torch finds one.
    progress
        Whether to show a progress bar; by default where stderr is a terminal.

    Returns
    -------
    RelaxResults
        A row a structure, in their order; what cannot be relaxed has an ``error`` and no other is lost.

    Raises
    ------
    NotAPotentialError
        If the model has no forces.
    ValueError
        If there is no such device, or more than one process with a GPU.

    Notes
    -----
    Atoms of an ASE ``FixAtoms`` stay where they are; other constraints are an error of that structure. Atoms nearer
    than 0.5 Å, and a volume that changes by more than a factor of 2.5, are one, too. So is an element that a pretrained
    potential has not learned, where another has; the message names it.

    Examples
    --------
    >>> relax("structures/", fmax=0.02).to_frame()  # doctest: +SKIP
    """
    settings = RelaxOptions(
        fmax=fmax, steps=steps, fixed_cell=fixed_cell, keep_symmetry=keep_symmetry, trajectory=trajectory
    )
    ref = model if isinstance(model, CrystalModel) else find_model(model)
    records = list(read_structures(structures))
    rows = stream_relaxed(iter(records), ref, settings, workers=workers, device=device, total=len(records))
    return RelaxResults(list(with_progress(rows, "Relaxing", len(records), shown=progress)))


def stream_relaxed(
    records: Iterator[StructureRecord],
    model: ModelRef | CrystalModel,
    settings: RelaxOptions,
    *,
    workers: int | None = None,
    device: str = "cpu",
    total: int | None = None,
) -> Generator[Relaxed, None, None]:
    """As :func:`relax`, row by row in the order of the records, which are taken as they are needed."""
    on_gpu = checked_device(device).type != "cpu"
    if on_gpu and workers not in (None, 1):
        raise ValueError(f"{workers} workers: one process relaxes all structures together on {device}")
    if on_gpu:
        workers = 1
    if workers is None:
        parallel = isinstance(model, ModelRef) and (total is None or total >= MIN_PARALLEL)
        workers = available_cores() if parallel else 1
    if workers == 1 or isinstance(model, CrystalModel):
        potential = Potential(model if isinstance(model, CrystalModel) else load_refs([model])[0], device=device)
        while chunk := list(islice(records, CHUNK * (MORE_ON_GPU if on_gpu else 1))):
            yield from relax_chunk(chunk, potential, settings)
        return
    Potential(load_refs([model])[0])  # raises here, not in a worker
    tasks = ((chunk, model, settings) for chunk in iter(lambda: list(islice(records, CHUNK)), []))
    for rows in ordered_map(_in_worker, tasks, workers):
        yield from rows


def _in_worker(chunk: list[StructureRecord], model: ModelRef, settings: RelaxOptions) -> list[Relaxed]:
    import torch

    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)
    return relax_chunk(chunk, _loaded(model), settings)


@lru_cache(maxsize=1)
def _loaded(model: ModelRef) -> Potential:
    return Potential(load_refs([model])[0])


def relax_chunk(records: Sequence[StructureRecord], potential: Potential, settings: RelaxOptions) -> list[Relaxed]:
    """Relax some structures together: those that are done leave their place in the batch to the next."""
    rows: dict[int, Relaxed] = {}
    most = MAX_EDGES * (1 if potential.device.type == "cpu" else MORE_ON_GPU)
    waiting = iter(enumerate(records))
    active: dict[int, _Run] = {}
    while True:
        n_edges = sum(run.n_edges for run in active.values())
        while n_edges < most and (entry := next(waiting, None)) is not None:
            k, record = entry
            try:
                active[k] = _Run(record, potential, settings)
                n_edges += active[k].n_edges
            except ValueError as error:
                rows[k] = _failed(record, potential.model, str(error))
        if not active:
            return [rows[k] for k in range(len(records))]
        for k, run in zip(list(active), _evaluated(list(active.values()), potential), strict=True):
            try:
                row = active[k].advance(run, potential)
            except ValueError as error:
                row = _failed(active[k].record, potential.model, str(error))
            if row is not None:
                rows[k] = row
                del active[k]


class _Evaluated(NamedTuple):
    """Result of the potential for one structure of a batch."""

    point: Point
    atom_energies: Floats
    forces_std: Floats
    members: MemberOutputs  # of this structure alone


def _evaluated(runs: "list[_Run]", potential: Potential) -> list[_Evaluated]:
    output = potential(batch([run.graph for run in runs]))
    values, embedding = output.members.values, output.members.embedding
    ends = np.cumsum([len(run.structure.numbers) for run in runs])
    of_atoms = zip(
        *(np.split(each, ends[:-1]) for each in (output.forces, output.atom_energies, output.forces_std)), strict=True
    )
    return [
        _Evaluated(
            Point(run.structure, float(output.energies[k]), forces, output.stress[k]),
            energies,
            stds,
            MemberOutputs(values[:, k : k + 1], None, embedding[k : k + 1]),
        )
        for k, (run, (forces, energies, stds)) in enumerate(zip(runs, of_atoms, strict=True))
    ]


class _Run:
    """One structure on its way."""

    def __init__(self, record: StructureRecord, potential: Potential, settings: RelaxOptions) -> None:
        if record.atoms is None:
            raise ValueError(record.error)
        atoms = record.atoms
        if (problem := validation_error(atoms)) is not None:
            raise ValueError(problem)
        potential.check_elements(atoms.numbers)
        self.record, self.settings = record, settings
        self.structure = geometry(atoms.copy())
        self._initial, self._fixed = atoms, fixed_atoms(atoms)
        self._minimizer = Minimizer(with_cell=bool(atoms.pbc.all()) and not settings.fixed_cell, fixed=self._fixed)
        self._symmetry = _symmetry(atoms) if settings.keep_symmetry else None
        self._neighbors = NeighborList(potential.cutoff)
        self.graph: CrystalGraph = self._neighbors.graph(self.structure)
        self.n_steps = 0
        self._first: float | None = None
        self._frames: list[Atoms] = []

    @property
    def n_edges(self) -> int:
        """Edges of the graph."""
        return len(self.graph.centers)

    def advance(self, now: _Evaluated, potential: Potential) -> Relaxed | None:
        """Take a step, or return the row where there is none to take."""
        point = self._symmetric(now.point)
        if not (np.isfinite(point.energy) and np.isfinite(point.forces).all()):
            raise ValueError(f"energy or forces are not finite after {self.n_steps} steps")
        self._first = point.energy if self._first is None else self._first
        if self.settings.trajectory:
            self._frames.append(self._atoms(now, point))
        force = self._minimizer.largest_force(point)
        converged = force <= self.settings.fmax
        if converged or self.n_steps == self.settings.steps:
            return self._row(now, point, force, potential, converged=converged)
        pairs = (self.graph.centers.numpy(), self.graph.neighbors.numpy(), self.graph.distances.numpy())
        self.structure = self._minimizer.next(point, pairs)
        self.n_steps += 1
        self._check()
        self.graph = self._neighbors.graph(self.structure)
        return None

    def _symmetric(self, point: Point) -> Point:
        if self._symmetry is None:
            return point
        from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

        atoms, forces = self._at(point.structure), point.forces.copy()
        self._symmetry.adjust_forces(atoms, forces)
        stress = full_3x3_to_voigt_6_stress(point.stress)
        if np.isfinite(stress).all():
            self._symmetry.adjust_stress(atoms, stress)
        return point._replace(forces=forces, stress=voigt_6_to_full_3x3_stress(stress))

    def _check(self) -> None:
        """Stop where the structure flies apart or falls into itself."""
        if self._initial.pbc.all():
            change = abs(np.linalg.det(self.structure.cell)) / self._initial.get_volume()
            if not 1.0 / MAX_VOLUME_CHANGE < change < MAX_VOLUME_CHANGE:
                raise ValueError(
                    f"the volume has changed by a factor of {change:.2g} after {self.n_steps} steps: the structure is "
                    "unlike all that the potential knows"
                )
        if (problem := validation_error(self._at(self.structure))) is not None:
            raise ValueError(f"after {self.n_steps} steps the structure {problem}")

    def _at(self, structure: Geometry) -> "Atoms":
        atoms: Atoms = self._initial.copy()
        atoms.set_cell(structure.cell, scale_atoms=False)
        atoms.set_positions(structure.positions, apply_constraint=False)
        return atoms

    def _atoms(self, now: _Evaluated, point: Point) -> "Atoms":
        """The structure with its energy and forces."""
        from ase.calculators.singlepoint import SinglePointCalculator
        from ase.stress import full_3x3_to_voigt_6_stress

        atoms = self._at(point.structure)
        results = {"energy": point.energy, "forces": point.forces, "energies": now.atom_energies}
        if np.isfinite(point.stress).all():
            results["stress"] = full_3x3_to_voigt_6_stress(point.stress)
        atoms.calc = SinglePointCalculator(atoms, **results)
        atoms.info["max_force_std"] = float(now.forces_std.max())
        return atoms

    def _row(self, now: _Evaluated, point: Point, force: float, potential: Potential, *, converged: bool) -> Relaxed:
        prediction = potential.calibrated(now.members, self.graph)
        verdict = None if prediction.domain is None else prediction.domain[0]
        n = len(point.forces)
        periodic = bool(self._initial.pbc.all())
        return Relaxed(
            id=self.record.id,
            source=self.record.source,
            formula=self._initial.get_chemical_formula(mode="metal"),
            n_atoms=n,
            energy=point.energy,
            energy_std=None if prediction.std is None else n * float(prediction.std[0]),
            scale=potential.model.scale,
            initial_energy=self._first,
            steps=self.n_steps,
            converged=converged,
            max_force=force,
            max_force_std=float(now.forces_std.max()),
            volume_change=abs(float(np.linalg.det(point.structure.cell))) / self._initial.get_volume() - 1.0
            if periodic
            else None,
            in_domain=None if verdict is None else verdict.in_domain,
            in_domain_reason="" if verdict is None else verdict.reason,
            domain_score=None if verdict is None else verdict.score,
            model=potential.model.name,
            model_sha256=potential.model.sha256,
            atoms=self._atoms(now, point),
            trajectory=tuple(self._frames),
        )


def fixed_atoms(atoms: "Atoms", *, strict: bool = True) -> Bools:
    """Atoms that stay, (N,); where there are other constraints than FixAtoms, a ValueError if ``strict``."""
    from ase.constraints import FixAtoms

    fixed: Bools = np.zeros(len(atoms), dtype=bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            fixed[constraint.index] = True
        elif strict:
            raise ValueError(
                f"has a constraint {type(constraint).__name__}; FixAtoms is allowed here, and all of them with ASE's "
                "optimisers and CGCNNCalculator"
            )
    return fixed


def _symmetry(atoms: "Atoms") -> "FixSymmetry":
    from ase.constraints import FixSymmetry

    return FixSymmetry(atoms.copy())


def _failed(record: StructureRecord, model: CrystalModel, error: str) -> Relaxed:
    atoms = record.atoms
    return Relaxed(
        id=record.id,
        source=record.source,
        formula=None if atoms is None else atoms.get_chemical_formula(mode="metal"),
        n_atoms=None if atoms is None else len(atoms),
        model=model.name,
        model_sha256=model.sha256,
        error=error,
    )
