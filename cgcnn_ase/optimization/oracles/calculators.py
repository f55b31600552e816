"""Oracles by computation in this process: ASE calculators, CHGNet (which is called what it is), and our own models."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from cgcnn_ase.core.settings import Positive, Settings, parse_settings
from cgcnn_ase.energies.scales import scale_name
from cgcnn_ase.optimization.oracles.base import Evaluation, OracleError, needs_structure
from cgcnn_ase.optimization.oracles.python_function import load_named
from cgcnn_ase.optimization.space.variables import Point

if TYPE_CHECKING:
    from ase import Atoms

    from cgcnn_ase.energies.interface import EnergyModel


# why a candidate was evaluated as it is built, in what is kept of its relaxation
UNRELAXED = "unrelaxed"


class OracleRelaxation(Settings):
    """Relax the positions, in the fixed cell unless it is to move, too; ASE's calculators by FIRE."""

    fmax: Positive = 0.05  # largest force that may remain, eV/Å
    steps: Annotated[int, Field(gt=0)] = 200  # more are a failure
    fixed_cell: bool = True

    def describe(self) -> dict[str, object]:
        """Return plain values; runs of earlier versions, which always kept the cell, are still resumed."""
        return self.model_dump(exclude={"fixed_cell"} if self.fixed_cell else None)


class PotentialSettings(Settings):
    """Options of ``potential``."""

    model: str = "cathode-potential"
    references: dict[str, float] | None = None  # energies of the elements beside, or in place of, PBE's, eV/atom
    relax: OracleRelaxation | None = None


class CHGNetSettings(Settings):
    """Options of ``chgnet``."""

    relax: OracleRelaxation | None = None


class AseSettings(Settings):
    """Options of ``ase``."""

    calculator: str
    parameters: dict[str, object] = Field(default_factory=dict)
    references: dict[str, float] | None = None  # energies of the elements on the calculator's scale, eV/atom
    scale: str | None = None  # of the energies: ``uncorrected`` where they are made as the Materials Project's
    relax: OracleRelaxation | None = None


class ModelSettings(Settings):
    """Options of ``model``."""

    model: str = "formation-energy-per-atom"


class EnergyOracle:
    """Total energies of the structure as it stands, or relaxed in its cell.

    A relaxation needs a model with forces; `name` is how it is called in the configuration, `what` for people, and
    `settings` what else decides the energies, for :meth:`describe`. `references` are those of the model by default,
    `scale` names that of the energies, where it is known (:mod:`cgcnn_ase.energies.scales`).
    """

    def __init__(
        self,
        model: "EnergyModel",
        *,
        name: str,
        what: str,
        relax: OracleRelaxation | None,
        settings: Mapping[str, object],
        references: Mapping[str, float] | None = None,
        scale: str | None = None,
    ) -> None:
        self.scale = scale
        self._model, self.name, self._what, self._relax, self._settings = model, name, what, relax, settings
        self.references: Mapping[str, float] | None = model.references if references is None else references

    def describe(self) -> dict[str, object]:
        """Return what it is, with versions and settings."""
        relax = None if self._relax is None else self._relax.describe()
        return {"name": self.name, "what": self._what, "relax": relax, **self._settings}

    def evaluate(self, point: Point, atoms: "Atoms | None") -> Evaluation:
        """Return ``energy``, eV a cell, of the potential at 0 K; an error where the relaxation does not converge."""
        from cgcnn_ase.energies.relaxation import NotConvergedError, relaxed

        del point
        cell = needs_structure(self.name, atoms)
        if self._relax is not None:
            try:
                cell = relaxed(
                    cell, self._model, fmax=self._relax.fmax, max_steps=self._relax.steps,
                    with_cell=not self._relax.fixed_cell,
                )  # fmt: skip
            except NotConvergedError as error:
                raise OracleError(str(error)) from error
        energies = self._model.energies([cell])
        stds = {} if energies.stds is None else {"energy": float(energies.stds[0])}
        return Evaluation(
            {"energy": float(energies.energies[0])}, stds, {"n_atoms": len(cell), "formula": str(cell.symbols)}
        )


