"""Reference energies of the elements, and the step from a predicted quantity to the total energy of a cell."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from cgcnn_ase.core.elements import reference_energies

if TYPE_CHECKING:
    from cgcnn_ase.models.crystal_model import CrystalModel


Reference = Literal["mp-pbe", "none"]

#: targets whose value times the number of atoms is an energy of the cell
PER_ATOM_ENERGIES = ("formation_energy_per_atom", "total_energy_per_atom")


class MissingReferenceError(ValueError):
    """An element has no reference energy, so that the total energy is not defined."""


def reference_table(model: "CrystalModel", reference: Reference | Mapping[str, float]) -> Mapping[str, float] | None:
    """The reference energies (eV/atom) that turn a model's value into an energy, or None where nothing is added.

    Raises
    ------
    ValueError
        If the reference does not exist.
    """
    _check_reference(reference)
    if reference == "none" or model.target.name == "total_energy_per_atom":
        return None
    return reference if isinstance(reference, Mapping) else reference_energies()


def sum_of_references(symbols: Sequence[str], table: Mapping[str, float]) -> float:
    """Sum of the elements' reference energies over the atoms, eV.

    Raises
    ------
    MissingReferenceError
        If an element has none; it is named.
    """
    missing = sorted(set(symbols) - set(table))
    if missing:
        raise MissingReferenceError(
            f"no reference energy for {', '.join(missing)}: the total energy is not defined. Give "
            "reference={'" + missing[0] + "': eV/atom, ...} for all elements, or reference='none' for N times the "
            "formation energy per atom"
        )
    return sum(table[symbol] for symbol in symbols)


def _check_reference(reference: object) -> None:
    if not isinstance(reference, Mapping) and reference not in ("mp-pbe", "none"):
        raise ValueError(f"unknown reference {reference!r}; allowed: 'mp-pbe', 'none', or a dict by symbol")
