"""All that a classification was calibrated with: temperature, sets of classes, and the domain."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cgcnn_ase.core.arrays import Floats, Ints
from cgcnn_ase.uncertainty.conformal import conformal_quantile
from cgcnn_ase.uncertainty.domain import Domain, DomainVerdict, elements_of

#: temperatures that are tried
_COLDEST, _HOTTEST = 0.05, 20.0
MIN_SAMPLES = 20


class ClassJudgement(NamedTuple):
    """What is said of each crystal."""

    probabilities: Floats  #: (B, K)
    std: Floats  #: (B,) sqrt(p (1 - p)) of the class that is spoken of: one standard deviation of right or wrong
    lower: Floats  #: (B,) first class of the set that holds the true one with probability ``level``
    upper: Floats  #: (B,) last class of it
    domain: list[DomainVerdict]


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassificationCalibration:
    r"""Temperature, conformal sets and domain of a classification.

    The probabilities are the mean over the members of softmax(logits / T), with the temperature T of least negative
    log likelihood on held-out data (Guo et al., arXiv:1706.04599, after the pooling of the members: Rahaman and
    Thiery, arXiv:2007.08792). The set of classes holds each whose probability is at least 1 - q, with q the conformal
    quantile of one minus the true class's probability (Sadinle et al., J. Am. Stat. Assoc. 114, 223); where that is
    none it holds the most probable one.
    """

    temperature: float
    level: float
    threshold: float  #: q
    domain: Domain

    @classmethod
    def fit(
        cls,
        logits: npt.ArrayLike,
        labels: npt.ArrayLike,
        *,
        embedding: npt.ArrayLike,
        training_embedding: npt.ArrayLike,
        training_composition: npt.ArrayLike,
        site_elements: Collection[int] = (),
        level: float = 0.9,
    ) -> "ClassificationCalibration":
        """Calibrate on held-out data.

        Parameters
        ----------
        logits, labels, embedding
            (M, n, K) outputs of the members, (n,) classes and embeddings of the held-out (val) set.
        training_embedding, training_composition
            (n, F) embeddings and (n, 101) atomic fractions of the training set.
        site_elements
            Of a target of sites: atomic numbers on the labelled sites of the training set.

        Raises
        ------
        ValueError
            If there are fewer than 20 held-out samples.
        """
        from scipy.optimize import minimize_scalar  # slow to import, and predictions do without
        from scipy.special import logsumexp

        x, y = np.asarray(logits, dtype=float), np.asarray(labels).astype(int)
        if y.size < MIN_SAMPLES:
            raise ValueError(f"calibration needs at least {MIN_SAMPLES} held-out samples, got {y.size}")
        elements = set().union(*elements_of(training_composition))
        domain = Domain.fit(training_embedding, embedding, elements=elements, site_elements=site_elements)

        def nll(log_t: float) -> float:
            log_p = logsumexp(x / np.exp(log_t) - logsumexp(x / np.exp(log_t), axis=2, keepdims=True), axis=0)
            return float(np.log(len(x)) - log_p[np.arange(y.size), y].mean())

        result = minimize_scalar(nll, bounds=(np.log(_COLDEST), np.log(_HOTTEST)), method="bounded")
        temperature = float(np.exp(result.x))
        of_truth = tempered(x, temperature).mean(axis=0)[np.arange(y.size), y]
        threshold = conformal_quantile(1.0 - of_truth, level)
        return cls(temperature=temperature, level=level, threshold=threshold, domain=domain)

    def apply(
        self,
        logits: npt.ArrayLike,
        embedding: npt.ArrayLike,
        composition: npt.ArrayLike,
        site_numbers: Ints | None = None,
    ) -> ClassJudgement:
        """Probabilities, set of classes and domain of each crystal, from (M, B, K), (B, F) and (B, 101).

        Of sites, the atomic fractions are those of their hosts, ``site_numbers`` (B,) what is on the sites.
        """
        p = tempered(np.asarray(logits, dtype=float), self.temperature).mean(axis=0)
        spoken = p[:, 1] if p.shape[1] == 2 else p.max(axis=1)
        inside = p >= 1.0 - self.threshold
        inside[np.arange(len(p)), p.argmax(axis=1)] = True
        last = inside.shape[1] - 1 - inside[:, ::-1].argmax(axis=1)
        return ClassJudgement(
            probabilities=p,
            std=np.sqrt(spoken * (1.0 - spoken)),
            lower=inside.argmax(axis=1).astype(float),
            upper=last.astype(float),
            domain=self.domain.check(embedding, elements=elements_of(composition), site_numbers=site_numbers),
        )

    def to_config(self) -> dict[str, Any]:
        """The part that goes into ``config.json``."""
        return {"temperature": self.temperature, "level": self.level, "threshold": self.threshold}

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The part that goes into the safetensors file."""
        return dict(self.domain.arrays())

    @classmethod
    def from_files(cls, config: Mapping[str, Any], arrays: Mapping[str, npt.ArrayLike]) -> "ClassificationCalibration":
        """The inverse of :meth:`to_config` and :meth:`arrays`."""
        return cls(**config, domain=Domain.from_arrays(arrays))


def tempered(logits: Floats, temperature: float) -> Floats:
    """softmax(logits / T) of each member: (M, B, K) -> (M, B, K)."""
    from scipy.special import softmax

    p: Floats = softmax(logits / temperature, axis=2)
    return p
