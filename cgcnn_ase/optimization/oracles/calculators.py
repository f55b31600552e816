"""Oracles by computation in this process: ASE calculators, CHGNet (which is called what it is), and our own models."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from cgcnn_ase.core.settings import Positive, Settings, parse_settings
from cgcnn_ase.optimization.oracles.base import Evaluation, OracleError, needs_structure
from cgcnn_ase.optimization.oracles.python_function import load_named
from cgcnn_ase.optimization.space.variables import Point

if TYPE_CHECKING:
    from ase import Atoms

    from cgcnn_ase.energies.interface import EnergyModel


class RelaxSettings(Settings):
    """Relax the positions in the fixed cell by FIRE."""

    fmax: Positive = 0.05  # largest force that may remain, eV/Å
    steps: Annotated[int, Field(gt=0)] = 200  # more are a failure


class CHGNetSettings(Settings):
    """Options of ``chgnet``."""

    relax: RelaxSettings | None = None


class AseSettings(Settings):
    """Options of ``ase``."""

    calculator: str
    parameters: dict[str, object] = Field(default_factory=dict)
    references: dict[str, float] | None = None  # energies of the elements on the calculator's scale, eV/atom
    relax: RelaxSettings | None = None


class ModelSettings(Settings):
    """Options of ``model``."""

    model: str = "formation-energy-per-atom"


class EnergyOracle:
    """Total energies of the structure as it stands, or relaxed in its cell.

    A relaxation needs a :class:`~cgcnn_ase.energies.calculators.CalculatorEnergy`; `name` is how it is called in the
    configuration, `what` for people, and `settings` what else decides the energies, for :meth:`describe`.
    """

    def __init__(
        self,
        model: "EnergyModel",
        *,
        name: str,
        what: str,
        relax: RelaxSettings | None,
        settings: Mapping[str, object],
    ) -> None:
        self._model, self.name, self._what, self._relax, self._settings = model, name, what, relax, settings
        self.references: Mapping[str, float] | None = model.references

    def describe(self) -> dict[str, object]:
        """Return what it is, with versions and settings."""
        relax = None if self._relax is None else self._relax.model_dump()
        return {"name": self.name, "what": self._what, "relax": relax, **self._settings}

    def evaluate(self, point: Point, atoms: "Atoms | None") -> Evaluation:
        """Return ``energy``, eV a cell, of the potential at 0 K; an error where the relaxation does not converge."""
        from cgcnn_ase.energies.calculators import NotConvergedError, relaxed

        del point
        cell = needs_structure(self.name, atoms)
        if self._relax is not None:
            try:
                cell = relaxed(cell, self._model, fmax=self._relax.fmax, max_steps=self._relax.steps)
            except NotConvergedError as error:
                raise OracleError(str(error)) from error
        energies = self._model.energies([cell])
        stds = {} if energies.stds is None else {"energy": float(energies.stds[0])}
        return Evaluation(
            {"energy": float(energies.energies[0])}, stds, {"n_atoms": len(cell), "formula": str(cell.symbols)}
        )


def chgnet_oracle(options: Mapping[str, object], *, folder: Path) -> EnergyOracle:
    """Make ``chgnet``: Deng et al., Nat. Mach. Intell. 5, 1031, on the energies of the Materials Project."""
    from cgcnn_ase.core.elements import reference_energies
    from cgcnn_ase.energies.calculators import CalculatorEnergy, CHGNetEnergy, chgnet_calculator

    del folder
    relax = parse_settings(CHGNetSettings, options, "oracle").relax
    # without forces where they are not needed: they cost more than the energy
    model = CalculatorEnergy(chgnet_calculator(), reference_energies()) if relax else CHGNetEnergy()
    what = f"CHGNet {version('chgnet')}, a machine-learned potential, not DFT"
    return EnergyOracle(model, name="chgnet", what=what, relax=relax, settings={"version": version("chgnet")})


def ase_oracle(options: Mapping[str, object], *, folder: Path) -> EnergyOracle:
    """Make ``ase``: any ASE calculator, by ``calculator: module:Class`` and the keywords in ``parameters``."""
    from cgcnn_ase.energies.calculators import CalculatorEnergy

    settings = parse_settings(AseSettings, options, "oracle")
    try:
        calculator = load_named(settings.calculator, folder, "oracle.calculator")(**settings.parameters)
    except TypeError as error:
        raise ValueError(f"oracle.parameters: {settings.calculator} does not take them: {error}") from error
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
        settings={"calculator": settings.calculator, "parameters": settings.parameters},
    )


class ModelOracle:
    """Predictions of a crystal-graph model (a pretrained name or a folder), with its calibrated standard deviation."""

    name = "model"

    def __init__(self, model: str) -> None:
        from cgcnn_ase.prediction.predictor import Predictor

        self.references: Mapping[str, float] | None = None
        self._model, self._predictor = model, Predictor(model, population="hypothetical")

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


def model_oracle(options: Mapping[str, object], *, folder: Path) -> ModelOracle:
    """Make ``model``, with ``model: NAME`` or a model folder beside the configuration."""
    model = parse_settings(ModelSettings, options, "oracle").model
    return ModelOracle(str(folder / model) if (folder / model).exists() else model)
