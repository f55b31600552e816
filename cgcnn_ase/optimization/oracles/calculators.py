"""Energies by ASE calculators; CHGNet is one of them, and is called what it is."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from cgcnn_ase.core.settings import Positive, Settings
from cgcnn_ase.optimization.oracles.python_function import load_named
from cgcnn_ase.optimization.records import Evaluation, OracleError

if TYPE_CHECKING:
    from pathlib import Path

    from ase import Atoms

    from cgcnn_ase.energies.ensemble_energy import EnergyModel
    from cgcnn_ase.optimization.space.variables import Point


class RelaxSettings(Settings):
    """Relax the positions in the fixed cell by FIRE."""

    fmax: Positive = 0.05  #: largest force that may remain, eV/Å
    steps: Annotated[int, Field(gt=0)] = 200  #: more are a failure


class CHGNetSettings(Settings):
    """Of ``chgnet``."""

    relax: RelaxSettings | None = None


class AseSettings(Settings):
    """Of ``ase``."""

    calculator: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    references: dict[str, float] | None = None  #: energies of the elements on the calculator's scale, eV/atom
    relax: RelaxSettings | None = None


class EnergyOracle:
    """Total energies of the structure as it stands, or relaxed in its cell.

    Parameters
    ----------
    model
        What gives the energies; for a relaxation a :class:`~cgcnn_ase.energies.energy_model.CalculatorEnergy` with
        forces.
    name
        How it is called in the configuration.
    what
        What it is, for people.
    relax
        Positions are relaxed in the fixed cell first; None for the structure as it stands.
    settings
        What else decides the energies, for :meth:`describe`.
    """

    def __init__(
        self,
        model: "EnergyModel",
        *,
        name: str,
        what: str,
        relax: RelaxSettings | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._model = model
        self.name = name
        self.references: Mapping[str, float] | None = model.references
        self._what, self._relax, self._settings = what, relax, dict(settings or {})

    def describe(self) -> dict[str, Any]:
        """What it is, with versions and settings."""
        relax = None if self._relax is None else self._relax.model_dump()
        return {"name": self.name, "what": self._what, "relax": relax} | self._settings

    def evaluate(self, point: "Point", atoms: "Atoms | None") -> Evaluation:
        """``energy``, eV a cell, of the potential at 0 K.

        Raises
        ------
        OracleError
            If there is no structure, or the relaxation does not converge.
        """
        from cgcnn_ase.energies.relax import NotConvergedError, relaxed

        del point
        if atoms is None:
            raise OracleError(f"{self.name} needs a structure, and the configuration makes none: give `structure`")
        cell = atoms
        if self._relax is not None:
            try:
                cell = relaxed(atoms, self._model, fmax=self._relax.fmax, max_steps=self._relax.steps)
            except NotConvergedError as error:
                raise OracleError(str(error)) from error
        energies = self._model.energies([cell])
        stds = {} if energies.stds is None else {"energy": float(energies.stds[0])}
        return Evaluation(
            {"energy": float(energies.energies[0])}, stds, {"n_atoms": len(cell), "formula": str(cell.symbols)}
        )


def chgnet_oracle(options: Mapping[str, Any], *, folder: "Path") -> EnergyOracle:
    """The pretrained CHGNet (Deng et al., Nat. Mach. Intell. 5, 1031), on the energies of the Materials Project.

    Raises
    ------
    ImportError
        If CHGNet is not installed.
    """
    from cgcnn_ase.core.elements import reference_energies
    from cgcnn_ase.core.settings import parse_settings
    from cgcnn_ase.energies.chgnet import CHGNetEnergy, chgnet_calculator
    from cgcnn_ase.energies.energy_model import CalculatorEnergy

    del folder
    settings = parse_settings(CHGNetSettings, options, "oracle")
    model: EnergyModel
    if settings.relax is None:
        model = CHGNetEnergy()  # without forces, which cost more than the energy
    else:
        model = CalculatorEnergy(chgnet_calculator(), reference_energies())
    return EnergyOracle(
        model,
        name="chgnet",
        what=f"CHGNet {version('chgnet')}, a machine-learned potential, not DFT",
        relax=settings.relax,
        settings={"version": version("chgnet")},
    )


def ase_oracle(options: Mapping[str, Any], *, folder: "Path") -> EnergyOracle:
    """Any ASE calculator, by ``calculator: module:Class`` and the keywords in ``parameters``.

    Raises
    ------
    ValueError
        If there is no such class, or it does not take the parameters.
    """
    from cgcnn_ase.core.settings import parse_settings
    from cgcnn_ase.energies.energy_model import CalculatorEnergy

    settings = parse_settings(AseSettings, options, "oracle")
    kind = load_named(settings.calculator, folder, "oracle.calculator")
    try:
        calculator = kind(**settings.parameters)
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
