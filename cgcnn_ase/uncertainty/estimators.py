"""From the outputs of several members to a mean and the raw signals of its uncertainty."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from cgcnn_ase.core.arrays import Floats

if TYPE_CHECKING:
    from torch import Tensor

# an ensemble of one has no spread; the calibrator floors its signals above this
_NO_SPREAD = 1e-12


class MemberOutputs(NamedTuple):
    """Predictions of each member (or dropout sample) for each crystal (or site), in what the network learned."""

    values: "Tensor"  # (M, B); for a classification the probability of class 1
    stds: "Tensor | None"  # (M, B) predicted standard deviation of the error, where the head has one
    embedding: "Tensor"  # (B, P) crystal embedding of the first member
    logits: "Tensor | None" = None  # (M, B, K) of a classification

    @property
    def estimate(self) -> "Estimate":
        """The values of all members together."""
        return combine(self.values.numpy(), None if self.stds is None else self.stds.numpy())


class Estimate(NamedTuple):
    """Mean over members, how much they differ, and the error that they expect; each (B,)."""

    mean: Floats
    epistemic: Floats  # standard deviation over the members: what more training data would reduce
    aleatoric: Floats | None  # root mean square of the members' own std: what it would not


def combine(values: npt.ArrayLike, stds: npt.ArrayLike | None = None) -> Estimate:
    """Ensemble mean and the two parts of its uncertainty (Lakshminarayanan et al., 2017).

    From predictions of the members, or samples of Monte Carlo dropout, and the stds that mean-variance heads predict,
    both (M, B).
    """
    v = np.asarray(values, dtype=float)
    aleatoric = None if stds is None else np.sqrt((np.asarray(stds, dtype=float) ** 2).mean(axis=0))
    return Estimate(v.mean(axis=0), v.std(axis=0), aleatoric)


def signal_names(estimate: Estimate, *, with_distance: bool) -> tuple[str, ...]:
    """Names of the columns of :func:`signals`."""
    aleatoric = () if estimate.aleatoric is None else ("aleatoric",)
    return ("epistemic", *aleatoric, *(("distance",) if with_distance else ()))


def signals(estimate: Estimate, distance: Floats | None) -> Floats:
    """The positive signals that a calibrator turns into one std, (B, k)."""
    columns = [np.maximum(estimate.epistemic, _NO_SPREAD)]
    if estimate.aleatoric is not None:
        columns.append(estimate.aleatoric)
    if distance is not None:
        columns.append(distance)
    return np.stack(columns, axis=1)
