"""Energies of cells from anything that gives them: a model of this package, an ASE calculator, or stored results.

Errors of two similar structures are alike, so the error of their difference is far smaller than either. Every member of
an ensemble is taken as one possible truth, the difference is formed within each, and its spread is what is reported:
never the sum of the squares of two standard deviations.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from cgcnn_ase.energies.ensemble_energy import Energies, EnergyModel

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

    from cgcnn_ase.energies.reference_scale import Reference
    from cgcnn_ase.models.crystal_model import CrystalModel
    from cgcnn_ase.prediction.inference import ModelInference


#: the name that stands for the interatomic potential
CHGNET = "chgnet"


@runtime_checkable
class GivesEnergyModel(Protocol):
    """A calculator that knows its own energy model, with an uncertainty that ASE's interface cannot carry."""

    def energy_model(self, references: "Reference | Mapping[str, float] | None") -> EnergyModel:
        """Return the energy model, with the calculator's own reference energies where none are given."""


class GraphEnergy:
    """Energies from a crystal-graph model of the formation energy or of the total energy."""

    def __init__(self, infer: "ModelInference", reference: "Reference | Mapping[str, float]" = "mp-pbe") -> None:
        from cgcnn_ase.core.elements import reference_energies
        from cgcnn_ase.energies.reference_scale import PER_ATOM_ENERGIES, reference_table

        targets = [model.target.name for model in infer.models]
        if len(targets) != 1 or targets[0] not in PER_ATOM_ENERGIES:
            raise ValueError(
                f"the model {infer.models[0].name!r} predicts {', '.join(targets)}; an energy needs one model of "
                f"{' or '.join(PER_ATOM_ENERGIES)}"
            )
        self._infer, self.model = infer, infer.models[0]
        self.name = self.model.name
        self._table = reference_table(self.model, reference)
        self.references: Mapping[str, float] | None
        if self._table is not None:
            self.references = self._table
        elif targets[0] == "formation_energy_per_atom":
            self.references = dict.fromkeys(reference_energies(), 0.0)
        else:
            self.references = reference if isinstance(reference, Mapping) else reference_energies()

    def energies(self, structures: "Sequence[Atoms]") -> Energies:
        """Total energies, eV a cell, with those of each member.

        Raises
        ------
        ValueError
            If a structure cannot be predicted, or an element has no reference energy.
        """
        from cgcnn_ase.energies.reference_scale import sum_of_references
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
        values = np.stack(columns, axis=1) if columns else np.empty((len(self.model.members), 0))
        known = [std for std in stds if std is not None]
        calibrated = np.array(known) if len(known) == len(stds) else None
        return Energies(values.mean(axis=0), values, calibrated, tuple(domain))


class CalculatorEnergy:
    """Energies from an ASE calculator: one number a structure, without uncertainty."""

    def __init__(self, calculator: "BaseCalculator", references: Mapping[str, float] | None = None) -> None:
        self.calculator, self.references = calculator, references
        self.name = type(calculator).__name__

    def energies(self, structures: "Sequence[Atoms]") -> Energies:
        """Potential energies, eV a cell."""
        result = []
        for structure in structures:
            atoms = structure.copy()
            atoms.calc = self.calculator
            result.append(float(atoms.get_potential_energy()))
        return Energies(np.array(result), in_domain=(None,) * len(result))


class StoredEnergy:
    """Energies that the structures bring with them, as those read from the output of a DFT program."""

    name = "stored"

    def __init__(self, references: Mapping[str, float] | None = None) -> None:
        self.references = references

    def energies(self, structures: "Sequence[Atoms]") -> Energies:
        """The stored energies, eV a cell: of a calculator with results, or ``info["energy"]`` as files are read.

        Raises
        ------
        ValueError
            If a structure has none.
        """
        return Energies(
            np.array([_stored(k, atoms) for k, atoms in enumerate(structures)]), in_domain=(None,) * len(structures)
        )


def _stored(k: int, atoms: "Atoms") -> float:
    if atoms.calc is not None and "energy" in getattr(atoms.calc, "results", {}):
        return float(atoms.get_potential_energy())
    if "energy" in atoms.info:
        return float(atoms.info["energy"])
    raise ValueError(f"structure {k} ({atoms.get_chemical_formula()}) brings no energy")


def as_energy_model(
    model: "str | Path | CrystalModel | BaseCalculator | EnergyModel",
    *,
    references: "Reference | Mapping[str, float] | None" = None,
) -> EnergyModel:
    """What gives the energies, from what people have at hand.

    Parameters
    ----------
    model
        A pretrained name, a model folder or a loaded model of the formation or total energy; an ASE calculator;
        ``chgnet`` for that interatomic potential; ``stored`` for structures that bring their energies; or an
        :class:`EnergyModel`.
    references
        Energies of the elements, eV/atom: ``mp-pbe`` for those of the Materials Project, which fit this package's
        models (their default) and potentials trained on its energies, such as CHGNet; or a dict by symbol. A calculator
        has none by default, as its scale is not known.

    Raises
    ------
    ValueError
        If the model predicts something else.
    """
    from ase.calculators.calculator import BaseCalculator

    from cgcnn_ase.prediction.predictor import Predictor

    if isinstance(model, GivesEnergyModel):
        return model.energy_model(references)
    if model == CHGNET:
        from cgcnn_ase.energies.chgnet import CHGNetEnergy

        return CHGNetEnergy()
    if model == "stored":
        return StoredEnergy(_table(references))
    if isinstance(model, BaseCalculator):
        return CalculatorEnergy(model, _table(references))
    if isinstance(model, EnergyModel):
        return model
    return GraphEnergy(Predictor(model).inference(), references or "mp-pbe")


def _table(references: "Reference | Mapping[str, float] | None") -> Mapping[str, float] | None:
    from cgcnn_ase.core.elements import reference_energies

    if references is None or isinstance(references, Mapping):
        return references
    if references == "mp-pbe":
        return reference_energies()
    raise ValueError(f"references {references!r}: allowed for a calculator are 'mp-pbe' and a dict by symbol")
