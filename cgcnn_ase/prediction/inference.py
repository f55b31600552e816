"""Records of structures -> graphs -> models -> predictions, in one process."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from cgcnn_ase.core.arrays import Floats, Floats32, Ints
from cgcnn_ase.graphs.builder import GraphConfig, GraphsAndNodes, graphs_and_nodes
from cgcnn_ase.graphs.crystal_graph import composition, crystal_index
from cgcnn_ase.models.crystal_model import CrystalModel, MemberOutputs
from cgcnn_ase.models.registry import ModelRef, load_refs
from cgcnn_ase.nn.messages import Engine
from cgcnn_ase.prediction.fused_cgcnn import FastModel
from cgcnn_ase.prediction.results import EMPTY_FIELDS, Prediction
from cgcnn_ase.structures import DistinctSites, StructureRecord, distinct_sites
from cgcnn_ase.uncertainty.classification_calibration import ClassificationCalibration, tempered
from cgcnn_ase.uncertainty.estimators import combine
from cgcnn_ase.uncertainty.regression_calibration import Calibration

if TYPE_CHECKING:
    from cgcnn_ase.models.crystal_model import AnyCalibration
    from cgcnn_ase.uncertainty.domain import DomainVerdict


Fields = dict[str, Any]


def prediction_fields(
    model: CrystalModel,
    out: MemberOutputs,
    composition: Floats32,
    trust: "AnyCalibration | None",
    *,
    site_numbers: Ints | None = None,
) -> list[Fields]:
    """One dict of value, std, lower, upper, ... for each structure (or site); None for what the model cannot say.

    Of sites, ``composition`` are those of their hosts and ``site_numbers`` the atomic numbers on the sites.
    """
    if model.target.task == "classification":
        return _classes(out, composition, trust, site_numbers)
    return _values(model, out, composition, trust, site_numbers)


def _values(
    model: CrystalModel,
    out: MemberOutputs,
    composition: Floats32,
    trust: "AnyCalibration | None",
    site_numbers: Ints | None,
) -> list[Fields]:
    """Of a regression."""
    assert trust is None or isinstance(trust, Calibration)
    estimate = combine(out.values.numpy(), None if out.stds is None else out.stds.numpy())
    values = _physical(model, estimate.mean)
    # of the physical quantity in what the network learned
    slope = values * np.log(10.0) if model.target.transform == "log10" else np.ones_like(values)
    columns: dict[str, Any] = {"value": values}
    if len(out.values) > 1:
        columns["epistemic"] = estimate.epistemic * slope
        columns["std"] = columns["epistemic"]
    if estimate.aleatoric is not None:
        columns["aleatoric"] = estimate.aleatoric * slope
    if trust is None:
        return _rows(columns)
    judged = trust.apply(estimate, out.embedding.numpy(), composition, site_numbers)
    columns |= {
        "std": judged.std * slope,
        "lower": _physical(model, judged.lower),
        "upper": _physical(model, judged.upper),
    }
    return _rows(columns, judged.domain)


def _classes(
    out: MemberOutputs,
    composition: Floats32,
    trust: "AnyCalibration | None",
    site_numbers: Ints | None,
) -> list[Fields]:
    """Of a classification."""
    assert trust is None or isinstance(trust, ClassificationCalibration)
    assert out.logits is not None
    logits = out.logits.double().numpy()
    judged = None if trust is None else trust.apply(logits, out.embedding.numpy(), composition, site_numbers)
    members = tempered(logits, 1.0 if trust is None else trust.temperature)
    p = members.mean(axis=0) if judged is None else judged.probabilities
    columns: dict[str, Any] = {"value": p[:, 1] if p.shape[1] == 2 else p.argmax(axis=1).astype(float)}
    if len(logits) > 1:
        columns["epistemic"] = np.take_along_axis(members.std(axis=0), p.argmax(axis=1)[:, None], axis=1)[:, 0]
    columns["probabilities"] = [tuple(row) for row in p.tolist()]
    if judged is None:
        return _rows(columns | {"std": columns.get("epistemic", [None] * len(p))})
    columns |= {"std": judged.std, "lower": judged.lower, "upper": judged.upper}
    return _rows(columns, judged.domain)


def _physical(model: CrystalModel, learned: Floats) -> Floats:
    """In the target's own unit and between its limits."""
    target = model.target
    values: Floats = target.inverse(target.clamp(torch.from_numpy(learned))).numpy()
    return values


