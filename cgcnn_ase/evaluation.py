"""Hold a model against known values: predictions of a data set, metrics, and what the metrics are of."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from cgcnn_ase.data.graph_store import GraphStore
from cgcnn_ase.graphs.crystal_graph import composition
from cgcnn_ase.nn.messages import Engine
from cgcnn_ase.nn.model import CrystalModel, MemberOutputs
from cgcnn_ase.targets import TargetSpec
from cgcnn_ase.uncertainty.estimators import Estimate, combine
from cgcnn_ase.uncertainty.metrics import evaluate

if TYPE_CHECKING:
    import pandas as pd

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


def outputs_of(
    model: CrystalModel,
    graphs: GraphStore,
    rows: npt.NDArray[np.int64],
    *,
    engine: Engine = "auto",
    n_dropout: int | None = None,
) -> MemberOutputs:
    """Outputs of all members, or of so many samples of each, for the given rows of a store, in their order."""
    parts = list(_outputs(model, graphs, rows, engine, n_dropout))
    stds = [part.stds for part in parts if part.stds is not None]
    return MemberOutputs(
        torch.cat([part.values for part in parts], dim=1),
        torch.cat(stds, dim=1) if len(stds) == len(parts) else None,
        torch.cat([part.embedding for part in parts]),
    )


def _outputs(
    model: CrystalModel, graphs: GraphStore, rows: npt.NDArray[np.int64], engine: Engine, n_dropout: int | None
) -> Iterator[MemberOutputs]:
    for k in range(0, len(rows), _BATCH):
        graph = graphs.batch(rows[k : k + _BATCH].tolist())
        with torch.inference_mode():
            yield model(graph, engine) if n_dropout is None else model.sample(graph, n_dropout, engine=engine)


def evaluate_model(
    model: CrystalModel,
    graphs: GraphStore,
    rows: npt.NDArray[np.int64],
    ids: Sequence[str],
    targets: npt.ArrayLike,
    *,
    engine: Engine = "auto",
) -> Evaluation:
    """Predict the rows of a store and put the predictions beside the true values.

    Parameters
    ----------
    ids, targets
        Of these rows, the targets in the target's own unit.
    """
    out = outputs_of(model, graphs, rows, engine=engine)
    estimate = combine(out.values.numpy(), None if out.stds is None else out.stds.numpy())
    learned = model.target.forward(torch.as_tensor(np.asarray(targets, dtype=float))).numpy()
    values = out.values.double().numpy()
    if model.trust is None:
        return Evaluation(list(ids), learned, values, estimate, _raw_std(estimate, len(values)), None, None, None)
    judged = model.trust.judge(estimate, out.embedding.numpy(), compositions_of(graphs, rows))
    in_domain = np.array([verdict.in_domain for verdict in judged.domain])
    return Evaluation(list(ids), learned, values, estimate, judged.std, judged.lower, judged.upper, in_domain)


def _raw_std(estimate: Estimate, n_members: int) -> Floats | None:
    """What the members themselves say of their error, not calibrated."""
    parts = [estimate.epistemic] if n_members > 1 else []
    if estimate.aleatoric is not None:
        parts.append(estimate.aleatoric)
    if not parts:
        return None
    return np.asarray(np.maximum(np.sqrt(np.sum(np.square(parts), axis=0)), 1e-12))


def draw(evaluation: Evaluation, target: TargetSpec, folder: Path) -> None:
    """Write ``parity.png`` and, where there is a std, ``calibration.png``; without matplotlib a warning."""
    if find_spec("matplotlib") is None:
        warnings.warn('no pictures: matplotlib is missing; `pip install "cgcnn-ase[plots]"`', stacklevel=2)
        return
    from cgcnn_ase import plots

    y, mean, std = evaluation.target, evaluation.estimate.mean, evaluation.std
    name, unit = target.name.replace("_", " "), target.learned_unit
    plots.save(plots.parity(y, mean, std, name=name, unit=unit), folder / "parity.png")
    if std is not None:
        bins = min(_BINS, len(y))
        figure = plots.summary(y, mean, std, evaluation.lower, evaluation.upper, name=name, unit=unit, n_bins=bins)
        plots.save(figure, folder / "calibration.png")


def compositions_of(graphs: GraphStore, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Atomic fractions in each crystal, (n, 101)."""
    parts = [composition(graphs.batch(rows[k : k + _BATCH].tolist())) for k in range(0, len(rows), _BATCH)]
    return torch.cat(parts).numpy()
