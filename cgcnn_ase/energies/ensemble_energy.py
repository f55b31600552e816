"""TODO."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from cgcnn_ase.core.arrays import Floats

if TYPE_CHECKING:
    from ase import Atoms


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
