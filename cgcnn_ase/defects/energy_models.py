"""Energies of cells from anything that gives them: a model of this package, an ASE calculator, or stored results.

Errors of two similar structures are alike, so the error of their difference is far smaller than either. Every member of
an ensemble is taken as one possible truth, the difference is formed within each, and its spread is what is reported:
never the sum of the squares of two standard deviations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

    from cgcnn_ase.calculator import Reference
    from cgcnn_ase.inference import ModelInference
    from cgcnn_ase.nn.model import CrystalModel

Floats = npt.NDArray[np.float64]

#: the name that stands for the interatomic potential
CHGNET = "chgnet"


class Combination(NamedTuple):
    """A sum of energies with coefficients."""

    value: float  #: in the unit of the coefficients times eV
    std: float | None  #: one standard deviation; None where there is no ensemble
    members: tuple[float, ...] | None  #: the same sum within each member


@dataclass(frozen=True, eq=False)
class Energies:
    """Total energies of several cells, eV.

    Attributes
    ----------
    energies
        (S,) eV a cell.
    members
        (M, S) what each member of an ensemble says, eV a cell; None where there is none.
    stds
        (S,) calibrated standard deviation of each, eV a cell; None without calibration.
    in_domain
        (S,) whether the model knows such structures; None where it cannot tell.
    """

    energies: Floats
    members: Floats | None = None
    stds: Floats | None = None
    in_domain: tuple[bool | None, ...] = ()

    def combine(self, coefficients: npt.ArrayLike) -> Combination:
        r"""Sum the energies with coefficients :math:`c_s`, and its standard deviation with the members' correlation.

        .. math:: \Delta_m = \sum_s c_s E_{ms}, \qquad
            \sigma^2 = f^2 \, \mathrm{var}_m \, \Delta_m, \qquad
            f^2 = \sum_s c_s^2 \sigma_s^2 \Big/ \sum_s c_s^2 \, \mathrm{var}_m E_{ms}

        :math:`f` is by how much calibration widens (or narrows) the members' spread of the single energies; 1 without
        calibration. With fewer than two members there is no std: that of one energy says nothing about a difference.

        Parameters
        ----------
        coefficients
            (S,) one a cell.
        """
        c = np.asarray(coefficients, dtype=float)
        value = float(c @ self.energies)
        if self.members is None or len(self.members) < 2:
            return Combination(value, None, None)
        differences = self.members @ c
        return Combination(value, self._calibration(c) * float(differences.std()), tuple(differences.tolist()))

    def _calibration(self, c: Floats) -> float:
        assert self.members is not None
        spread = float(c**2 @ self.members.var(axis=0))
        if self.stds is None or spread == 0.0:
            return 1.0
        return float(np.sqrt(c**2 @ self.stds**2 / spread))


@runtime_checkable
class EnergyModel(Protocol):
    """Anything that gives energies of cells."""

    name: str
    #: energies of the elements on the same scale, eV/atom; None where they are not known
    references: Mapping[str, float] | None

    def energies(self, structures: "Sequence[Atoms]") -> Energies:
        """Total energies, eV a cell, of structures in one common scale."""


class GraphEnergy:
    """Energies from a crystal-graph model of the formation energy or of the total energy."""

    def __init__(self, infer: "ModelInference", reference: "Reference | Mapping[str, float]" = "mp-pbe") -> None:
        from cgcnn_ase.calculator import ENERGIES, reference_table
        from cgcnn_ase.elements import reference_energies

        targets = [model.target.name for model in infer.models]
        if len(targets) != 1 or targets[0] not in ENERGIES:
            raise ValueError(
                f"the model {infer.models[0].name!r} predicts {', '.join(targets)}; an energy needs one model of "
                f"{' or '.join(ENERGIES)}"
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
        from cgcnn_ase.calculator import sum_of_references
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
        found = []
        for structure in structures:
            atoms = structure.copy()
            atoms.calc = self.calculator
            found.append(float(atoms.get_potential_energy()))
        return Energies(np.array(found), in_domain=(None,) * len(found))


class StoredEnergy:
    """Energies that the structures bring with them, as those read from the output of a DFT program."""

    name = "stored"

    def __init__(self, references: Mapping[str, float] | None = None) -> None:
        self.references = references

    def energies(self, structures: "Sequence[Atoms]") -> Energies:
        """The stored energies, eV a cell.

        Raises
        ------
        ValueError
            If a structure has none.
        """
        for k, atoms in enumerate(structures):
            if atoms.calc is None or "energy" not in getattr(atoms.calc, "results", {}):
                raise ValueError(f"structure {k} ({atoms.get_chemical_formula()}) brings no energy")
        return Energies(
            np.array([float(atoms.get_potential_energy()) for atoms in structures]),
            in_domain=(None,) * len(structures),
        )


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

    from cgcnn_ase.calculator import CGCNNCalculator
    from cgcnn_ase.prediction import Predictor

    if isinstance(model, CGCNNCalculator):
        dropout = {key: model.parameters[key] for key in ("n_dropout", "seed")}
        return GraphEnergy(Predictor(model.model, **dropout).inference(), references or model.reference)
    if model == CHGNET:
        from cgcnn_ase.defects.chgnet_energy import CHGNetEnergy

        return CHGNetEnergy()
    if model == "stored":
        return StoredEnergy(_table(references))
    if isinstance(model, BaseCalculator):
        return CalculatorEnergy(model, _table(references))
    if isinstance(model, EnergyModel):
        return model
    return GraphEnergy(Predictor(model).inference(), references or "mp-pbe")


def _table(references: "Reference | Mapping[str, float] | None") -> Mapping[str, float] | None:
    from cgcnn_ase.elements import reference_energies

    if references is None or isinstance(references, Mapping):
        return references
    if references == "mp-pbe":
        return reference_energies()
    raise ValueError(f"references {references!r}: allowed for a calculator are 'mp-pbe' and a dict by symbol")
