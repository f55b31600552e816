"""Calibration as a protocol: fit on held-out data, apply to outputs, write and read its files, whatever the task."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy.typing as npt

from cgcnn_ase.core.arrays import AnyArray, Floats, Ints
from cgcnn_ase.uncertainty.domain import Domain, DomainVerdict
from cgcnn_ase.uncertainty.estimators import MemberOutputs

if TYPE_CHECKING:
    from typing_extensions import Self


class CalibratedPrediction(NamedTuple):
    """Predictions of n structures (or sites) with their uncertainty, in what the network learned.

    Without calibration there are no interval and no domain, and the std is the spread of the members.
    """

    value: Floats  # (n,) mean of the members; the probability of class 1 of two, else the most probable class
    members: Floats  # (M, n) of each member alone; of a classification (M, n, K) probabilities
    std: Floats | None  # (n,); of a classification sqrt(p (1 - p)), one standard deviation of right or wrong
    lower: Floats | None = None  # (n,) end of the interval, or first class of the set that holds the true one
    upper: Floats | None = None  # (n,) end of the interval, or last class of the set
    epistemic: Floats | None = None  # (n,) spread of the members; None of one
    aleatoric: Floats | None = None  # (n,) error that the members expect
    domain: list[DomainVerdict] | None = None
    probabilities: Floats | None = None  # (n, K) of each class


class Calibration(Protocol):
    """How the outputs of a model's members become predictions with std, interval (or set of classes) and domain."""

    @property
    def domain(self) -> Domain:
        """Domain of what the model was trained on."""

    @classmethod
    def fit(
        cls,
        outputs: MemberOutputs,
        labels: npt.ArrayLike,
        *,
        composition: npt.ArrayLike,
        training_embedding: npt.ArrayLike,
        training_composition: npt.ArrayLike,
        training_errors: Floats | None = None,
        site_elements: Collection[int] = (),
        groups: Ints | None = None,
        level: float = 0.9,
    ) -> "Self":
        """Calibrate on held-out data.

        Parameters
        ----------
        outputs, labels, composition
            Of the n structures (or sites) of the held-out (val) set: what the members predict, true values in what the
            network learned (n,), atomic fractions (n, 101), those of the host for sites.
        training_embedding, training_composition
            (m, F) embeddings and (m, 101) atomic fractions of the training set.
        training_errors
            (m,) errors in the training set of networks that had not seen the structure.
        site_elements
            Of a target of sites: atomic numbers on the labelled sites of the training set.
        groups
            (n,) of a target of sites: the host of each held-out site, whose errors are alike.
        level
            Nominal coverage of the interval.

        Raises
        ------
        ValueError
            If there are too few held-out samples.
        """

    @classmethod
    def uncalibrated(cls, outputs: MemberOutputs) -> CalibratedPrediction:
        """Predict without any calibration."""

    def apply(
        self, outputs: MemberOutputs, composition: npt.ArrayLike, site_numbers: Ints | None = None
    ) -> CalibratedPrediction:
        """Predict with atomic fractions (n, 101), those of the host for sites; ``site_numbers`` (n,) is on the site."""

    def reuse(
        self,
        outputs: MemberOutputs,
        labels: npt.ArrayLike,
        *,
        composition: npt.ArrayLike,
        training_composition: npt.ArrayLike,
    ) -> "tuple[Self, float]":
        """Adapt the calibration to a tuned model with too few labels for another; arguments as of :meth:`fit`.

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
