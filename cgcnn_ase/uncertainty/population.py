"""Known and hypothetical crystals, whose errors decide the interval; and is a batch like those held out, as a whole?"""

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.uncertainty.calibration import MIN_SAMPLES
from cgcnn_ase.uncertainty.conformal import conformal_quantile

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
