"""What a surrogate is: a model that learns one objective from labels and says how sure it is of the rest."""

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from cgcnn_ase.active.pool import Pool

Floats = npt.NDArray[np.float64]


class Estimate(NamedTuple):
    """What a surrogate says of the points of a pool, in the unit of the labels."""

    mean: Floats  #: (n,)
    epistemic: Floats  #: (n,) one standard deviation of what labels of other points can teach
    aleatoric: Floats  #: (n,) one standard deviation of what they cannot: a label about its mean


class Surrogate(Protocol):
    """A model of one objective."""

    def fit(self, pool: Pool, values: Floats, noise: Floats | None, *, seed: int) -> None:
        """Learn from the labels of a pool.

        Parameters
        ----------
        pool
            The points.
        values
            (n,) their labels.
        noise
            (n,) one standard deviation of the error of each, or None where nothing is known of it.
        seed
            Same labels and seed, same model.
        """

    def predict(self, pool: Pool) -> Estimate:
        """What it says of points."""

    def covariance(self, pool: Pool, others: Pool) -> Floats:
        """(n, k) how the epistemic errors of points vary together with those of others."""

    def sample(self, pool: Pool, seed: int) -> Floats:
        """(n,) one function that agrees with the labels, drawn at the points without aleatoric noise, by the seed."""
