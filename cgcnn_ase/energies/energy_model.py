"""The energy model of anything that people have at hand: a name, a model, an ASE calculator, stored results.

Energies of this package's own models are what they predict and the elements' energies, with all members of an ensemble.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

import numpy as np

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.core.elements import reference_energies
from cgcnn_ase.energies.interface import Energies, EnergyModel, GivesEnergyModel, Reference
from cgcnn_ase.energies.scales import SCALES, element_energies, scale_name, scale_of

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

    from cgcnn_ase.models.crystal_model import CrystalModel
    from cgcnn_ase.prediction.inference import ModelInference
    from cgcnn_ase.uncertainty.protocol import Population

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


# names that stand for interatomic potentials
CHGNET, SEVENNET = "chgnet", "sevenn"
POTENTIALS = (CHGNET, SEVENNET)
# what a model may raise for a structure that it cannot treat
_FAILURES = (ValueError, RuntimeError, ArithmeticError, LookupError, AssertionError)


class StoredEnergy:
    """Energies that the structures bring with them, as those read from the output of a DFT program."""

    name = "stored"

    def __init__(self, references: Mapping[str, float] | None = None, *, scale: str | None = None) -> None:
        self.references, self.scale = references, scale

    def energies(self, structures: "Sequence[Atoms]") -> Energies:
        """The stored energies, eV a cell: of a calculator with results, or ``info["energy"]`` as files are read.

        A structure that has none is a `ValueError`, and so are several scales (``info["scale"]``, which
        ``CGCNNCalculator.annotate`` writes).
        """
        stated = {str(atoms.info["scale"]) for atoms in structures if isinstance(atoms.info.get("scale"), str)}
        stated |= set() if self.scale is None else {self.scale}
        if len(stated) > 1:
            raise ValueError(
                f"energies on the scales {' and '.join(sorted(stated))} never mix: give those of one scale"
            )
        self.scale = next(iter(stated), None)
        return Energies(
            np.array([_stored(k, atoms) for k, atoms in enumerate(structures)]), in_domain=(None,) * len(structures)
        )


def _stored(k: int, atoms: "Atoms") -> float:
    if atoms.calc is not None and "energy" in getattr(atoms.calc, "results", {}):
        return float(atoms.get_potential_energy())
    if "energy" in atoms.info:
        return float(atoms.info["energy"])
    raise ValueError(f"structure {k} ({atoms.get_chemical_formula()}) brings no energy")


# anything that :func:`as_energy_model` takes
EnergySource: TypeAlias = Union[str, Path, "CrystalModel", "BaseCalculator", EnergyModel]


def as_energy_model(
    model: EnergySource,
    *,
    references: Reference | Mapping[str, float] | None = None,
    population: "Population" = "hypothetical",
    scale: str | None = None,
) -> EnergyModel:
    """Make an energy model of what people have at hand.

    Parameters
    ----------
    model
        A pretrained name, a model folder or a loaded model of the formation or total energy; an ASE calculator;
        ``chgnet`` and ``sevenn`` for these interatomic potentials; ``stored`` for structures that bring their energies;
        or an :class:`EnergyModel`.
    references
        Energies of the elements, eV/atom: ``mp-pbe`` for those of the Materials Project, which fit this package's
        models (their default) and potentials trained on its energies, such as CHGNet; or a dict by symbol. A calculator
        has none by default, as its scale is not known.
    population
        Whose errors the stds of a model of this package are made for; energies are asked for here of structures that
        the package itself generates, so they are hypothetical.
    scale
        Of the energies of a calculator, and of stored ones: ``uncorrected``, ``mp2020``, ... or ``other:LABEL``
        (:mod:`cgcnn_ase.energies.scales`). With one of the Materials Project's the elements' energies on it are the
        default. This package's models, CHGNet and SevenNet state their own.

    Raises
    ------
    ValueError
        If the model predicts something else, there is no such scale, or it is not that of the model or of the
        references.
    """
    from ase.calculators.calculator import BaseCalculator

    from cgcnn_ase.energies.interface import CalculatorEnergy, CHGNetEnergy, sevennet_calculator
    from cgcnn_ase.prediction.predictor import Predictor

    if scale is not None:
        scale_name(scale)
    if model == "stored":
        return StoredEnergy(_table(references, scale), scale=scale)
    if isinstance(model, BaseCalculator) and not isinstance(model, GivesEnergyModel):
        return CalculatorEnergy(model, _table(references, scale), scale=scale)
    known: EnergyModel
    if isinstance(model, GivesEnergyModel):
        known = model.energy_model(references)
    elif model == CHGNET:
        known = CHGNetEnergy()
    elif model == SEVENNET:
        known = CalculatorEnergy(sevennet_calculator(), _table(references, "uncorrected"), scale="uncorrected")
    elif isinstance(model, EnergyModel):
        known = model
    else:
        known = GraphEnergy(Predictor(model, population=population).inference(), references or "mp-pbe")
    if scale not in (None, scale_of(known)):
        raise ValueError(
            f"the energies of {known.name} are on the scale {scale_of(known) or 'that it has'}, not {scale}"
        )
    return known


def _table(references: Reference | Mapping[str, float] | None, scale: str | None) -> Mapping[str, float] | None:
    if references is None and scale in SCALES:
        references = "mp-pbe"
    if references is None or isinstance(references, Mapping):
        return references
    if references == "mp-pbe":
        if scale is not None and scale not in SCALES:
            raise ValueError(f"references 'mp-pbe' are the Materials Project's, the energies on the scale {scale}")
        return reference_energies() if scale is None else element_energies(scale)
    raise ValueError(f"references {references!r}: allowed for a calculator are 'mp-pbe' and a dict by symbol")


def energies_or_failures(model: EnergyModel, structures: "Sequence[Atoms]") -> list[float | str]:
    """Energies, eV a cell, and in words why there is none of a structure that the model cannot treat.

    Structures are predicted all together, and one by one where that fails.
    """
    try:
        energies = model.energies(structures).energies.tolist()
    except _FAILURES as error:
        if len(structures) == 1:
            return [" ".join(f"{type(error).__name__}: {error}".split())]
        return [value for atoms in structures for value in energies_or_failures(model, [atoms])]
    return [energy if np.isfinite(energy) else "its energy is not finite" for energy in energies]


class ModelEnergies:
    """Energies of structures by a model that is loaded when it is first asked, so that it can be sent to a process."""

    def __init__(self, source: EnergySource) -> None:
        self.source = source
        self._model: EnergyModel | None = None

    def load(self) -> EnergyModel:
        """The model; a `ValueError` says that it gives no energy."""
        if self._model is None:
            self._model = as_energy_model(self.source)
        return self._model

    def __call__(self, structures: "Sequence[Atoms]") -> Floats:
        """The energies, eV a cell."""
        return self.load().energies(structures).energies

    def __getstate__(self) -> dict[str, object]:
        return {"source": self.source, "_model": None}
