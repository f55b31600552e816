"""Energies by ASE calculators; CHGNet is one of them, and is called what it is."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from cgcnn_ase.active.oracles.loading import load_named
from cgcnn_ase.active.oracles.oracle import Evaluation, OracleError
from cgcnn_ase.active.oracles.settings import RelaxSettings

if TYPE_CHECKING:
    from pathlib import Path

    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

    from cgcnn_ase.active.variables import Point


class CalculatorOracle:
    """Total energies by an ASE calculator, of the structure as it stands or relaxed in its cell.

    Parameters
    ----------
    calculator
        Anything with ``get_potential_energy``.
    name
        How it is called in the configuration.
    what
        What it is, for people.
    references
        Energies of the elements on its scale, eV/atom.
    relax
        Positions are relaxed in the fixed cell first; None for the structure as it stands.
    settings
        What else decides the energies, for :meth:`describe`.
    """

    def __init__(
        self,
        calculator: "BaseCalculator",
        *,
        name: str,
        what: str,
        references: Mapping[str, float] | None = None,
        relax: RelaxSettings | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._calculator = calculator
        self.name, self.references = name, references
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
            If there is no structure, the relaxation does not converge, or the calculator fails by ASE's own errors.
        """
        from ase.calculators.calculator import CalculatorError
        from ase.optimize import FIRE

        del point
        if atoms is None:
            raise OracleError(f"{self.name} needs a structure, and the configuration makes none: give `structure`")
        cell = atoms.copy()
        cell.calc = self._calculator
        info: dict[str, Any] = {"n_atoms": len(cell), "formula": cell.get_chemical_formula()}
        try:
            if self._relax is not None:
                run = FIRE(cell, logfile=None)
                if not run.run(fmax=self._relax.fmax, steps=self._relax.steps):
                    raise OracleError(
                        f"forces are above {self._relax.fmax:g} eV/Å after {self._relax.steps} steps of FIRE"
                    )
                info["relax_steps"] = run.nsteps
            energy = float(cell.get_potential_energy())
        except CalculatorError as error:
            raise OracleError(f"{self.name}: {type(error).__name__}: {error}") from error
        return Evaluation({"energy": energy}, info=info)


def chgnet_oracle(options: Mapping[str, Any], *, folder: "Path") -> CalculatorOracle:
    """The pretrained CHGNet (Deng et al., Nat. Mach. Intell. 5, 1031), on the energies of the Materials Project.

    Raises
    ------
    ImportError
        If CHGNet is not installed.
    """
    from cgcnn_ase.active.oracles.settings import CHGNetSettings, settings_of
    from cgcnn_ase.defects.chgnet_energy import chgnet_calculator
    from cgcnn_ase.elements import reference_energies

    del folder
    settings = settings_of(CHGNetSettings, options, "oracle")
    return CalculatorOracle(
        chgnet_calculator(),
        name="chgnet",
        what=f"CHGNet {version('chgnet')}, a machine-learned potential, not DFT",
        references=reference_energies(),
        relax=settings.relax,
        settings={"version": version("chgnet")},
    )


def ase_oracle(options: Mapping[str, Any], *, folder: "Path") -> CalculatorOracle:
    """Any ASE calculator, by ``calculator: module:Class`` and the keywords in ``parameters``.

    Raises
    ------
    ValueError
        If there is no such class, or it does not take the parameters.
    """
    from cgcnn_ase.active.oracles.settings import AseSettings, settings_of

    settings = settings_of(AseSettings, options, "oracle")
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
    return CalculatorOracle(
        calculator,
        name="ase",
        what=f"{settings.calculator.partition(':')[2]}, an ASE calculator{release}",
        references=settings.references,
        relax=settings.relax,
        settings={"calculator": settings.calculator, "parameters": settings.parameters},
    )
