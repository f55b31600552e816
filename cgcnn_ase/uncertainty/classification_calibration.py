"""The calibration of a classification: temperature, sets of classes, and the domain."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from cgcnn_ase.core.arrays import AnyArray, Floats, Ints
from cgcnn_ase.uncertainty.conformal import HeldOutSignals, conformal_quantile
from cgcnn_ase.uncertainty.contacts import StructureGeometry
from cgcnn_ase.uncertainty.domain import Domain, elements_of
from cgcnn_ase.uncertainty.protocol import (
    CalibratedPrediction,
    CalibrationData,
    MemberOutputs,
    Population,
    fit_domain,
    fit_held_out,
)

# temperatures that are tried
_COLDEST, _HOTTEST = 0.05, 20.0
MIN_SAMPLES = 20


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
    threshold: float  # q
    domain: Domain
    held_out: HeldOutSignals | None = None  # None of models made before batches were compared

    @classmethod
    def fit(cls, outputs: MemberOutputs, data: CalibrationData, *, level: float = 0.9) -> "ClassificationCalibration":
        """Calibrate on held-out data: outputs and classes; of the training set embeddings and compositions count."""
        from scipy.optimize import minimize_scalar  # slow to import, and predictions do without
        from scipy.special import logsumexp

        x, y = _logits(outputs), np.asarray(data.labels).astype(int)
        if y.size < MIN_SAMPLES:
            raise ValueError(f"calibration needs at least {MIN_SAMPLES} held-out samples, got {y.size}")
        domain = fit_domain(outputs.embedding.numpy(), data)

        def nll(log_t: float) -> float:
            log_p = logsumexp(x / np.exp(log_t) - logsumexp(x / np.exp(log_t), axis=2, keepdims=True), axis=0)
            return float(np.log(len(x)) - log_p[np.arange(y.size), y].mean())

        best = minimize_scalar(nll, bounds=(np.log(_COLDEST), np.log(_HOTTEST)), method="bounded")
        temperature = float(np.exp(best.x))
        p = tempered(x, temperature)
        of_truth = p.mean(axis=0)[np.arange(y.size), y]
        threshold = conformal_quantile(1.0 - of_truth, level)
        return cls(
            temperature=temperature,
            level=level,
            threshold=threshold,
            domain=domain,
            held_out=fit_held_out(domain, outputs.embedding.numpy(), _prediction(p).epistemic, data),
        )

    @classmethod
    def uncalibrated(cls, outputs: MemberOutputs) -> CalibratedPrediction:
        """Predict with the probabilities as the members give them, and their spread for the std."""
        return _prediction(tempered(_logits(outputs), 1.0))

    def apply(
        self,
        outputs: MemberOutputs,
        composition: npt.ArrayLike,
        site_numbers: Ints | None = None,
        geometry: StructureGeometry | None = None,
        population: Population = "known",
    ) -> CalibratedPrediction:
        """Predict with calibrated probabilities, set of classes and domain, the same for both populations."""
        del population
        raw = _prediction(tempered(_logits(outputs), self.temperature))
        p = raw.members.mean(axis=0)
        spoken = p[:, 1] if p.shape[1] == 2 else p.max(axis=1)
        inside = p >= 1.0 - self.threshold
        inside[np.arange(len(p)), p.argmax(axis=1)] = True
        last = inside.shape[1] - 1 - inside[:, ::-1].argmax(axis=1)
        embedding, elements = outputs.embedding.numpy(), elements_of(composition)
        return raw._replace(
            std=np.sqrt(spoken * (1.0 - spoken)),
            lower=inside.argmax(axis=1).astype(float),
            upper=last.astype(float),
            population="known",
            domain=self.domain.check(
                embedding,
                elements=elements,
                site_numbers=site_numbers,
                geometry=geometry,
                signals=self.domain.signals(geometry, composition),
            ),
        )

    def reuse(self, outputs: MemberOutputs, data: CalibrationData) -> "tuple[ClassificationCalibration, float]":
        """Refuse (ValueError): whether a temperature still fits cannot be told from a few classes."""
        del outputs, data
        raise ValueError("the calibration of a classification is not kept")

    def to_config(self) -> dict[str, object]:
        """Return the part that goes into ``config.json``."""
        held_out = {} if self.held_out is None else {"held_out": self.held_out.model_dump()}
        return {"temperature": self.temperature, "level": self.level, "threshold": self.threshold, **held_out}

    def arrays(self) -> dict[str, AnyArray]:
        """Return the part that goes into the safetensors file."""
        return {**self.domain.arrays()}

    @classmethod
    def from_files(
        cls, config: Mapping[str, object], arrays: Mapping[str, npt.ArrayLike]
    ) -> "ClassificationCalibration":
        """Invert :meth:`to_config` and :meth:`arrays`."""
        known = {name: value for name, value in config.items() if name != "held_out"}
        numbers = TypeAdapter(dict[str, float]).validate_python(known)
        held_out = HeldOutSignals.model_validate(config["held_out"]) if "held_out" in config else None
        return cls(**numbers, domain=Domain.from_arrays(arrays), held_out=held_out)


def _logits(outputs: MemberOutputs) -> Floats:
    assert outputs.logits is not None
    logits: Floats = outputs.logits.double().numpy()
    return logits


def _prediction(members: Floats) -> CalibratedPrediction:
    """From the probabilities of each member (M, B, K)."""
    p = members.mean(axis=0)
    value = p[:, 1] if p.shape[1] == 2 else p.argmax(axis=1).astype(float)
    spread = np.take_along_axis(members.std(axis=0), p.argmax(axis=1)[:, None], axis=1)[:, 0]
    epistemic = spread if len(members) > 1 else None
    return CalibratedPrediction(value, members, epistemic, epistemic=epistemic, probabilities=p)


def tempered(logits: Floats, temperature: float) -> Floats:
    """softmax(logits / T) of each member: (M, B, K) -> (M, B, K)."""
    from scipy.special import softmax

    p: Floats = softmax(logits / temperature, axis=2)
    return p
