"""Hold a model against known values: predictions of a data set, metrics, and what the metrics are of."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from cgcnn_ase.data.compositions import compositions_of, site_numbers_of
from cgcnn_ase.data.graph_store import GraphStore
from cgcnn_ase.data.shards import GraphShards
from cgcnn_ase.nn.messages import Engine
from cgcnn_ase.nn.model import CrystalModel, MemberOutputs
from cgcnn_ase.targets import TargetSpec
from cgcnn_ase.uncertainty.estimators import Estimate, combine
from cgcnn_ase.uncertainty.metrics import evaluate
from cgcnn_ase.uncertainty.trust import Trust

if TYPE_CHECKING:
    import pandas as pd

    from cgcnn_ase.class_evaluation import ClassEvaluation

Floats = npt.NDArray[np.float64]

_BATCH = 128
#: groups of equal count for the calibration error, fewer where there are fewer predictions
_BINS = 10


@dataclass(frozen=True)
class Evaluation:
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
    in_domain: npt.NDArray[np.bool_] | None

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
        found = self.metrics() | {
            "member_mae_mean": float(single.mean()),
            "member_mae_min": float(single.min()),
            "member_mae_max": float(single.max()),
        }
        return found if self.in_domain is None else found | {"in_domain_fraction": float(self.in_domain.mean())}

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
    model: CrystalModel, graphs: GraphStore | GraphShards, rows: npt.NDArray[np.int64], *, engine: Engine = "auto"
) -> list[torch.Tensor]:
    """Crystal (or site) embeddings of each member for the given rows of a store, in their order."""
    with torch.inference_mode():
        parts = [model.pooled(graphs.batch(rows[k : k + _BATCH].tolist()), engine) for k in range(0, len(rows), _BATCH)]
    return [torch.cat(own) for own in zip(*parts, strict=True)]


def outputs_of(model: CrystalModel, embeddings: list[torch.Tensor], *, n_dropout: int | None = None) -> MemberOutputs:
    """Outputs of all members, or of so many samples of each, from their embeddings."""
    with torch.inference_mode():
        return model.read(embeddings) if n_dropout is None else model.sample_read(embeddings, n_dropout)


def evaluate_model(
    model: CrystalModel,
    graphs: GraphStore | GraphShards,
    rows: npt.NDArray[np.int64],
    ids: Sequence[str],
    targets: npt.ArrayLike,
    *,
    engine: Engine = "auto",
    embeddings: list[torch.Tensor] | None = None,
) -> "Evaluation | ClassEvaluation":
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
    out = outputs_of(model, [own[torch.from_numpy(labelled)] for own in known])
    of_sites = model.target.level == "site"
    fractions = compositions_of(graphs, rows, of_sites=of_sites)[labelled]
    site_numbers = site_numbers_of(graphs, rows)[labelled] if of_sites else None
    names = [name for name, has in zip(ids, labelled.tolist(), strict=True) if has]
    if model.target.task == "classification":
        from cgcnn_ase.class_evaluation import evaluate_classes

        return evaluate_classes(model, out, names, values[labelled], fractions, site_numbers)
    return _evaluate_values(model, out, names, values[labelled], fractions, site_numbers)


def _evaluate_values(
    model: CrystalModel,
    out: MemberOutputs,
    ids: list[str],
    values: Floats,
    fractions: npt.NDArray[np.float32],
    site_numbers: npt.NDArray[np.int64] | None,
) -> Evaluation:
    estimate = combine(out.values.numpy(), None if out.stds is None else out.stds.numpy())
    learned = model.target.forward(torch.from_numpy(values)).numpy()
    members = out.values.double().numpy()
    if model.trust is None:
        return Evaluation(ids, learned, members, estimate, _raw_std(estimate, len(members)), None, None, None)
    assert isinstance(model.trust, Trust)
    judged = model.trust.judge(estimate, out.embedding.numpy(), fractions, site_numbers)
    in_domain = np.array([verdict.in_domain for verdict in judged.domain])
    lower, upper = (model.target.limited(torch.from_numpy(end)).numpy() for end in (judged.lower, judged.upper))
    return Evaluation(ids, learned, members, estimate, judged.std, lower, upper, in_domain)


def _raw_std(estimate: Estimate, n_members: int) -> Floats | None:
    """What the members themselves say of their error, not calibrated."""
    parts = [estimate.epistemic] if n_members > 1 else []
    if estimate.aleatoric is not None:
        parts.append(estimate.aleatoric)
    if not parts:
        return None
    return np.asarray(np.maximum(np.sqrt(np.sum(np.square(parts), axis=0)), 1e-12))


def draw(evaluation: "Evaluation | ClassEvaluation", target: TargetSpec, folder: Path) -> None:
    """Write the pictures of a target; without matplotlib a warning.

    ``parity.png`` and, where there is a std, ``calibration.png`` of a regression; ``confusion.png`` and
    ``reliability.png`` of a classification.
    """
    if find_spec("matplotlib") is None:
        warnings.warn('no pictures: matplotlib is missing; `pip install "cgcnn-ase[plots]"`', stacklevel=2)
        return
    from cgcnn_ase import class_plots, plots

    name, unit = target.name.replace("_", " "), target.learned_unit
    if not isinstance(evaluation, Evaluation):
        labels, p = evaluation.labels, evaluation.probabilities
        plots.save(class_plots.confusion(labels, p.argmax(axis=1), name=name), folder / "confusion.png")
        plots.save(class_plots.reliability(labels, p, name=name), folder / "reliability.png")
        return
    y, mean, std = evaluation.target, evaluation.estimate.mean, evaluation.std
    plots.save(plots.parity(y, mean, std, name=name, unit=unit), folder / "parity.png")
    if std is not None:
        bins = min(_BINS, len(y))
        figure = plots.summary(y, mean, std, evaluation.lower, evaluation.upper, name=name, unit=unit, n_bins=bins)
        plots.save(figure, folder / "calibration.png")
