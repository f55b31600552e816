"""Is a batch of structures, as a whole, like the crystals that a model was held out on?"""

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from cgcnn_ase.uncertainty.calibration import MIN_SAMPLES

# the share of held-out crystals below a limit
QUANTILE = 0.9


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