class CandidateRelaxer:
    """Relaxes structures with the forces of a model, one at a time: what comes out depends on the structure alone.

    Parameters
    ----------
    model
        A potential: see :func:`cgcnn_ase.energies.energy_model.as_energy_model`; a ValueError if it has no forces.
    fmax, max_steps, with_cell
        See :func:`cgcnn_ase.energies.relaxation.relax_cells`.
    keeps_unknown
        Whether a structure with an element that a potential of this package has not learned stays as it is.
    """

    def __init__(
        self, model: str, *, fmax: float, max_steps: int, with_cell: bool, keeps_unknown: bool = False
    ) -> None:
        from cgcnn_ase.energies.energy_model import as_energy_model
        from cgcnn_ase.energies.relaxation import check_forces

        self._model, self._fmax, self._max_steps, self._with_cell = as_energy_model(model), fmax, max_steps, with_cell
        check_forces(self._model, stress=with_cell)
        self.keeps_unknown = keeps_unknown

    def describe(self) -> dict[str, object]:
        """Return the potential's name and sha256."""
        from cgcnn_ase.energies.energy_model import GraphEnergy

        name: dict[str, object] = {"model": self._model.name}
        return name | ({"sha256": self._model.model.sha256} if isinstance(self._model, GraphEnergy) else {})

    def __call__(self, atoms: "Atoms") -> "tuple[Atoms, dict[str, object]]":
        """Return the relaxed structure and its steps; an :class:`OracleError` where the relaxation does not end.

        Of one that stays as it is, why, as ``unrelaxed``.
        """
        from cgcnn_ase.energies.relaxation import relax_cells

        if self.keeps_unknown and (unseen := self._unseen(atoms)):
            return atoms, {"model": self._model.name, UNRELAXED: f"{self._model.name} has not learned {unseen}"}
        (cell,) = relax_cells(
            [atoms], self._model, fmax=self._fmax, max_steps=self._max_steps, with_cell=self._with_cell
        )
        if cell.problem:
            raise OracleError(f"relaxation by {self._model.name}: {cell.problem}")
        return cell.atoms, {"model": self._model.name, "steps": cell.steps}

    def _unseen(self, atoms: "Atoms") -> str:
        """Name the elements that the potential has not learned, as far as it says which it has."""
        from cgcnn_ase.energies.energy_model import GraphEnergy

        calibration = self._model.model.calibration if isinstance(self._model, GraphEnergy) else None
        if calibration is None or calibration.domain is None:
            return ""
        known = calibration.domain.elements
        return ", ".join(
            sorted({symbol for symbol, z in zip(atoms.symbols, atoms.numbers.tolist(), strict=True) if z not in known})
        )


def chgnet_oracle(options: Mapping[str, object], *, folder: Path) -> EnergyOracle:
    """Make ``chgnet``: Deng et al., Nat. Mach. Intell. 5, 1031, on the energies of the Materials Project."""
    from cgcnn_ase.core.elements import reference_energies
    from cgcnn_ase.energies.interface import CHGNET_SCALE, CalculatorEnergy, CHGNetEnergy, chgnet_calculator

    del folder
    relax = parse_settings(CHGNetSettings, options, "oracle").relax
    # without forces where they are not needed: they cost more than the energy
    model = CalculatorEnergy(chgnet_calculator(), reference_energies(), scale=CHGNET_SCALE) if relax else CHGNetEnergy()
    what = f"CHGNet {version('chgnet')}, a machine-learned potential, not DFT"
    # it learned energies with the corrections of 2020
    return EnergyOracle(
        model, name="chgnet", what=what, relax=relax, settings={"version": version("chgnet")}, scale=CHGNET_SCALE
    )


def potential_oracle(options: Mapping[str, object], *, folder: Path) -> EnergyOracle:
    """Make ``potential``: a potential of this package, whose energies are uncorrected ones of PBE(+U).

    The energies of the metals that have a U in oxides are not among its references, as those of the metals have none:
    where an objective needs them they must be given.
    """
    from cgcnn_ase.core.elements import HUBBARD_METALS
    from cgcnn_ase.energies.energy_model import GraphEnergy, as_energy_model
    from cgcnn_ase.potential.potential import Potential

    settings = parse_settings(PotentialSettings, options, "oracle")
    model = as_energy_model(beside(settings.model, folder))
    if not isinstance(model, GraphEnergy):
        raise ValueError(f"oracle.model: {settings.model} is no model of this package; chgnet is an oracle of its own")
    Potential(model.model)  # raises if it has no forces
    known = {symbol: energy for symbol, energy in (model.references or {}).items() if symbol not in HUBBARD_METALS}
    return EnergyOracle(
        model,
        name="potential",
        what=f"the potential {model.name}, not DFT (uncorrected PBE(+U) energies)",
        relax=settings.relax,
        settings={"sha256": model.model.sha256, "references": settings.references},
        references=known | (settings.references or {}),
        scale=model.model.scale,
    )


