"""Intervals with a guaranteed coverage: split conformal prediction with normalised scores; and for whom they are.

Known and hypothetical crystals, whose errors decide the interval; and is a batch like those held out, as a whole?
"""

from math import ceil
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from cgcnn_ase.core.arrays import Floats, Ints
from cgcnn_ase.uncertainty.calibration import MIN_SAMPLES
from cgcnn_ase.uncertainty.metrics import as_positive, as_vector

# fewer calibration samples than this in a bin and all go into one
MIN_PER_BIN = 100
# fewer groups than this say nothing about the next
MIN_GROUPS = 5


class Interval(NamedTuple):
    """Lower and upper ends, (n,) each, in the unit of the prediction."""

    lower: Floats
    upper: Floats


class ConformalInterval(BaseModel):
    r"""The interval mean ± q·std that holds the target with probability ``level``, whatever the errors' distribution.

    q is the :math:`\lceil (n+1)\,\mathrm{level} \rceil`-th smallest of the scores |error| / std of n held-out samples
    (Papadopoulos et al., 2008; Lei et al., J. Am. Stat. Assoc. 113, 1094). If those and the new structure are
    exchangeable, the coverage over both is at least ``level`` and at most ``level + 1/(n+1)``. The width follows the
    std of each structure. With more than one bin each range of std has a q of its own (Mondrian), and the coverage
    holds in each range as well.

    Samples of one group, such as the sites of one host, have errors that are alike: then it is the groups that are
    exchangeable, and there are fewer of them. Each group counts once, with its samples sharing its weight, and q is the
    quantile at :math:`(G+1)/G` times ``level`` for G groups (Dunn, Wasserman and Ramdas, J. Am. Stat. Assoc. 118, 2491:
    pooled distribution functions); the highest score where there are too few for that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    level: float = Field(gt=0, lt=1)
    # limits of std between the bins, one fewer than there are factors
    edges: tuple[float, ...] = ()
    # half width / std in each bin
    factors: tuple[float, ...] = Field(min_length=1)
    n_samples: int = Field(ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> "ConformalInterval":
        if len(self.edges) != len(self.factors) - 1:
            raise ValueError("there must be one edge fewer than factors")
        if (np.diff(self.edges) <= 0).any():
            raise ValueError("edges must increase")
        if min(self.factors) < 0:
            raise ValueError("factors must not be negative")
        return self

    @classmethod
    def fit(
        cls,
        std: npt.ArrayLike,
        errors: npt.ArrayLike,
        *,
        level: float = 0.9,
        n_bins: int = 1,
        groups: Ints | None = None,
    ) -> "ConformalInterval":
        """Calibrate on held-out data, best on other data than the std was calibrated on.

        ``std`` (n,) is positive, ``errors`` (n,) are target - prediction in the same unit, ``level`` is the nominal
        coverage. Each of ``n_bins`` quantile bins of std has a factor of its own; there is one bin if one would hold
        fewer than 100 samples, or with ``groups``, (n,) the number of the group of each sample.

        ValueError if the lengths differ, a value is not finite, a std is not positive, or n is too small for the level.
        """
        spread = as_positive(std, name="std")
        scores = np.abs(as_vector(errors, name="errors", size=spread.size)) / spread
        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1, got {level}")
        if n_bins < 1:
            raise ValueError(f"n_bins must be at least 1, got {n_bins}")
        if groups is not None:
            factor = grouped_quantile(scores, groups, level)
            return cls(level=level, factors=(factor,), n_samples=spread.size)
        edges = np.unique(np.quantile(spread, np.arange(1, n_bins) / n_bins)) if spread.size else np.empty(0)
        where = np.searchsorted(edges, spread)
        if np.bincount(where, minlength=edges.size + 1).min() < MIN_PER_BIN:
            edges, where = np.empty(0), np.zeros(spread.size, dtype=np.intp)
        factors = [conformal_quantile(scores[where == b], level) for b in range(edges.size + 1)]
        return cls(level=level, edges=tuple(edges.tolist()), factors=tuple(factors), n_samples=spread.size)

    def apply(self, mean: npt.ArrayLike, std: npt.ArrayLike) -> Interval:
        """Lower and upper end for each prediction."""
        center = as_vector(mean, name="mean")
        spread = as_positive(std, name="std", size=center.size)
        half = np.asarray(self.factors)[np.searchsorted(self.edges, spread)] * spread
        return Interval(center - half, center + half)


def conformal_quantile(scores: Floats, level: float) -> float:
    """The ceil((n + 1) level)-th smallest score; ValueError if there are too few for the level."""
    n = scores.size
    rank = ceil((n + 1) * level - 1e-9)  # 100 * 0.07 is 7, not 7.000000000000001
    if rank > n:
        need = ceil(level / (1 - level) - 1e-9)
        raise ValueError(f"an interval of level {level:g} needs at least {need} held-out samples, got {n}")
    return float(np.partition(scores, rank - 1)[rank - 1])


def grouped_quantile(scores: Floats, groups: Ints, level: float) -> float:
    """The quantile of scores in which each group weighs the same, at level (G + 1) / G, or the highest score.

    ValueError if there are fewer than 5 groups: no quantile says anything then.
    """
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if sizes.size < MIN_GROUPS:
        raise ValueError(f"an interval needs held-out samples of at least {MIN_GROUPS} groups, got {sizes.size}")
    order = np.argsort(scores, kind="stable")
    share = np.cumsum(1.0 / sizes[group][order]) / sizes.size
    rank = int(np.searchsorted(share, level * (sizes.size + 1) / sizes.size - 1e-9))
    return float(scores[order][min(rank, scores.size - 1)])


# the share of held-out crystals below a limit
QUANTILE = 0.9


class PopulationFactors(BaseModel):
    """Std and upper end of the interval of hypothetical crystals, as multiples of the std of known ones.

    A training set of a database holds mostly stable crystals. Less stable ones are predicted too low, and nothing in
    the structure shows how stable it is. The factors are those of held-out crystals that lie above the training set's
    own convex hull; the lower end of the interval is that of known crystals.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    std_factor: float = Field(ge=1)
    upper_factor: float = Field(gt=0)  # upper half width over the std of known crystals
    above_hull: tuple[float, float]  # eV/atom, range of the held-out crystals
    n_samples: int = Field(ge=MIN_SAMPLES)

    @classmethod
    def fit(
        cls,
        std: npt.ArrayLike,
        errors: npt.ArrayLike,
        *,
        above_hull: tuple[float, float],
        lower_factor: float = np.inf,
        level: float = 0.9,
    ) -> "PopulationFactors":
        """Fit to held-out crystals above the hull: calibrated std (n,) and true less predicted value (n,).

        ``lower_factor`` is the lower half width over the std: crystals below that end count among those that the
        interval misses, so that both ends together hold ``level`` of them.
        """
        z = np.asarray(errors, dtype=np.float64) / np.asarray(std, dtype=np.float64)
        return cls(
            std_factor=max(1.0, float(np.sqrt(np.mean(z**2)))),
            upper_factor=conformal_quantile(np.where(z < -lower_factor, np.inf, z), level),
            above_hull=above_hull,
            n_samples=z.size,
        )

    def apply(self, mean: Floats, std: Floats) -> tuple[Floats, Floats]:
        """Std and upper end, (n,) each, from the std of known crystals."""
        return self.std_factor * std, mean + self.upper_factor * std


class HeldOutSignals(BaseModel):
    """Domain score and spread of the members that nine in ten held-out crystals stay below.

    One structure beyond them says little; half a batch beyond them says that the batch is from another population.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    domain_score: float = Field(gt=0)
    epistemic: float | None = Field(default=None, gt=0)  # raw, in what the network learned; None of one member
    n_samples: int = Field(ge=MIN_SAMPLES)

    @classmethod
    def fit(cls, domain_score: npt.ArrayLike, epistemic: npt.ArrayLike | None) -> "HeldOutSignals":
        """Learn the limits from held-out crystals (or sites), (n,) each."""
        score = np.asarray(domain_score, dtype=float)
        spread = 0.0 if epistemic is None else float(np.quantile(np.asarray(epistemic, dtype=float), QUANTILE))
        return cls(domain_score=float(np.quantile(score, QUANTILE)), epistemic=spread or None, n_samples=score.size)