def _rows(columns: dict[str, Any], domain: "list[DomainVerdict] | None" = None) -> list[Fields]:
    listed = {name: column.tolist() if isinstance(column, np.ndarray) else column for name, column in columns.items()}
    rows = [EMPTY_FIELDS | dict(zip(listed, row, strict=True)) for row in zip(*listed.values(), strict=True)]
    if domain is None:
        return rows
    verdicts = [{"in_domain": verdict.in_domain, "reason": verdict.reason} for verdict in domain]
    return [row | verdict for row, verdict in zip(rows, verdicts, strict=True)]


#: atoms that go through the network at once; bounds the memory
MAX_ATOMS = 6000

#: the same where bond angles are read, of which an atom has a hundred and more
MAX_ATOMS_WITH_LINES = 500


class MemberPrediction(NamedTuple):
    """What a model says of a structure or a site."""

    prediction: Prediction
    members: npt.NDArray[np.floating] | None  #: (M,) what each says, in what the network learned; None after an error


class ModelInference:
    """Loaded models, ready for structures.

    Parameters
    ----------
    models : sequence of CrystalModel
        Models with the same graph share it, and models of the same members one pass through them.
    n_dropout, seed, engine
        See :class:`cgcnn_ase.prediction.predictor.Predictor`.
    """

    def __init__(
        self, models: Sequence[CrystalModel], *, n_dropout: int | None = None, seed: int = 0, engine: Engine = "torch"
    ) -> None:
        self.models, self.n_dropout, self.seed, self.engine = list(models), n_dropout, seed, engine
        self._backbones = SharedBackbone.of(self.models)
        if n_dropout is not None:
            for model in self.models:
                model.check_dropout(n_dropout)

    def __call__(self, records: Sequence[StructureRecord]) -> list[Prediction]:
        """Predictions of each record by each model: record by record, models in their order."""
        return [prediction for row in self.by_structure(records) for prediction in row]

    def by_structure(self, records: Sequence[StructureRecord]) -> list[list[Prediction]]:
        """As a call, a list for each record."""
        return [[prediction.prediction for prediction in row] for row in self.with_members(records)]

    def with_members(self, records: Sequence[StructureRecord]) -> list[list[MemberPrediction]]:
        """A list for each record: each prediction with what each member (or dropout sample) says.

        The mean of the members is the value of a regression; of a classification they are the probabilities of class 1.
        Errors that two structures share cancel in the difference within each member, which is what
        :mod:`cgcnn_ase.energies.energy_model` needs them for.
        """
        rows: list[list[MemberPrediction]] = [[] for _ in records]
        good = [k for k, record in enumerate(records) if record.atoms is not None]
        for k, record in enumerate(records):
            if record.atoms is None:
                rows[k] = [_failure(record, model, record.error or "holds no structure") for model in self.models]
        with_lines = any(model.graph.line_graph for model in self.models)
        for group in _groups(good, records, MAX_ATOMS_WITH_LINES if with_lines else MAX_ATOMS):
            for k, predictions in zip(group, self._predict([records[k] for k in group]), strict=True):
                rows[k] = predictions
        return rows

    def trust(self, model: CrystalModel) -> "AnyCalibration | None":
        """The calibration of a model's predictions as they are made here."""
        return model.trust if self.n_dropout is None else model.dropout_trust

    def _predict(self, records: list[StructureRecord]) -> list[list[MemberPrediction]]:
        """All models on a few structures; if their graphs cannot be built together, one by one to find which cannot."""
        try:
            result = self._graphs(records)
        except ValueError as error:
            if len(records) == 1:
                return [[_failure(records[0], model, str(error)) for model in self.models]]
            return [self._predict([record])[0] for record in records]
        sites = [_sites(record) for record in records] if any(m.target.level == "site" for m in self.models) else []
        columns: dict[int, list[list[MemberPrediction]]] = {}
        for backbone in self._backbones:
            graphs = result[backbone.network.graph]
            with torch.inference_mode():
                embeddings = backbone.network.pooled(graphs.graph, self.engine)
            for k in backbone.models:
                columns[k] = self._read(self.models[k], backbone.network, embeddings, graphs, records, sites)
        by_record = zip(*(columns[k] for k in range(len(self.models))), strict=True)
        return [[prediction for model_predictions in row for prediction in model_predictions] for row in by_record]

    def _graphs(self, records: list[StructureRecord]) -> dict[GraphConfig, GraphsAndNodes]:
        structures = [record.unwrap() for record in records]
        configs = {model.graph for model in self.models}
        return {config: graphs_and_nodes(structures, replace(config, merge=True)) for config in configs}

    def _read(
        self,
        model: CrystalModel,
        backbone: FastModel,
        embeddings: list[torch.Tensor],
        graphs: GraphsAndNodes,
        records: list[StructureRecord],
        sites: list[DistinctSites | str],
    ) -> list[list[MemberPrediction]]:
        """What a model says of structures, from the embeddings that its members, as in the backbone, made of them."""
        fast = backbone.reading(model)
        with torch.inference_mode():
            if self.n_dropout is None:
                out = fast.read(embeddings)
            else:
                out = fast.sample_read(embeddings, self.n_dropout, seed=self.seed)
        graph = graphs.graph
        fractions = composition(graph)
        if model.target.level == "site":
            of_hosts = fractions[crystal_index(graph)].numpy()
            fields = prediction_fields(model, out, of_hosts, self.trust(model), site_numbers=graph.numbers.numpy())
            return _of_sites(model, fields, out.values.numpy().T, graphs, records, sites)
        fields = prediction_fields(model, out, fractions.numpy(), self.trust(model))
        members = out.values.numpy().T
        return [
            [MemberPrediction(_prediction(r, model, row), m)]
            for r, row, m in zip(records, fields, members, strict=True)
        ]


