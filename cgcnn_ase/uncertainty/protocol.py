"""Calibration as a protocol: fit on held-out data, apply to outputs, write and read its files, whatever the task.

The outputs are those of several members: their mean, and the raw signals of its uncertainty.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from cgcnn_ase.core.arrays import AnyArray, Floats, Ints
from cgcnn_ase.uncertainty.conformal import HeldOutSignals
from cgcnn_ase.uncertainty.contacts import StructureGeometry
from cgcnn_ase.uncertainty.domain import Domain, DomainVerdict, elements_of
from cgcnn_ase.uncertainty.geometry_domain import GeometryDomain

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Self

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


Population = Literal["known", "hypothetical"]


class CalibratedPrediction(NamedTuple):
    """Predictions of n structures (or sites) with their uncertainty, in what the network learned.

    Without calibration there are no interval and no domain, and the std is the spread of the members.
    """

    value: Floats  # (n,) mean of the members; the probability of class 1 of two, else the most probable class
    members: Floats  # (M, n) of each member alone; of a classification (M, n, K) probabilities
    std: Floats | None  # (n,); of a classification sqrt(p (1 - p)), one standard deviation of right or wrong
    # (n,) ends of the interval, or first and last class of the set that holds the true one; NaN where there is none
    lower: Floats | None = None
    upper: Floats | None = None
    epistemic: Floats | None = None  # (n,) spread of the members; None of one
    aleatoric: Floats | None = None  # (n,) error that the members expect
    domain: list[DomainVerdict] | None = None
    population: Population | None = None  # whose errors the interval is made for
    probabilities: Floats | None = None  # (n, K) of each class


@dataclass(frozen=True, eq=False, kw_only=True)
class CalibrationData:
    """Data that a calibration is fitted on beside the outputs: n held-out (val) structures or sites, and training."""

    labels: npt.ArrayLike  # (n,) true values, in what the network learned
    composition: npt.ArrayLike  # (n, 101) atomic fractions, those of the host for sites
    training_embedding: npt.ArrayLike  # (m, F)
    training_composition: npt.ArrayLike  # (m, 101)
    training_errors: Floats | None = None  # (m,) of networks that had not seen the structure; they teach which are hard
    site_elements: Collection[int] = ()  # of a target of sites: atomic numbers on the labelled training sites
    groups: Ints | None = None  # (n,) of a target of sites: the host of each held-out site, whose errors are alike
    geometry: StructureGeometry | None = None  # of the n held-out structures or sites
    training_geometry: StructureGeometry | None = None  # of the m training structures or sites


def fit_domain(embedding: npt.ArrayLike, data: CalibrationData) -> Domain:
    """Learn the domain of a training set; the limits are those of the held-out structures, embedded as (n, F).

    Contacts and volumes are part of it where the graphs tell them.
    """
    geometry = None
    if data.geometry is not None and data.training_geometry is not None and data.training_geometry.pair.size:
        geometry = GeometryDomain.fit(
            data.training_geometry, data.training_composition, data.geometry, data.composition
        )
    return Domain.fit(
        data.training_embedding,
        embedding,
        elements=set().union(*elements_of(data.training_composition)),
        site_elements=data.site_elements,
        geometry=geometry,
    )


def fit_held_out(
    domain: Domain, embedding: npt.ArrayLike, epistemic: Floats | None, data: CalibrationData
) -> HeldOutSignals:
    """Learn what the domain and the spread of the members, (n,), say of most held-out structures, embedded as (n, F).

    The spread is None of one member.
    """
    verdicts = domain.check(
        embedding,
        elements=elements_of(data.composition),
        geometry=data.geometry,
        signals=domain.signals(data.geometry, data.composition),
    )
    return HeldOutSignals.fit([verdict.score for verdict in verdicts], epistemic)


class Calibration(Protocol):
    """How the outputs of a model's members become predictions with std, interval (or set of classes) and domain."""

    @property
    def domain(self) -> Domain:
        """Domain of what the model was trained on."""

    @property
    def held_out(self) -> HeldOutSignals | None:
        """Signals that most held-out structures stay below; None of models made before batches were compared."""

    @classmethod
    def fit(cls, outputs: MemberOutputs, data: CalibrationData, *, level: float = 0.9) -> "Self":
        """Calibrate on what the members predict for held-out data; ``level`` is the nominal coverage of the interval.

        Raises
        ------
        ValueError
            If there are too few held-out samples.
        """

    @classmethod
    def uncalibrated(cls, outputs: MemberOutputs) -> CalibratedPrediction:
        """Predict without any calibration."""

    def apply(
        self,
        outputs: MemberOutputs,
        composition: npt.ArrayLike,
        site_numbers: Ints | None = None,
        geometry: StructureGeometry | None = None,
        population: Population = "known",
    ) -> CalibratedPrediction:
        """Predict with atomic fractions (n, 101), those of the host for sites; ``site_numbers`` (n,) is on the site.

        Without ``geometry`` contacts and volumes are not checked.
        """

    def reuse(self, outputs: MemberOutputs, data: CalibrationData) -> "tuple[Self, float]":
        """Adapt the calibration to a tuned model with too few labels for another.

        Returns the calibration, in whose domain the elements of the tuned model's training set are, and the factor by
        which its std is larger. ValueError if the calibration does not fit the tuned model.
        """

    def to_config(self) -> dict[str, object]:
        """Return the part that goes into ``config.json``."""

    def arrays(self) -> dict[str, AnyArray]:
        """Return the part that goes into the safetensors file."""

    @classmethod
    def from_files(cls, config: Mapping[str, object], arrays: Mapping[str, npt.ArrayLike]) -> "Self":
        """Invert :meth:`to_config` and :meth:`arrays`."""
