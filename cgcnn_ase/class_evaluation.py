"""Hold a classification against known classes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cgcnn_ase.nn.model import CrystalModel, MemberOutputs
from cgcnn_ase.uncertainty.class_trust import ClassTrust, tempered

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ClassEvaluation:
    """Probabilities and true classes of one set; without calibration there are no sets and no word on the domain."""

    ids: list[str]
    labels: npt.NDArray[np.int64]  #: (n,)
    probabilities: Floats  #: (n, K)
    members: Floats  #: (M, n, K) of each member alone
    lower: Floats | None  #: first and
    upper: Floats | None  #: last class of the conformal set
    in_domain: npt.NDArray[np.bool_] | None

    def metrics(self) -> dict[str, Any]:
        """Figures over the whole set: accuracy, AUC, F1, likelihood, calibration error, confusion matrix.

        The AUC of several classes is the mean of each against the rest; None where a class does not occur. F1 is that
        of class 1 of two, else the mean over the classes.
        """
        from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

        y, p = self.labels, self.probabilities
        n_classes = p.shape[1]
        said = p.argmax(axis=1)
        found: dict[str, Any] = {
            "n": len(y),
            "accuracy": float(accuracy_score(y, said)),
            "auc": auc(y, p),
            "f1": float(f1_score(y, said, average="binary" if n_classes == 2 else "macro", zero_division=0.0)),
            "nll": float(-np.log(np.maximum(p[np.arange(len(y)), y], 1e-12)).mean()),
            "ece": calibration_error(y, p),
            "confusion": confusion_matrix(y, said, labels=list(range(n_classes))).tolist(),
        }
        if self.lower is not None and self.upper is not None:
            inside = (self.lower <= y) & (y <= self.upper)
            found |= {"coverage": float(inside.mean()), "set_size": float((self.upper - self.lower + 1).mean())}
        return found

    def summary(self) -> dict[str, Any]:
        """Metrics of the ensemble, and the mean and range of its members' AUC."""
        found = self.metrics()
        single = [auc(self.labels, p) for p in self.members]
        known = [value for value in single if value is not None]
        if known:
            found |= {
                "member_auc_mean": float(np.mean(known)),
                "member_auc_min": min(known),
                "member_auc_max": max(known),
            }
        return found if self.in_domain is None else found | {"in_domain_fraction": float(self.in_domain.mean())}

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
    fractions: npt.NDArray[np.float32],
    site_numbers: npt.NDArray[np.int64] | None = None,
) -> ClassEvaluation:
    """Put a model's outputs beside the true classes."""
    assert out.logits is not None
    logits = out.logits.double().numpy()
    y = labels.astype(np.int64)
    if not isinstance(model.trust, ClassTrust):
        members = tempered(logits, 1.0)
        return ClassEvaluation(ids, y, members.mean(axis=0), members, None, None, None)
    judged = model.trust.judge(logits, out.embedding.numpy(), fractions, site_numbers)
    members = tempered(logits, model.trust.temperature)
    in_domain = np.array([verdict.in_domain for verdict in judged.domain])
    return ClassEvaluation(ids, y, judged.probabilities, members, judged.lower, judged.upper, in_domain)


def auc(labels: npt.NDArray[np.int64], probabilities: Floats) -> float | None:
    """Area under the receiver operating characteristic; None where a class does not occur."""
    from sklearn.metrics import roc_auc_score

    n_classes = probabilities.shape[1]
    if len(np.unique(labels)) < n_classes:
        return None
    if n_classes == 2:
        return float(roc_auc_score(labels, probabilities[:, 1]))
    return float(roc_auc_score(labels, probabilities, multi_class="ovr", labels=list(range(n_classes))))


def calibration_error(labels: npt.NDArray[np.int64], probabilities: Floats, *, n_bins: int = 10) -> float:
    """Expected calibration error: mean gap between stated probability and frequency, bins of equal count, all classes.

    Over (sample, class) pairs; Naeini et al. (AAAI 2015) with bins of equal count (Nixon et al., arXiv:1904.01685).
    """
    p = probabilities.ravel()
    hit = (labels[:, None] == np.arange(probabilities.shape[1])).ravel()
    bins = np.array_split(np.argsort(p, kind="stable"), min(n_bins, len(p)))
    return float(sum(len(b) * abs(p[b].mean() - hit[b].mean()) for b in bins) / len(p))