def beside(model: str, folder: Path) -> str:
    """Return the path of a model's folder beside the configuration, or the name where there is none."""
    return str(folder / model) if (folder / model).exists() else model


def ase_oracle(options: Mapping[str, object], *, folder: Path) -> EnergyOracle:
    """Make ``ase``: any ASE calculator, by ``calculator: module:Class`` and the keywords in ``parameters``."""
    from cgcnn_ase.energies.interface import CalculatorEnergy

    settings = parse_settings(AseSettings, options, "oracle")
    try:
        calculator = load_named(settings.calculator, folder, "oracle.calculator")(**settings.parameters)
    except TypeError as error:
        raise ValueError(f"oracle.parameters: {settings.calculator} does not take them: {error}") from error
    if settings.scale is not None:
        scale_name(settings.scale)
    package = settings.calculator.partition(".")[0].partition(":")[0]
    try:
        release = f" ({package} {version(package)})"
    except PackageNotFoundError:
        release = ""
    return EnergyOracle(
        CalculatorEnergy(calculator, settings.references),
        name="ase",
        what=f"{settings.calculator.partition(':')[2]}, an ASE calculator{release}",
        relax=settings.relax,
        settings={"calculator": settings.calculator, "parameters": settings.parameters}
        | ({} if settings.scale is None else {"scale": settings.scale}),
        scale=settings.scale,
    )


class ModelOracle:
    """Predictions of a crystal-graph model (a pretrained name or a folder), with its calibrated standard deviation."""

    name = "model"

    def __init__(self, model: str) -> None:
        from cgcnn_ase.prediction.predictor import Predictor

        self.references: Mapping[str, float] | None = None
        self._model, self._predictor = model, Predictor(model, population="hypothetical")

    @property
    def scale(self) -> str | None:
        """Scale of the energies, where the model states one."""
        return next((model.scale for model in self._predictor.inference().models if model.scale is not None), None)

    def describe(self) -> dict[str, object]:
        """Return the model's name and sha256."""
        hashes = [one.sha256 for one in self._predictor.inference().models]
        return {"name": self.name, "what": f"the model {self._model}, not DFT", "sha256": hashes}

    def evaluate(self, point: Point, atoms: "Atoms | None") -> Evaluation:
        """Return each property that the model predicts; an error where it cannot."""
        del point
        values: dict[str, float] = {}
        stds: dict[str, float] = {}
        for prediction in self._predictor.stream([needs_structure("a model", atoms)]):
            if prediction.error is not None or prediction.value is None:
                raise OracleError(f"{self._model}: {prediction.error}")
            values[prediction.property] = prediction.value
            if prediction.std is not None:
                stds[prediction.property] = prediction.std
        return Evaluation(values, stds)


class StabilityOracle:
    """Energies above the hull by a model of the formation energy, of objectives that name one: `stability`'s rows."""

    name = "stability"

    def __init__(self, model: str, *, entries: str | None, within: float) -> None:
        from cgcnn_ase.stability.predictor import StabilityPredictor

        self.references: Mapping[str, float] | None = None
        self._model, self._predictor = model, StabilityPredictor(model, within=within, entries=entries)

    def describe(self) -> dict[str, object]:
        """Return the model's name and sha256, and what it is compared with."""
        phases = self._predictor.phases
        return {
            "name": self.name,
            "what": f"the model {self._model} against {phases.source}",
            "sha256": [one.sha256 for one in self._predictor.predictor.inference().models],
            "hull_sha256": phases.sha256,
            "scale": phases.scale,
            "within": self._predictor.comparison.within,
        }

    def evaluate(self, point: Point, atoms: "Atoms | None") -> Evaluation:
        """Return energy above the hull, formation energy and, where there is an interval, the probability."""
        del point
        (row,) = self._predictor.stream([needs_structure("a model", atoms)])
        if row.e_above_hull is None or row.formation_energy_per_atom is None:
            raise OracleError(f"{self._model}: {row.error}")
        values = {"e_above_hull": row.e_above_hull, "formation_energy_per_atom": row.formation_energy_per_atom}
        if row.p_stable is not None:
            values["p_stable"] = row.p_stable
        stds = {} if row.e_above_hull_std is None else {"e_above_hull": row.e_above_hull_std}
        return Evaluation(values, stds, {"decomposition": row.decomposition_in_words})


def model_oracle(options: Mapping[str, object], *, folder: Path) -> ModelOracle:
    """Make ``model``, with ``model: NAME`` or a model folder beside the configuration."""
    model = parse_settings(ModelSettings, options, "oracle").model
    return ModelOracle(beside(model, folder))
