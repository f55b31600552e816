"""Hold a model against known values: predictions of a data set, metrics, and what the metrics are of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from cgcnn_ase.core.arrays import Bools, Floats, Floats32, Ints
from cgcnn_ase.data.graph_store import GraphShards, GraphStore
from cgcnn_ase.data.splits import compositions_of, site_numbers_of
from cgcnn_ase.models.crystal_model import CrystalModel, MemberOutputs
from cgcnn_ase.nn.messages import Engine
from cgcnn_ase.uncertainty.classification_calibration import ClassificationCalibration, tempered
from cgcnn_ase.uncertainty.estimators import Estimate, combine
from cgcnn_ase.uncertainty.metrics import evaluate
from cgcnn_ase.uncertainty.regression_calibration import Calibration

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ClassEvaluation:
    """Probabilities and true classes of one set; without calibration there are no sets and no word on the domain."""

    ids: list[str]
    labels: Ints  #: (n,)
    probabilities: Floats  #: (n, K)
    members: Floats  #: (M, n, K) of each member alone
    lower: Floats | None  #: first and
    upper: Floats | None  #: last class of the conformal set
    in_domain: Bools | None

    def metrics(self) -> dict[str, Any]:
        """Figures over the whole set: accuracy, AUC, F1, likelihood, calibration error, confusion matrix.

        The AUC of several classes is the mean of each against the rest; None where a class does not occur. F1 is that
        of class 1 of two, else the mean over the classes.
        """
        from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

        y, p = self.labels, self.probabilities
        n_classes = p.shape[1]
        predicted = p.argmax(axis=1)
        result: dict[str, Any] = {
            "n": len(y),
            "accuracy": float(accuracy_score(y, predicted)),
            "auc": auc(y, p),
            "f1": float(f1_score(y, predicted, average="binary" if n_classes == 2 else "macro", zero_division=0.0)),
            "nll": float(-np.log(np.maximum(p[np.arange(len(y)), y], 1e-12)).mean()),
            "ece": calibration_error(y, p),
            "confusion": confusion_matrix(y, predicted, labels=list(range(n_classes))).tolist(),
        }
        if self.lower is not None and self.upper is not None:
            inside = (self.lower <= y) & (y <= self.upper)
            result |= {"coverage": float(inside.mean()), "set_size": float((self.upper - self.lower + 1).mean())}
        return result

    def summary(self) -> dict[str, Any]:
        """Metrics of the ensemble, and the mean and range of its members' AUC."""
        result = self.metrics()
        single = [auc(self.labels, p) for p in self.members]
        known = [value for value in single if value is not None]
        if known:
            result |= {
                "member_auc_mean": float(np.mean(known)),
                "member_auc_min": min(known),
                "member_auc_max": max(known),
            }
        return result if self.in_domain is None else result | {"in_domain_fraction": float(self.in_domain.mean())}

    def to_frame(self) -> "pd.DataFrame":
        """Columns id, target, prediction (the most probable class), probability of each class, lower, upper, ..."""
        import pandas as pd

        columns = {f"probability_{k}": self.probabilities[:, k] for k in range(self.probabilities.shape[1])}
        return pd.DataFrame(
            {
                "id": self.ids,
                "target": self.labels,
                "prediction": self.probabilities.argmax(axis=1),
                **columns,
                "lower": self.lower,
                "upper": self.upper,
                "in_domain": self.in_domain,
            }
        )


def evaluate_classes(
    model: CrystalModel,
    out: MemberOutputs,
    ids: list[str],
    labels: Floats,
    fractions: Floats32,
    site_numbers: Ints | None = None,
) -> ClassEvaluation:
    """Put a model's outputs beside the true classes."""
    assert out.logits is not None
    logits = out.logits.double().numpy()
    y = labels.astype(np.int64)
    if not isinstance(model.trust, ClassificationCalibration):
        members = tempered(logits, 1.0)
        return ClassEvaluation(ids, y, members.mean(axis=0), members, None, None, None)
    judged = model.trust.apply(logits, out.embedding.numpy(), fractions, site_numbers)
    members = tempered(logits, model.trust.temperature)
    in_domain = np.array([verdict.in_domain for verdict in judged.domain])
    return ClassEvaluation(ids, y, judged.probabilities, members, judged.lower, judged.upper, in_domain)


def auc(labels: Ints, probabilities: Floats) -> float | None:
    """Area under the receiver operating characteristic; None where a class does not occur."""
    from sklearn.metrics import roc_auc_score

    n_classes = probabilities.shape[1]
    if len(np.unique(labels)) < n_classes:
        return None
    if n_classes == 2:
        return float(roc_auc_score(labels, probabilities[:, 1]))
    return float(roc_auc_score(labels, probabilities, multi_class="ovr", labels=list(range(n_classes))))


def calibration_error(labels: Ints, probabilities: Floats, *, n_bins: int = 10) -> float:
    """Expected calibration error: mean gap between stated probability and frequency, bins of equal count, all classes.

    Over (sample, class) pairs; Naeini et al. (AAAI 2015) with bins of equal count (Nixon et al., arXiv:1904.01685).
    """
    p = probabilities.ravel()
    hit = (labels[:, None] == np.arange(probabilities.shape[1])).ravel()
    bins = np.array_split(np.argsort(p, kind="stable"), min(n_bins, len(p)))
    return float(sum(len(b) * abs(p[b].mean() - hit[b].mean()) for b in bins) / len(p))


_BATCH = 128

#: groups of equal count for the calibration error, fewer where there are fewer predictions
_BINS = 10


