"""Hold a model against known values: predictions of a data set, metrics, and what the metrics are of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import torch

from cgcnn_ase.core.arrays import Bools, Floats, Ints
from cgcnn_ase.core.elements import symbols
from cgcnn_ase.data.graph_store import GraphShards, GraphStore
from cgcnn_ase.data.splits import compositions_of, site_numbers_of
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.nn.messages import Engine
from cgcnn_ase.uncertainty import CalibratedPrediction
from cgcnn_ase.uncertainty.contacts import StructureGeometry, join, structure_geometry
from cgcnn_ase.uncertainty.metrics import auc, class_metrics, errors, evaluate, mae, mean_squared_z
from cgcnn_ase.uncertainty.protocol import MemberOutputs

if TYPE_CHECKING:
    import pandas as pd
    from typing_extensions import Self

# by name; lists are rows of a confusion matrix
Figures = dict[str, float | int | list[list[int]] | None]

# figures of groups of structures: by which quantity, then a row for each group
GroupRow = dict[str, float | int | str | None]
GroupFigures = dict[str, list[GroupRow]]

_BATCH = 128
# structures of an element whose figures are told apart, at least
MIN_OF_ELEMENT = 30
# ends of the groups by domain score (1 is the limit), and by energy above hull in eV/atom; the first of them is "on it"
_SCORES = (-np.inf, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, np.inf)
_ABOVE_HULL = (-np.inf, 0.001, 0.05, 0.1, 0.2, 0.4, np.inf)
# groups of equal count for the calibration error, fewer where there are fewer predictions
_BINS = 10


class ModelEvaluation(Protocol):
    """Predictions and true values of one set."""

    headline: ClassVar[str]  # the figure that says most, of those of :meth:`metrics`

    @property
    def ids(self) -> list[str]:
        """Names of the structures (or sites)."""

    @classmethod
    def of(cls, ids: list[str], labels: Floats, prediction: CalibratedPrediction) -> "Self":
        """Put predictions beside true values (n,), both in what the network learned."""

    def metrics(self) -> Figures:
        """Return accuracy over the whole set, and calibration where there is one."""

    def summary(self) -> Figures:
        """Return the metrics of the ensemble, and mean and range of the headline figure of its members."""

    def report(self) -> dict[str, float | None]:
        """Return error and coverage in three figures at most."""

    def baseline(self, training_labels: Floats) -> dict[str, float | None]:
        """Return the same of a guess that knows the training labels alone, in what the network learned."""

    def to_frame(self) -> "pd.DataFrame":
        """Return a table: id, target, prediction, std, lower, upper or probabilities, class_set; in_domain."""


@dataclass(frozen=True)
class RegressionEvaluation:
    """Predictions and true values of one set, in what the network learned (log10 for the moduli).

    Without calibration there are no intervals and no word on the domain, and the std is the raw one of the members; a
    single network that predicts no error of its own has none.
    """

    headline: ClassVar[str] = "mae"

    ids: list[str]
    target: Floats
    members: Floats  # (M, n)
    mean: Floats
    std: Floats | None
    lower: Floats | None
    upper: Floats | None
    in_domain: Bools | None
    domain_score: Floats | None = None  # (n,) 1 at the limit of the domain, more outside
    fractions: Floats | None = None  # (n, 101) atomic fractions
    e_above_hull: Floats | None = None  # (n,) eV/atom, NaN where it is not known

    @classmethod
    def of(cls, ids: list[str], labels: Floats, prediction: CalibratedPrediction) -> "RegressionEvaluation":
        """Put predictions beside true values (n,), both in what the network learned."""
        value, members, std, lower, upper, epistemic, aleatoric = prediction[:7]
        if prediction.domain is None:
            parts = [np.square(part) for part in (epistemic, aleatoric) if part is not None]
            std = np.maximum(np.sqrt(np.sum(parts, axis=0)), 1e-12) if parts else None
        return cls(ids, labels, members, value, std, lower, upper, _in_domain(prediction))

    def metrics(self) -> Figures:
        """Return accuracy over the whole set, and calibration where there is a std."""
        y, mean = self.target, self.mean
        if self.std is None:
            return {**errors(y, mean)}
        return {**evaluate(y, mean, self.std, self.lower, self.upper, n_bins=min(_BINS, len(y))).model_dump()}

    def summary(self) -> Figures:
        """Return the metrics of the ensemble, and mean and range of its members' errors."""
        single = [mae(self.target, member) for member in self.members]
        return self.metrics() | _range_of(single, "mae") | _domain_fraction(self.in_domain)

    def coverage_by(self) -> GroupFigures:
        """Return coverage, MAE and mean squared z-score by element, by domain score and by energy above hull.

        By what is known of the structures, and only of calibrated predictions. A row has ``element``, or ``from`` (not
        included) and ``to`` (None: no end), and ``n``. Of elements only those of 30 structures and more.
        """
        if self.lower is None:
            return {}
        tables: GroupFigures = {}
        if self.fractions is not None:
            counts = (self.fractions > 0).sum(axis=0)
            tables["element"] = [
                {"element": symbols()[z], **self._figures_of(self.fractions[:, z] > 0)}
                for z in np.flatnonzero(counts >= MIN_OF_ELEMENT).tolist()
            ]
        for name, values, ends in (
            ("domain_score", self.domain_score, _SCORES),
            ("e_above_hull", self.e_above_hull, _ABOVE_HULL),
        ):
            if values is not None:
                groups = [(a, b, (values > a) & (values <= b)) for a, b in pairwise(ends)]
                tables[name] = [
                    {
                        "from": a if np.isfinite(a) else None,
                        "to": b if np.isfinite(b) else None,
                        **self._figures_of(group),
                    }
                    for a, b, group in groups
                    if group.any()
                ]
        return tables

    def _figures_of(self, rows: Bools) -> GroupRow:
        assert self.std is not None
        assert self.lower is not None
        assert self.upper is not None
        y, mean = self.target[rows], self.mean[rows]
        return {
            "n": int(rows.sum()),
            "mae": mae(y, mean),
            "coverage": _inside(y, self.lower[rows], self.upper[rows]),
            "mean_squared_z": mean_squared_z(y, mean, self.std[rows]),
        }

    def report(self) -> dict[str, float | None]:
        """Return ``mae``, ``bias`` (mean of prediction less label) and ``coverage`` of the interval, if any."""
        coverage = _inside(self.target, self.lower, self.upper)
        bias = float(np.mean(self.mean - self.target))
        return {"mae": mae(self.target, self.mean), "bias": bias, "coverage": coverage}

    def baseline(self, training_labels: Floats) -> dict[str, float | None]:
        """Return the same of the mean of the training labels."""
        mean = np.full_like(self.target, training_labels.mean())
        return {"mae": mae(self.target, mean), "bias": float(np.mean(mean - self.target)), "coverage": None}

    def to_frame(self) -> "pd.DataFrame":
        """Return id, target, prediction, std, lower, upper, in_domain, domain_score; empty where nothing is known."""
        import pandas as pd

        columns = {"std": self.std, "lower": self.lower, "upper": self.upper, "in_domain": self.in_domain}
        columns |= {"domain_score": self.domain_score}
        return pd.DataFrame({"id": self.ids, "target": self.target, "prediction": self.mean, **columns})


