"""Hold a model against known values: predictions of a data set, metrics, and what the metrics are of."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from cgcnn_ase.data.graph_store import GraphStore
from cgcnn_ase.nn.messages import Engine
from cgcnn_ase.nn.model import CrystalModel, MemberOutputs
from cgcnn_ase.uncertainty.estimators import Estimate, combine
from cgcnn_ase.uncertainty.metrics import UncertaintyMetrics, evaluate

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]

_BATCH = 128


@dataclass(frozen=True)
class Evaluation:
    """Predictions and true values of one set, in what the network learned (log10 for the moduli)."""

    ids: list[str]
    target: Floats
    members: Floats  #: (M, n)
    estimate: Estimate
    std: Floats
    lower: Floats
    upper: Floats
    in_domain: npt.NDArray[np.bool_]

    def metrics(self) -> UncertaintyMetrics:
        """Accuracy and calibration over the whole set."""
        return evaluate(self.target, self.estimate.mean, self.std, self.lower, self.upper)

    def summary(self) -> dict[str, Any]:
        """Metrics of the ensemble, and the mean and range of its members' errors."""
        single = np.abs(self.members - self.target).mean(axis=1)
        return self.metrics().as_dict() | {
            "member_mae_mean": float(single.mean()),
            "member_mae_min": float(single.min()),
            "member_mae_max": float(single.max()),
            "in_domain_fraction": float(self.in_domain.mean()),
        }

    def to_frame(self) -> "pd.DataFrame":
        """Columns id, target, prediction, std, lower, upper, in_domain."""
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
    model: CrystalModel, graphs: GraphStore, rows: npt.NDArray[np.int64], *, engine: Engine = "auto"
) -> MemberOutputs:
    """Outputs of all members for the given rows of a store, in their order."""
    parts = list(_outputs(model, graphs, rows, engine))
    stds = [part.stds for part in parts if part.stds is not None]
    return MemberOutputs(
        torch.cat([part.values for part in parts], dim=1),
        torch.cat(stds, dim=1) if len(stds) == len(parts) else None,
        torch.cat([part.embedding for part in parts]),
    )


def _outputs(
    model: CrystalModel, graphs: GraphStore, rows: npt.NDArray[np.int64], engine: Engine
) -> Iterator[MemberOutputs]:
    for k in range(0, len(rows), _BATCH):
        with torch.inference_mode():
            yield model(graphs.batch(rows[k : k + _BATCH].tolist()), engine)


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
    if model.trust is not None:
        judged = model.trust.judge(estimate, out.embedding.numpy(), elements_of(graphs, rows))
        std, lower, upper = judged.std, judged.lower, judged.upper
        in_domain = np.array([verdict.in_domain for verdict in judged.domain])
    else:
        std = np.maximum(estimate.epistemic, 1e-12)
        lower, upper = estimate.mean - 1.645 * std, estimate.mean + 1.645 * std
        in_domain = np.ones(len(rows), dtype=bool)
    learned = model.target.forward(torch.as_tensor(np.asarray(targets, dtype=float))).numpy()
    return Evaluation(list(ids), learned, out.values.double().numpy(), estimate, std, lower, upper, in_domain)


def elements_of(graphs: GraphStore, rows: npt.NDArray[np.int64]) -> list[list[int]]:
    """Atomic numbers in each crystal."""
    numbers = graphs.fields["numbers"]
    first, n = graphs.first_node[rows].tolist(), graphs.n_nodes[rows].tolist()
    return [numbers[a : a + k].unique().tolist() for a, k in zip(first, n, strict=True)]
