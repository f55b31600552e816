"""Energies of cells from any model as one interface, with the error of a difference; and those of ASE calculators.

Errors of two similar structures are alike, so the error of their difference is far smaller than either. Every member of
an ensemble is taken as one possible truth, the difference is formed within each, and its spread is what is reported:
never the sum of the squares of two standard deviations. CHGNet stands in where DFT is too slow.
"""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from io import StringIO
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.core.elements import reference_energies
from cgcnn_ase.core.errors import MissingExtraError, require

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator, Calculator
    from chgnet.model.model import CHGNet

# numbers that are drawn at once; energies this near are equal, eV
_DRAWN, _TIE = 4_000_000, 1e-9

# part of the members' covariance that is taken as independent from cell to cell; see Energies.probability_lowest
SHRINKAGE = 0.5

# scale of the elements' energies: the Materials Project's, or none at all
Reference: TypeAlias = Literal["mp-pbe", "none"]


class Combination(NamedTuple):
    """A sum of energies with coefficients."""

    value: float  # in the unit of the coefficients times eV
    std: float | None  # one standard deviation; None where there is no ensemble
    members: tuple[float, ...] | None  # the same sum within each member


@dataclass(frozen=True, eq=False)
class Energies:
    """Total energies of several cells, eV."""

    energies: Floats  # (S,) eV a cell
    members: Floats | None = None  # (M, S) energies by each member of an ensemble, eV a cell; None where there is none
    stds: Floats | None = None  # (S,) calibrated standard deviation of each, eV a cell; None without calibration
    in_domain: tuple[bool | None, ...] = ()  # (S,) whether the model knows such structures; None where it cannot tell

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

    def differences(self, to: int) -> tuple[Floats, Floats | None]:
        """Energies of all cells less that of one, (S,) eV, and their stds as :meth:`combine` has them, eV."""
        values = self.energies - self.energies[to]
        if self.members is None or len(self.members) < 2:
            return values, None
        apart: Floats = (self.members - self.members[:, [to]]).std(axis=0)
        if self.stds is None:
            return values, apart
        variances = self.members.var(axis=0)
        spread = variances + variances[to]
        known = spread > 0.0
        ratio = np.divide(self.stds**2 + self.stds[to] ** 2, spread, out=np.ones_like(spread), where=known)
        stds: Floats = np.sqrt(ratio) * apart
        return values, stds

    def probability_lowest(
        self, *, shrinkage: float = SHRINKAGE, n_draws: int = 10_000, seed: int = 0
    ) -> Floats | None:
        r"""Probability of each cell to have the lowest energy, (S,); None with fewer than two members.

        Errors that all cells share do not change their order, so each member counts by its deviations from the mean of
        the members, less their mean over the cells. Energies are drawn with the covariance of these
        :math:`\delta_{ms}`, which calibration widens by the factor :math:`f` of :meth:`combine` for all cells together:

        .. math:: E_s = \bar E_s + f \Big( \sqrt{\frac{1 - \lambda}{M}} \sum_m z_m \delta_{ms}
            + \sqrt{\frac{\lambda S}{S - 1} \, \overline{\delta_s^2}} \, z_s \Big), \qquad z_m, z_s \sim N(0, 1)

        A covariance of few members has correlations between many cells that their errors do not have, and some cells
        are then never the lowest in any draw. Therefore a part :math:`\lambda` of it is taken as independent from cell
        to cell, which leaves the mean variance of the difference of two cells as it is. Cells of equal energies in all
        members are equivalent, have one :math:`z_s`, and share the probability. The standard error of a probability p
        is :math:`\sqrt{p (1 - p) / n}` with n draws.

        Parameters
        ----------
        shrinkage
            :math:`\lambda`, 0 to 1. The default is measured on hosts that no member was trained on
            (``benchmarks/vacancies.py --ranking``); 0.1 to 1 do about as well.
        n_draws, seed
            Number of draws, and the seed of the random numbers.

        References
        ----------
        Shrinkage of a covariance matrix: O. Ledoit and M. Wolf, J. Multivariate Anal. 88, 365 (2004).
        """
        if not 0.0 <= shrinkage <= 1.0:
            raise ValueError(f"shrinkage is {shrinkage:g}; allowed: 0 to 1")
        if self.members is None or len(self.members) < 2:
            return None
        columns = np.vstack([self.energies, self.members])
        distinct, first, kind, size = np.unique(
            np.round(columns / _TIE), axis=1, return_index=True, return_inverse=True, return_counts=True
        )
        n_members, n_cells = len(self.members), distinct.shape[1]
        energies, members = self.energies[first], self.members[:, first]
        apart = members - members.mean(axis=0)
        apart -= apart.mean(axis=1, keepdims=True)
        factor = self._calibration(np.ones(len(self.energies)))
        shared = factor * np.sqrt((1.0 - shrinkage) / n_members) * apart
        independent = factor * np.sqrt(shrinkage * n_cells / max(n_cells - 1, 1) * (apart**2).mean(axis=0))
        rng = np.random.default_rng(seed)
        votes = np.zeros(n_cells)
        at_once = max(1, _DRAWN // n_cells)
        for start in range(0, n_draws, at_once):
            n = min(at_once, n_draws - start)
            drawn = (
                energies
                + rng.standard_normal((n, n_members)) @ shared
                + independent * rng.standard_normal((n, n_cells))
            )
            lowest = drawn <= drawn.min(axis=1, keepdims=True) + _TIE
            votes += (lowest / lowest.sum(axis=1, keepdims=True)).sum(axis=0)
        probability: Floats = (votes / n_draws / size)[np.ravel(kind)]
        return probability

    def _calibration(self, c: Floats) -> float:
        assert self.members is not None
        spread = float(c**2 @ self.members.var(axis=0))
        if self.stds is None or spread == 0.0:
            return 1.0
        return float(np.sqrt(c**2 @ self.stds**2 / spread))


@runtime_checkable
class EnergyModel(Protocol):
    """Anything that gives energies of cells.

    Where it has an attribute ``scale``, that names the scale of its energies (:mod:`cgcnn_ase.energies.scales`).
    """

    name: str
    # energies of the elements on the same scale, eV/atom; None where they are not known
    references: Mapping[str, float] | None

    def energies(self, structures: "Sequence[Atoms]") -> Energies:
        """Total energies, eV a cell, of structures in one common scale."""


@runtime_checkable
class GivesEnergyModel(Protocol):
    """A calculator that knows its own energy model, with an uncertainty that ASE's interface cannot carry."""

    def energy_model(self, references: Reference | Mapping[str, float] | None) -> EnergyModel:
        """Return the energy model, with the calculator's own reference energies where none are given."""


# scale of the energies that CHGNet has learned
CHGNET_SCALE = "mp2020"
# structures that go through the network at once
_AT_ONCE = 8


class CalculatorEnergy:
    """Energies from an ASE calculator: one number a structure, without uncertainty."""

    def __init__(
        self,
        calculator: "BaseCalculator",
        references: Mapping[str, float] | None = None,
        *,
        scale: str | None = None,  # of the energies; None where it is not known
    ) -> None:
        self.calculator, self.references, self.scale = calculator, references, scale
        self.name = type(calculator).__name__

    def energies(self, structures: "Sequence[Atoms]") -> Energies:
        """Potential energies, eV a cell."""
        values = []
        for structure in structures:
            atoms = structure.copy()
            atoms.calc = self.calculator
            try:
                values.append(float(atoms.get_potential_energy()))
            except Exception:
                # a calculator that failed, such as ASE's EMT, may take the next structure for the one it failed on
                getattr(self.calculator, "reset", lambda: None)()
                raise
        return Energies(np.array(values), in_domain=(None,) * len(values))


def chgnet_calculator() -> "Calculator":
    """The pretrained CHGNet as an ASE calculator with forces, on the CPU, eV and eV/Å; `ImportError` without it."""
    return _calculator_of(_load())


def _calculator_of(model: "CHGNet") -> "Calculator":
    from chgnet.model.dynamics import CHGNetCalculator

    with redirect_stdout(StringIO()):  # it prints on which device it runs
        return CHGNetCalculator(model, use_device="cpu", on_isolated_atoms="error")


def sevennet_calculator() -> "Calculator":
    """The pretrained SevenNet-0 as an ASE calculator, on the CPU, eV and eV/Å; `ImportError` without it."""
    require("sevenn", "the interatomic potential SevenNet")
    from sevenn.calculator import SevenNetCalculator

    calculator: Calculator = SevenNetCalculator("7net-0", device="cpu")
    return calculator


def _load() -> "CHGNet":
    """The network that the wheel brings."""
    try:
        from chgnet.model.model import CHGNet
    except ImportError as error:
        raise MissingExtraError("the interatomic potential CHGNet", "chgnet") from error
    with redirect_stdout(StringIO()):  # it prints its size
        return CHGNet.load(use_device="cpu", verbose=False)


class CHGNetEnergy:
    """Energies by the pretrained CHGNet (Deng et al., Nat. Mach. Intell. 5, 1031), many cells a pass.

    ``calculator`` is the same network with forces, for a relaxation.

    It learned energies of the Materials Project with today's corrections (its formation energies of MgO, NaCl and NiO
    are those, and not those without), so ``scale`` is ``mp2020`` and the elements' energies are those of the project.
    ``name`` says what it is: it is never called DFT. Without CHGNet an `ImportError` is raised.
    """

    def __init__(self) -> None:
        self._model = _load()
        self.name = f"CHGNet {version('chgnet')} (interatomic potential)"
        self.references: Mapping[str, float] | None = reference_energies()
        self.scale = CHGNET_SCALE

    @cached_property
    def calculator(self) -> "Calculator":
        """The ASE calculator with forces."""
        return _calculator_of(self._model)

    def energies(self, structures: "Sequence[Atoms]") -> Energies:
        """Total energies, eV a cell."""
        import torch
        from pymatgen.io.ase import AseAtomsAdaptor

        cells = [AseAtomsAdaptor.get_structure(atoms) for atoms in structures]
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Converting a tensor")  # CHGNet's own code
            results = self._model.predict_structure(cells, task="e", batch_size=_AT_ONCE)
        rows = [results] if isinstance(results, dict) else results
        per_atom = np.array([float(row["e"]) for row in rows])
        return Energies(per_atom * [len(atoms) for atoms in structures], in_domain=(None,) * len(structures))