@dataclass(frozen=True)
class ClassificationEvaluation:
    """Probabilities and true classes of one set; without calibration there are no sets and no word on the domain."""

    headline: ClassVar[str] = "auc"

    ids: list[str]
    labels: Ints  # (n,)
    probabilities: Floats  # (n, K)
    members: Floats  # (M, n, K) of each member alone
    lower: Floats | None  # first and
    upper: Floats | None  # last class of the conformal set
    in_domain: Bools | None

    @classmethod
    def of(cls, ids: list[str], labels: Floats, prediction: CalibratedPrediction) -> "ClassificationEvaluation":
        """Put probabilities beside true classes (n,)."""
        assert prediction.probabilities is not None
        y, p, members = labels.astype(np.int64), prediction.probabilities, prediction.members
        return cls(ids, y, p, members, prediction.lower, prediction.upper, _in_domain(prediction))

    def metrics(self) -> Figures:
        """Return accuracy, AUC, F1, likelihood, calibration error, confusion matrix, and coverage where calibrated."""
        figures: Figures = {**class_metrics(self.labels, self.probabilities)}
        if self.lower is not None and self.upper is not None:
            figures["coverage"] = _inside(self.labels, self.lower, self.upper)
            figures["set_size"] = float((self.upper - self.lower + 1).mean())
        return figures

    def summary(self) -> Figures:
        """Return the metrics of the ensemble, and mean and range of its members' AUC."""
        single = [auc(self.labels, p) for p in self.members]
        known = [value for value in single if value is not None]
        return self.metrics() | _range_of(known, "auc") | _domain_fraction(self.in_domain)

    def report(self) -> dict[str, float | None]:
        """Return ``accuracy`` and ``coverage`` of the sets of classes, if any."""
        accuracy = float(np.mean(self.probabilities.argmax(axis=1) == self.labels))
        return {"accuracy": accuracy, "coverage": _inside(self.labels, self.lower, self.upper)}

    def baseline(self, training_labels: Floats) -> dict[str, float | None]:
        """Return the same of the most frequent class."""
        most = np.bincount(training_labels.astype(int)).argmax()
        return {"accuracy": float(np.mean(self.labels == most)), "coverage": None}

    def to_frame(self) -> "pd.DataFrame":
        """Return columns id, target, prediction (the most probable class), probability of each class, class_set, ..."""
        import pandas as pd

        p = self.probabilities
        known = {"id": self.ids, "target": self.labels, "prediction": p.argmax(axis=1)}
        columns = {f"probability_{k}": p[:, k] for k in range(p.shape[1])}
        sets = None
        if self.lower is not None and self.upper is not None:
            ends = zip(self.lower.astype(int).tolist(), self.upper.astype(int).tolist(), strict=True)
            sets = [" ".join(map(str, range(first, last + 1))) for first, last in ends]
        return pd.DataFrame({**known, **columns, "class_set": sets, "in_domain": self.in_domain})


