"""The calibration of a model to tune, kept where there are too few new labels to fit another."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.uncertainty.calibration import StdCalibrator
from cgcnn_ase.uncertainty.domain import elements_of
from cgcnn_ase.uncertainty.estimators import Estimate, signal_names
from cgcnn_ase.uncertainty.regression_calibration import Calibration

#: what the old calibration weighs, in held-out labels: as much as would have been enough for a new one
PRIOR = 20


def reuse_calibration(
    old: Calibration,
    estimate: Estimate,
    target: Floats,
    *,
    embedding: npt.ArrayLike,
    composition: npt.ArrayLike,
    training_composition: npt.ArrayLike,
) -> tuple[Calibration, float]:
    r"""The old calibration with a larger std, and the elements of the new training set added to its domain.

    The std is multiplied by :math:`s = \max(1, \sqrt{(n_0 + \sum z^2) / (n_0 + n)})` with z the n held-out errors
    divided by the old std and :math:`n_0 = 20`: a few errors that are larger than expected widen it, none narrows it.

    Parameters
    ----------
    old
        Of the model to tune.
    estimate, target, embedding, composition
        Predictions, true values (n,), embeddings (n, F) and atomic fractions (n, 101) of held-out structures.
    training_composition
        Atomic fractions (m, 101) of the new training set.

    Returns
    -------
    trust
        For the tuned model.
    factor
        s.

    Raises
    ------
    ValueError
        If the tuned model says other things of its error than the old one, so that the calibration does not fit.
    """
    names = signal_names(estimate, with_distance=True) + (() if old.errors is None else ("expected",))
    if names != old.calibrator.names:
        raise ValueError(
            f"the calibration of the model to tune reads {', '.join(old.calibrator.names)}, "
            f"the tuned one has {', '.join(names)}"
        )
    std = old.apply(estimate, embedding, composition).std
    squares = ((target - estimate.mean) / std) ** 2
    factor = max(1.0, float(np.sqrt((PRIOR + squares.sum()) / (PRIOR + squares.size))))
    elements = old.domain.elements.union(*elements_of(training_composition))
    domain = replace(old.domain, elements=elements)
    return replace(old, calibrator=_widened(old.calibrator, factor), domain=domain), factor


def _widened(calibrator: StdCalibrator, factor: float) -> StdCalibrator:
    """The calibrator whose std is so many times as large; the interval grows with the std."""
    shift = float(np.log(factor))
    if not calibrator.knots:
        return calibrator.model_copy(update={"intercept": calibrator.intercept + shift})
    return calibrator.model_copy(update={"knots": tuple((x, y + shift) for x, y in calibrator.knots)})
