"""Total energies from this package's own models: the elements' energies, and all members of an ensemble."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cgcnn_ase.core.elements import reference_energies
from cgcnn_ase.energies.interface import Energies, Reference
from cgcnn_ase.energies.scales import SCALES, element_energies

if TYPE_CHECKING:
    from ase import Atoms

    from cgcnn_ase.models.crystal_model import CrystalModel
    from cgcnn_ase.prediction.inference import ModelInference

# targets whose value times the number of atoms is an energy of the cell
PER_ATOM_ENERGIES = ("formation_energy_per_atom", "total_energy_per_atom")


class MissingReferenceError(ValueError):
    """An element has no reference energy, so that the total energy is not defined."""


def reference_table(model: "CrystalModel", reference: Reference | Mapping[str, float]) -> Mapping[str, float] | None:
    """The energies (eV/atom) that make a model's value an energy, or None; an unknown name is a `ValueError`."""
    check_reference(reference)
    if reference == "none" or model.target.name == "total_energy_per_atom":
        return None
    return reference if isinstance(reference, Mapping) else elements_of(model)


def elements_of(model: "CrystalModel") -> Mapping[str, float]:
    """Energies of the elements, eV/atom, that are on the scale of a model; uncorrected ones where it states none."""
    return element_energies(model.scale if model.scale in SCALES else "uncorrected")


def sum_of_references(symbols: Sequence[str], table: Mapping[str, float]) -> float:
    """Sum of the elements' reference energies over the atoms, eV; `MissingReferenceError` names an element without."""
    missing = sorted(set(symbols) - set(table))
    if missing:
        raise MissingReferenceError(
            f"no reference energy for {', '.join(missing)}: the total energy is not defined. Give "
            "reference={'" + missing[0] + "': eV/atom, ...} for all elements, or reference='none' for N times the "
            "formation energy per atom"
        )
    return sum(table[symbol] for symbol in symbols)


def check_reference(reference: object) -> None:
    """Raise `ValueError` for a reference that does not exist."""
    if not isinstance(reference, Mapping) and reference not in ("mp-pbe", "none"):
        raise ValueError(f"unknown reference {reference!r}; allowed: 'mp-pbe', 'none', or a dict by symbol")


class GraphEnergy:
    """Energies from a crystal-graph model of the formation energy or of the total energy."""

    def __init__(self, infer: "ModelInference", reference: Reference | Mapping[str, float] = "mp-pbe") -> None:
        targets = [model.target.name for model in infer.models]
        if len(targets) != 1 or targets[0] not in PER_ATOM_ENERGIES:
            raise ValueError(
                f"the model {infer.models[0].name!r} predicts {', '.join(targets)}; an energy needs one model of "
                f"{' or '.join(PER_ATOM_ENERGIES)}"
            )
        self._infer, self.model = infer, infer.models[0]
        self.name, self.scale = self.model.name, self.model.scale
        self._table = reference_table(self.model, reference)
        self.has_default_references = not isinstance(reference, Mapping)
        self.references: Mapping[str, float] | None
        if self._table is not None:
            self.references = self._table
        elif targets[0] == "formation_energy_per_atom":
            self.references = dict.fromkeys(reference_energies(), 0.0)
        else:
            self.references = reference if isinstance(reference, Mapping) else elements_of(self.model)

    def energies(self, structures: "Sequence[Atoms]") -> Energies:
        """Total energies, eV a cell, with those of each member.

        A structure that cannot be predicted, or an element without reference energy, is a `ValueError`.
        """
        from cgcnn_ase.structures import StructureRecord, check_atoms

        records = [
            StructureRecord(f"{k}", "<atoms>", check_atoms(a, "<atoms>"), None) for k, a in enumerate(structures)
        ]
        columns, stds, domain = [], [], []
        for ((prediction, members),), atoms in zip(self._infer.with_members(records), structures, strict=True):
            if prediction.error is not None or members is None:
                raise ValueError(f"{atoms.get_chemical_formula()}: {prediction.error}")
            shift = 0.0
            if self._table is not None:
                shift = sum_of_references(atoms.get_chemical_symbols(), self._table)
            columns.append(len(atoms) * members.astype(np.float64) + shift)
            stds.append(None if prediction.std is None else len(atoms) * prediction.std)
            domain.append(prediction.in_domain)
        values = np.stack(columns, axis=1) if columns else np.empty((self.model.n_members, 0))
        known = [std for std in stds if std is not None]
        calibrated = np.array(known) if len(known) == len(stds) else None
        return Energies(values.mean(axis=0), values, calibrated, tuple(domain))