@dataclass(frozen=True)
class RegressionEvaluation:
    """Predictions and true values of one set, in what the network learned (log10 for the moduli).

    Without calibration there are no intervals and no word on the domain, and the std is the raw one of the members; a
    single network that predicts no error of its own has none.
    """

    ids: list[str]
    target: Floats
    members: Floats  #: (M, n)
    estimate: Estimate
    std: Floats | None
    lower: Floats | None
    upper: Floats | None
    in_domain: Bools | None

    def metrics(self) -> dict[str, Any]:
        """Accuracy over the whole set, and calibration where there is a std."""
        y, mean = self.target, self.estimate.mean
        if self.std is not None:
            return evaluate(y, mean, self.std, self.lower, self.upper, n_bins=min(_BINS, len(y))).as_dict()
        mse, variance = float(np.mean((y - mean) ** 2)), float(np.var(y))
        return {
            "n": len(y),
            "mae": float(np.mean(np.abs(y - mean))),
            "rmse": mse**0.5,
            "r2": 1 - mse / variance if variance > 0 else None,
        }

    def summary(self) -> dict[str, Any]:
        """Metrics of the ensemble, and the mean and range of its members' errors."""
        single = np.abs(self.members - self.target).mean(axis=1)
        result = self.metrics() | {
            "member_mae_mean": float(single.mean()),
            "member_mae_min": float(single.min()),
            "member_mae_max": float(single.max()),
        }
        return result if self.in_domain is None else result | {"in_domain_fraction": float(self.in_domain.mean())}

    def to_frame(self) -> "pd.DataFrame":
        """Columns id, target, prediction, std, lower, upper, in_domain; empty where nothing is known."""
        import pandas as pd

        return pd.DataFrame(
            {
                "id": self.ids,
                "target": self.target,
                "prediction": self.estimate.mean,
                "std": self.std,
                "lower": self.lower,
                "upper": self.upper,
                "in_domain": self.in_domain,
            }
        )


def embeddings_of(
    model: CrystalModel, graphs: GraphStore | GraphShards, rows: Ints, *, engine: Engine = "auto"
) -> list[torch.Tensor]:
    """Crystal (or site) embeddings of each member for the given rows of a store, in their order."""
    with torch.inference_mode():
        parts = [model.pooled(graphs.batch(rows[k : k + _BATCH].tolist()), engine) for k in range(0, len(rows), _BATCH)]
    return [torch.cat(parts_of_member) for parts_of_member in zip(*parts, strict=True)]


def outputs_of(model: CrystalModel, embeddings: list[torch.Tensor], *, n_dropout: int | None = None) -> MemberOutputs:
    """Outputs of all members, or of so many samples of each, from their embeddings."""
    with torch.inference_mode():
        return model.read(embeddings) if n_dropout is None else model.sample_read(embeddings, n_dropout)


def evaluate_model(
    model: CrystalModel,
    graphs: GraphStore | GraphShards,
    rows: Ints,
    ids: Sequence[str],
    targets: npt.ArrayLike,
    *,
    engine: Engine = "auto",
    embeddings: list[torch.Tensor] | None = None,
) -> "RegressionEvaluation | ClassEvaluation":
    """Predict the rows of a store and put the predictions beside the true values.

    Parameters
    ----------
    ids, targets
        Of these rows (or of all their sites), the targets in the target's own unit. Rows without a label (NaN) are
        left out.
    embeddings : list of Tensor, optional
        Those of these rows, if they are known already.

    Raises
    ------
    ValueError
        If no row has a label.
    """
    values = np.asarray(targets, dtype=float)
    labelled = np.isfinite(values)
    if not labelled.any():
        raise ValueError(f"no structure has a known {model.target.name}")
    known = embeddings_of(model, graphs, rows, engine=engine) if embeddings is None else embeddings
    out = outputs_of(model, [embedding[torch.from_numpy(labelled)] for embedding in known])
    of_sites = model.target.level == "site"
    fractions = compositions_of(graphs, rows, of_sites=of_sites)[labelled]
    site_numbers = site_numbers_of(graphs, rows)[labelled] if of_sites else None
    names = [name for name, has in zip(ids, labelled.tolist(), strict=True) if has]
    if model.target.task == "classification":
        return evaluate_classes(model, out, names, values[labelled], fractions, site_numbers)
    return _evaluate_values(model, out, names, values[labelled], fractions, site_numbers)


def _evaluate_values(
    model: CrystalModel,
    out: MemberOutputs,
    ids: list[str],
    values: Floats,
    fractions: Floats32,
    site_numbers: Ints | None,
) -> RegressionEvaluation:
    estimate = combine(out.values.numpy(), None if out.stds is None else out.stds.numpy())
    learned = model.target.forward(torch.from_numpy(values)).numpy()
    members = out.values.double().numpy()
    if model.trust is None:
        return RegressionEvaluation(ids, learned, members, estimate, _raw_std(estimate, len(members)), None, None, None)
    assert isinstance(model.trust, Calibration)
    judged = model.trust.apply(estimate, out.embedding.numpy(), fractions, site_numbers)
    in_domain = np.array([verdict.in_domain for verdict in judged.domain])
    lower, upper = (model.target.clamp(torch.from_numpy(end)).numpy() for end in (judged.lower, judged.upper))
    return RegressionEvaluation(ids, learned, members, estimate, judged.std, lower, upper, in_domain)


def _raw_std(estimate: Estimate, n_members: int) -> Floats | None:
    """What the members themselves say of their error, not calibrated."""
    parts = [estimate.epistemic] if n_members > 1 else []
    if estimate.aleatoric is not None:
        parts.append(estimate.aleatoric)
    if not parts:
        return None
    return np.asarray(np.maximum(np.sqrt(np.sum(np.square(parts), axis=0)), 1e-12))