class SharedBackbone(NamedTuple):
    """Networks, and the models that are read off them."""

    network: FastModel
    models: list[int]

    @classmethod
    def of(cls, models: Sequence[CrystalModel]) -> list["SharedBackbone"]:
        """One for each set of members."""
        backbones: dict[int, SharedBackbone] = {}
        for k, model in enumerate(models):
            backbones.setdefault(id(model.members), cls(FastModel.of(model), [])).models.append(k)
        return list(backbones.values())


def inference(models: Sequence["ModelRef | CrystalModel"], **settings: Any) -> ModelInference:
    """Models by reference or as they are; the former are loaded once a process."""
    refs = [model for model in models if isinstance(model, ModelRef)]
    if len(refs) == len(models):
        return _cached(tuple(refs), tuple(sorted(settings.items())))
    loaded = iter(load_refs(refs))
    return ModelInference([next(loaded) if isinstance(model, ModelRef) else model for model in models], **settings)


@lru_cache(maxsize=4)
def _cached(models: tuple[ModelRef, ...], settings: tuple[tuple[str, Any], ...]) -> ModelInference:
    return ModelInference(load_refs(list(models)), **dict(settings))


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


def _prediction(record: StructureRecord, model: CrystalModel, fields: dict[str, Any]) -> Prediction:
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
        **fields,
    )


def _sites(record: StructureRecord) -> DistinctSites | str:
    """The symmetry-distinct sites of a structure, or why they cannot be found."""
    try:
        return distinct_sites(record.unwrap())
    except ValueError as error:
        return str(error)


def _of_sites(
    model: CrystalModel,
    fields: list[dict[str, Any]],
    members: npt.NDArray[np.floating],
    graphs: GraphsAndNodes,
    records: list[StructureRecord],
    sites: list[DistinctSites | str],
) -> list[list[MemberPrediction]]:
    """What is said of each symmetry-distinct site, from what is said of the nodes."""
    rows: list[list[MemberPrediction]] = []
    first = 0
    for record, distinct in zip(records, sites, strict=True):
        atoms = record.unwrap()
        nodes = graphs.node_of_atom[first : first + len(atoms)]
        first += len(atoms)
        symbols = atoms.get_chemical_symbols()
        if isinstance(distinct, str):
            rows.append([_failure(record, model, distinct)])
            continue
        representatives, multiplicities = distinct
        predictions = []
        for site, count in zip(representatives.tolist(), multiplicities.tolist(), strict=True):
            row = fields[nodes[site]] | {"site_index": site, "element": symbols[site], "multiplicity": count}
            predictions.append(MemberPrediction(_prediction(record, model, row), members[nodes[site]]))
        rows.append(predictions)
    return rows


def _failure(record: StructureRecord, model: CrystalModel, error: str) -> MemberPrediction:
    return MemberPrediction(_prediction(record, model, EMPTY_FIELDS | {"error": error}), None)
