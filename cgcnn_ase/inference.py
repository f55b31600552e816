"""Records of structures -> graphs -> models -> predictions, in one process."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cgcnn_ase.graphs.builder import GraphConfig, build_graphs
from cgcnn_ase.graphs.crystal_graph import CrystalGraph, composition
from cgcnn_ase.nn.for_prediction import FastModel
from cgcnn_ase.nn.messages import Engine
from cgcnn_ase.nn.model import CrystalModel
from cgcnn_ase.prediction import NOTHING, Prediction
from cgcnn_ase.registry import load_model
from cgcnn_ase.structures import StructureRecord
from cgcnn_ase.uncertainty.estimators import combine

if TYPE_CHECKING:
    from cgcnn_ase.uncertainty.trust import Trust

#: atoms that go through the network at once; bounds the memory
MAX_ATOMS = 6000
#: the same where bond angles are read, of which an atom has a hundred and more
MAX_ATOMS_WITH_LINES = 500


class ModelInference:
    """Loaded models, ready for structures.

    Parameters
    ----------
    models : sequence of CrystalModel
        Models with the same graph share it.
    n_dropout, seed, engine
        See :class:`cgcnn_ase.prediction.Predictor`.
    """

    def __init__(
        self, models: Sequence[CrystalModel], *, n_dropout: int | None = None, seed: int = 0, engine: Engine = "torch"
    ) -> None:
        self.models, self.n_dropout, self.seed, self.engine = list(models), n_dropout, seed, engine
        self._fast = [FastModel.of(model) for model in models]
        if n_dropout is not None:
            for model in self.models:
                model.check_dropout(n_dropout)

    def __call__(self, records: Sequence[StructureRecord]) -> list[Prediction]:
        """Predictions of each record by each model: record by record, models in their order."""
        rows: list[list[Prediction]] = [[] for _ in records]
        good = [k for k, record in enumerate(records) if record.atoms is not None]
        for k, record in enumerate(records):
            if record.atoms is None:
                rows[k] = [_failure(record, model, record.error or "holds no structure") for model in self.models]
        with_lines = any(model.graph.line_graph for model in self.models)
        for group in _groups(good, records, MAX_ATOMS_WITH_LINES if with_lines else MAX_ATOMS):
            for k, predictions in zip(group, self._predict([records[k] for k in group]), strict=True):
                rows[k] = predictions
        return [prediction for row in rows for prediction in row]

    def trust(self, model: CrystalModel) -> "Trust | None":
        """The calibration of a model's predictions as they are made here."""
        return model.trust if self.n_dropout is None else model.dropout_trust

    def _predict(self, records: list[StructureRecord]) -> list[list[Prediction]]:
        """All models on a few structures; if their graphs cannot be built together, one by one to find which cannot."""
        try:
            graphs = self._graphs(records)
        except ValueError as error:
            if len(records) == 1:
                return [[_failure(records[0], model, str(error)) for model in self.models]]
            return [self._predict([record])[0] for record in records]
        columns = [self._apply(model, graphs[model.graph], records) for model in self._fast]
        return [list(row) for row in zip(*columns, strict=True)]

    def _graphs(self, records: list[StructureRecord]) -> dict[GraphConfig, CrystalGraph]:
        structures = [record.unwrap() for record in records]
        configs = {model.graph for model in self.models}
        return {config: build_graphs(structures, replace(config, merge=True)) for config in configs}

    def _apply(self, model: CrystalModel, graph: CrystalGraph, records: list[StructureRecord]) -> list[Prediction]:
        with torch.inference_mode():
            if self.n_dropout is None:
                out = model(graph, self.engine)
            else:
                out = model.sample(graph, self.n_dropout, seed=self.seed, engine=self.engine)
        estimate = combine(out.values.numpy(), None if out.stds is None else out.stds.numpy())
        has_spread = len(out.values) > 1
        log10 = model.target.transform == "log10"
        physical = _power_of_ten if log10 else _same
        judgement = None
        if (trust := self.trust(model)) is not None:
            judgement = trust.judge(estimate, out.embedding.numpy(), composition(graph).numpy())
        predictions = []
        for k, record in enumerate(records):
            value = physical(float(estimate.mean[k]))
            slope = value * np.log(10.0) if log10 else 1.0  # of the physical quantity in what the network learned
            said = NOTHING | {
                "value": value,
                "epistemic": float(estimate.epistemic[k] * slope) if has_spread else None,
                "aleatoric": None if estimate.aleatoric is None else float(estimate.aleatoric[k] * slope),
            }
            if judgement is not None:
                said |= {
                    "std": float(judgement.std[k] * slope),
                    "lower": physical(float(judgement.lower[k])),
                    "upper": physical(float(judgement.upper[k])),
                    "in_domain": judgement.domain[k].in_domain,
                    "reason": judgement.domain[k].reason,
                }
            elif has_spread:
                said["std"] = said["epistemic"]
            predictions.append(_prediction(record, model, said))
        return predictions


def inference(models: Sequence[Any], **settings: Any) -> ModelInference:
    """Models by path or as they are, loaded once a process."""
    if all(isinstance(model, str) for model in models):
        return _cached(tuple(models), tuple(sorted(settings.items())))
    loaded = [load_model(model) if isinstance(model, str) else model for model in models]
    return ModelInference(loaded, **settings)


@lru_cache(maxsize=4)
def _cached(models: tuple[str, ...], settings: tuple[tuple[str, Any], ...]) -> ModelInference:
    return ModelInference([load_model(model) for model in models], **dict(settings))


def _groups(indices: list[int], records: Sequence[StructureRecord], max_atoms: int) -> Iterator[list[int]]:
    """Consecutive structures with at most so many atoms together, or a single larger one."""
    group: list[int] = []
    size = 0
    for k in indices:
        n = len(records[k].unwrap())
        if group and size + n > max_atoms:
            yield group
            group, size = [], 0
        group.append(k)
        size += n
    if group:
        yield group


def _prediction(record: StructureRecord, model: CrystalModel, said: dict[str, Any]) -> Prediction:
    atoms = record.atoms
    return Prediction(
        id=record.id,
        source=record.source,
        formula=None if atoms is None else atoms.get_chemical_formula(mode="metal"),
        n_atoms=None if atoms is None else len(atoms),
        unit=model.target.unit,
        property=model.target.name,
        model=model.name,
        model_sha256=model.sha256,
        **said,
    )


def _failure(record: StructureRecord, model: CrystalModel, error: str) -> Prediction:
    return _prediction(record, model, NOTHING | {"error": error})


def _same(value: float) -> float:
    return value


def _power_of_ten(value: float) -> float:
    return float(10.0**value)