# the class of a model's evaluation, by the task of its target
EVALUATIONS: Mapping[str, type[ModelEvaluation]] = {
    "regression": RegressionEvaluation,
    "classification": ClassificationEvaluation,
}


def _in_domain(prediction: CalibratedPrediction) -> Bools | None:
    return None if prediction.domain is None else np.array([verdict.in_domain for verdict in prediction.domain])


def _inside(values: Floats | Ints, lower: Floats | None, upper: Floats | None) -> float | None:
    """Share of values between two ends, of those that have them (NaN: none); None where none has."""
    if lower is None or upper is None or np.isnan(lower).all():
        return None
    return float(np.mean(((lower <= values) & (values <= upper))[~np.isnan(lower)]))


def _range_of(members: Sequence[float], name: str) -> Figures:
    if not members:
        return {}
    mean = float(np.mean(members))
    return {f"member_{name}_mean": mean, f"member_{name}_min": min(members), f"member_{name}_max": max(members)}


def _domain_fraction(in_domain: Bools | None) -> Figures:
    return {} if in_domain is None else {"in_domain_fraction": float(in_domain.mean())}


def embeddings_of(
    model: CrystalModel, graphs: GraphStore | GraphShards, rows: Ints, *, engine: Engine = "auto"
) -> list[torch.Tensor]:
    """Crystal (or site) embeddings of each member for the given rows of a store, in their order."""
    with torch.inference_mode():
        parts = [model.pooled(graphs.batch(rows[k : k + _BATCH].tolist()), engine) for k in range(0, len(rows), _BATCH)]
    return [torch.cat(part) for part in zip(*parts, strict=True)]


def geometry_of(graphs: GraphStore | GraphShards, rows: Ints, *, of_sites: bool = False) -> StructureGeometry | None:
    """Contacts and volumes of some crystals, or of each of their sites; None of graphs without lengths or volumes."""
    parts = [graphs.batch(rows[k : k + _BATCH].tolist()) for k in range(0, len(rows), _BATCH)]
    return join([structure_geometry(part, of_sites=of_sites) for part in parts])


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
    geometry: StructureGeometry | None = None,
    e_above_hull: npt.ArrayLike | None = None,
) -> ModelEvaluation:
    """Predict the rows of a store and put the predictions beside the true values; ValueError if no row has a label.

    ``ids`` and ``targets`` are of these rows (or of all their sites), the targets in the target's own unit; rows
    without a label (NaN) are left out. ``embeddings`` and ``geometry`` are those of these rows, if they are known
    already, and ``e_above_hull`` (eV/atom, NaN: unknown) tells stable from unstable in
    :meth:`RegressionEvaluation.coverage_by`.
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
    shapes = geometry_of(graphs, rows, of_sites=of_sites) if geometry is None else geometry
    names = [name for name, has in zip(ids, labelled.tolist(), strict=True) if has]
    learned = model.target.forward(torch.from_numpy(values[labelled])).numpy()
    prediction = model.calibrated(
        out,
        fractions,
        site_numbers=site_numbers,
        geometry=None if shapes is None else shapes.select(labelled),
    )
    evaluation = EVALUATIONS[model.target.task].of(names, learned, prediction)
    if not isinstance(evaluation, RegressionEvaluation):
        return evaluation
    return replace(
        evaluation,
        domain_score=None if prediction.domain is None else np.array([verdict.score for verdict in prediction.domain]),
        fractions=fractions,
        e_above_hull=None if e_above_hull is None else np.asarray(e_above_hull, dtype=float)[labelled],
    )
