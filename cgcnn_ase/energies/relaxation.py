"""Relax cells with the forces of an energy model: a potential of this package, an ASE calculator, or CHGNet."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from cgcnn_ase.core.errors import unknown_name
from cgcnn_ase.energies.energy_model import GraphEnergy
from cgcnn_ase.energies.interface import EnergyModel

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

Optimizer = Literal["FIRE", "BFGS"]


class NotConvergedError(RuntimeError):
    """The forces are still too large after the steps that were allowed."""


@dataclass(frozen=True, eq=False)
class RelaxedCell:
    """A cell after its relaxation."""

    atoms: "Atoms"  # the last structure; the one that was given where it failed
    steps: int
    problem: str  # in words, why the forces do not vanish; empty where they do
    failed: bool = False  # whether the relaxation broke off, as the structure left all that the potential knows

    @property
    def converged(self) -> bool:
        """True where no force is larger than fmax."""
        return not self.problem


def check_forces(model: EnergyModel, *, stress: bool = False) -> None:
    """Raise ValueError if the model has no forces (no stress, to move the cell) to relax with."""
    if isinstance(model, GraphEnergy) and model.model.is_potential:
        return
    has = getattr(_calculator(model), "implemented_properties", ())
    if "forces" not in has:
        raise ValueError(
            f"relaxation needs forces, and {model.name!r} has none: relax with a potential of this package "
            "(cathode-potential) or an interatomic potential such as CHGNet, or go without relaxation"
        )
    if stress and "stress" not in has:
        raise ValueError(f"relaxation of the cell needs the stress, and {model.name!r} gives none: keep the cell")


def relax_cells(
    cells: "Sequence[Atoms]",
    model: EnergyModel,
    *,
    fmax: float = 0.05,
    max_steps: int = 500,
    with_cell: bool = False,
    optimizer: Optimizer = "FIRE",
) -> list[RelaxedCell]:
    """Relax cells, each copied, in their order; by a potential of this package in batches.

    Parameters
    ----------
    model
        With forces: a potential of this package, an ASE calculator as energy model, or ``chgnet``.
    fmax
        Largest force that may remain, eV/Å; with the cell also the largest row of virial / N, as in ASE's cell filters.
    max_steps
        Most steps; what needs more comes back as it is then, with its ``problem``. What breaks off comes back as it
        was.
    with_cell
        Move the cell, too, of structures that are periodic in all directions.
    optimizer
        Of ASE, for its calculators; potentials of this package have a minimiser of their own.

    Raises
    ------
    ValueError
        If the model has no forces, or a structure cannot be used.
    """
    check_forces(model, stress=with_cell)
    if optimizer not in get_args(Optimizer):
        raise unknown_name("optimizer", optimizer, get_args(Optimizer))
    if not fmax > 0:
        raise ValueError(f"fmax must be above 0 eV/Å, not {fmax:g}")
    if max_steps < 1:
        raise ValueError(f"the number of steps must be at least 1, not {max_steps}")
    if isinstance(model, GraphEnergy):
        return _on_potential(cells, model, fmax=fmax, max_steps=max_steps, with_cell=with_cell)
    calculator = _calculator(model)
    assert calculator is not None
    return [
        _by_ase(atoms, calculator, fmax=fmax, max_steps=max_steps, with_cell=with_cell, optimizer=optimizer)
        for atoms in cells
    ]


def relaxed(
    atoms: "Atoms",
    model: EnergyModel,
    *,
    fmax: float = 0.05,
    max_steps: int = 500,
    with_cell: bool = False,
    optimizer: Optimizer = "FIRE",
) -> "Atoms":
    """Return a copy with relaxed positions; parameters and errors as in :func:`relax_cells`.

    Raises
    ------
    NotConvergedError
        If the forces do not fall below fmax.
    """
    (one,) = relax_cells(
        [atoms], model, fmax=fmax, max_steps=max_steps, with_cell=with_cell, optimizer=optimizer
    )  # fmt: skip
    return converged_atoms(one)


def converged_atoms(cell: RelaxedCell) -> "Atoms":
    """The structure of a relaxation that has ended; NotConvergedError of any other."""
    if cell.problem:
        raise NotConvergedError(f"{cell.atoms.get_chemical_formula()}: {cell.problem}")
    return cell.atoms


def _calculator(model: EnergyModel) -> "BaseCalculator | None":
    calculator: BaseCalculator | None = getattr(model, "calculator", None)
    return calculator


def _on_potential(
    cells: "Sequence[Atoms]", model: GraphEnergy, *, fmax: float, max_steps: int, with_cell: bool
) -> list[RelaxedCell]:
    from cgcnn_ase.potential.relax import stream_relaxed
    from cgcnn_ase.potential.relax_results import RelaxOptions
    from cgcnn_ase.structures import StructureRecord, check_atoms

    settings = RelaxOptions(fmax=fmax, steps=max_steps, fixed_cell=not with_cell)
    records = [StructureRecord(f"{k}", "<atoms>", check_atoms(a, "<atoms>"), None) for k, a in enumerate(cells)]
    result = []
    for atoms, row in zip(cells, stream_relaxed(iter(records), model.model, settings, workers=1), strict=True):
        if row.error is not None or row.atoms is None or row.steps is None:
            result.append(RelaxedCell(atoms.copy(), 0, f"not relaxed: {row.error}", failed=True))
            continue
        problem = "" if row.converged else _too_large(fmax, row.steps, "", row.max_force)
        result.append(RelaxedCell(row.atoms.copy(), row.steps, problem))
    return result


def _by_ase(
    atoms: "Atoms",
    calculator: "BaseCalculator",
    *,
    fmax: float,
    max_steps: int,
    with_cell: bool,
    optimizer: Optimizer,
) -> RelaxedCell:
    import ase.optimize
    from ase.filters import FrechetCellFilter

    moved = atoms.copy()
    moved.calc = calculator
    target = FrechetCellFilter(moved) if with_cell and atoms.pbc.all() else moved
    run = getattr(ase.optimize, optimizer)(target, logfile=None)
    converged = bool(run.run(fmax=fmax, steps=max_steps))
    largest = float(np.linalg.norm(target.get_forces(), axis=1).max())
    problem = "" if converged else _too_large(fmax, int(run.nsteps), f" of {optimizer}", largest)
    return RelaxedCell(moved.copy(), int(run.nsteps), problem)


def _too_large(fmax: float, steps: int, optimizer: str, largest: float | None) -> str:
    now = "" if largest is None else f" (largest: {largest:.3g})"
    return f"forces are above {fmax:g} eV/Å after {steps} steps{optimizer}{now}"
