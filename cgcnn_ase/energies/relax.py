"""Let the atoms of a cell move to where the forces vanish, with an ASE calculator."""

from typing import TYPE_CHECKING, Literal

from cgcnn_ase.energies.energy_model import CalculatorEnergy
from cgcnn_ase.energies.ensemble_energy import EnergyModel

if TYPE_CHECKING:
    from ase import Atoms

Optimizer = Literal["FIRE", "BFGS"]


class NotConvergedError(RuntimeError):
    """The forces are still too large after the steps that were allowed."""


def relaxed(
    atoms: "Atoms",
    model: EnergyModel,
    *,
    fmax: float = 0.05,
    max_steps: int = 500,
    optimizer: Optimizer = "FIRE",
) -> "Atoms":
    """A copy with relaxed positions in the same cell.

    Parameters
    ----------
    atoms
        Where to start.
    model
        An ASE calculator with forces, as an energy model.
    fmax
        Largest force that may remain, eV/Å.
    max_steps, optimizer
        Of ASE's optimiser.

    Raises
    ------
    ValueError
        If the model has no forces.
    NotConvergedError
        If the forces do not fall below fmax.
    """
    import ase.optimize

    calculator = model.calculator if isinstance(model, CalculatorEnergy) else None
    if calculator is None or "forces" not in getattr(calculator, "implemented_properties", ()):
        raise ValueError(
            f"relaxation needs forces, and {model.name!r} has none: relax with an interatomic potential such as "
            "CHGNet, or predict without relaxation"
        )
    if optimizer not in ("FIRE", "BFGS"):
        raise ValueError(f"unknown optimizer {optimizer!r}; allowed: FIRE, BFGS")
    if not fmax > 0:
        raise ValueError(f"fmax must be above 0 eV/Å, not {fmax:g}")
    moved = atoms.copy()
    moved.calc = calculator
    run = getattr(ase.optimize, optimizer)(moved, logfile=None)
    if not run.run(fmax=fmax, steps=max_steps):
        raise NotConvergedError(
            f"{moved.get_chemical_formula()}: forces are above {fmax:g} eV/Å after {max_steps} steps of {optimizer}"
        )
    done: Atoms = moved.copy()
    return done
