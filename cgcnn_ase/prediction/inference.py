"""Records of structures -> graphs -> models -> predictions, in one process."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from math import isnan
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypedDict

import torch

from cgcnn_ase.core.arrays import Floats, Floats32
from cgcnn_ase.core.elements import symbols
from cgcnn_ase.core.targets import TargetSpec
from cgcnn_ase.graphs.builder import GraphConfig, GraphsAndNodes, graphs_and_nodes
from cgcnn_ase.graphs.crystal_graph import composition, crystal_index
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.models.registry import ModelRef, better_fidelity, better_potential, load_refs
from cgcnn_ase.nn.messages import Engine
from cgcnn_ase.prediction.fused_cgcnn import FusedModel
from cgcnn_ase.prediction.results import MemberPrediction, Prediction
from cgcnn_ase.structures import DistinctSites, StructureRecord, distinct_sites
from cgcnn_ase.uncertainty import CalibratedPrediction, Calibration
from cgcnn_ase.uncertainty.contacts import StructureGeometry, structure_geometry
from cgcnn_ase.uncertainty.protocol import Population

if TYPE_CHECKING:
    from typing_extensions import Unpack

# atoms that go through the network at once; bounds the memory
MAX_ATOMS = 6000

# the same where bond angles are read, of which an atom has a hundred and more
MAX_ATOMS_WITH_LINES = 500


class ModelInference:
    """Loaded models, ready for structures; options as of :class:`cgcnn_ase.prediction.predictor.Predictor`.

    Models with the same graph share it, and models of the same members one pass through them.
    """

    def __init__(
        self,
        models: Sequence[CrystalModel],
        *,
        n_dropout: int | None = None,
        seed: int = 0,
        engine: Engine = "torch",
        population: Population = "known",
    ) -> None:
        self.models, self.n_dropout, self.seed, self.engine = list(models), n_dropout, seed, engine
        self.population = population
        self._backbones = SharedBackbone.of(self.models)
        if n_dropout is not None:
            for model in self.models:
                model.check_dropout(n_dropout)

    def __call__(self, records: Sequence[StructureRecord]) -> list[Prediction]:
        """Predictions of each record by each model: record by record, models in their order."""
        return [prediction for row in self.by_structure(records) for prediction in row]

    def by_structure(self, records: Sequence[StructureRecord]) -> list[list[Prediction]]:
        """As a call, a list for each record."""
        return [[member.prediction for member in row] for row in self.with_members(records)]

    def with_members(self, records: Sequence[StructureRecord]) -> list[list[MemberPrediction]]:
        """A list for each record: each prediction with what each member (or dropout sample) says.

        The mean of the members is the value of a regression; of a classification they are the probabilities of class 1.
        Errors that two structures share cancel in the difference within each member (see
        :mod:`cgcnn_ase.energies.energy_model`).
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

    def calibration(self, model: CrystalModel) -> Calibration | None:
        """Return the calibration of a model's predictions as they are made here."""
        return model.calibration if self.n_dropout is None else model.dropout_calibration

    def _predict(self, records: list[StructureRecord]) -> list[list[MemberPrediction]]:
        """All models on a few structures; if their graphs cannot be built together, one by one to find which cannot."""
        try:
            graphs = self._graphs(records)
        except ValueError as error:
            if len(records) == 1:
                return [[_failure(records[0], model, str(error)) for model in self.models]]
            return [self._predict([record])[0] for record in records]
        sites = [_sites(record) for record in records] if any(m.target.level == "site" for m in self.models) else []
        columns: dict[int, list[list[MemberPrediction]]] = {}
        for backbone in self._backbones:
            graph = graphs[backbone.network.graph]
            with torch.inference_mode():
                embeddings = backbone.network.pooled(graph.graph, self.engine)
            geometry = self._geometry(list(backbone.models.values()), graph)
            for k, model in backbone.models.items():
                columns[k] = self._read(model, embeddings, graph, geometry, records, sites)
        by_record = zip(*(columns[k] for k in range(len(self.models))), strict=True)
        return [[prediction for of_model in row for prediction in of_model] for row in by_record]

    def _graphs(self, records: list[StructureRecord]) -> dict[GraphConfig, GraphsAndNodes]:
        structures = [record.unwrap() for record in records]
        configs = {model.graph for model in self.models}
        return {config: graphs_and_nodes(structures, replace(config, merge=True)) for config in configs}

    def _geometry(self, models: Sequence[CrystalModel], graphs: GraphsAndNodes) -> StructureGeometry | None:
        """Contacts and volumes for models of the same members; None where no calibration reads them."""
        calibrations = (self.calibration(model) for model in models)
        if all(each is None or each.domain.geometry is None for each in calibrations):
            return None
        return structure_geometry(graphs.graph, of_sites=models[0].target.level == "site")

    def _read(
        self,
        model: CrystalModel,
        embeddings: list[torch.Tensor],
        graphs: GraphsAndNodes,
        geometry: StructureGeometry | None,
        records: list[StructureRecord],
        sites: list[DistinctSites | str],
    ) -> list[list[MemberPrediction]]:
        """Predictions of a model from the embeddings that its members made of the structures."""
        with torch.inference_mode():
            if self.n_dropout is None:
                out = model.read(embeddings)
            else:
                out = model.sample_read(embeddings, self.n_dropout, seed=self.seed)
        graph, of_sites = graphs.graph, model.target.level == "site"
        fractions = composition(graph).numpy()
        prediction = model.calibrated(
            out,
            fractions[crystal_index(graph).numpy()] if of_sites else fractions,
            site_numbers=graph.numbers.numpy() if of_sites else None,
            geometry=geometry,
            population=self.population,
            dropout=self.n_dropout is not None,
        )
        rows: _Rows = [[(_blank(record, model), k)] for k, record in enumerate(records)]
        if of_sites:
            rows = _site_rows(model, graphs, records, sites)
        members = out.values.numpy() if model.target.task == "classification" else prediction.members
        filled = _filled(rows, model.target, prediction, members.T)
        elements = [frozenset(record.unwrap().numbers.tolist()) for record in records]
        return [[_with_advice(each, model, known) for each in row] for row, known in zip(filled, elements, strict=True)]


class SharedBackbone(NamedTuple):
    """Networks, and the models that are read off them, by their number."""

    network: FusedModel
    models: dict[int, CrystalModel]

    @classmethod
    def of(cls, models: Sequence[CrystalModel]) -> list["SharedBackbone"]:
        """One for each set of members."""
        backbones: dict[int, SharedBackbone] = {}
        for k, model in enumerate(models):
            network, readers = backbones.setdefault(id(model.members), cls(FusedModel.of(model), {}))
            readers[k] = CrystalModel.like(model, network.members)
        return list(backbones.values())


class InferenceSettings(TypedDict, total=False):
    """Settings of :class:`ModelInference` by name."""

    n_dropout: int | None
    seed: int
    engine: Engine
    population: Population


def inference(models: Sequence["ModelRef | CrystalModel"], **settings: "Unpack[InferenceSettings]") -> ModelInference:
    """Models by reference or as they are; the former are loaded once a process."""
    refs = [model for model in models if isinstance(model, ModelRef)]
    if len(refs) == len(models):
        return _cached(tuple(refs), **settings)
    loaded = iter(load_refs(refs))
    return ModelInference([next(loaded) if isinstance(model, ModelRef) else model for model in models], **settings)


@lru_cache(maxsize=4)
def _cached(models: tuple[ModelRef, ...], **settings: "Unpack[InferenceSettings]") -> ModelInference:
    return ModelInference(load_refs(list(models)), **settings)


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


# predictions without values, each with the row of the network's outputs that its values are in
_Rows: TypeAlias = list[list[tuple[Prediction, int | None]]]


def _filled(
    rows: _Rows, target: TargetSpec, prediction: CalibratedPrediction, members: Floats | Floats32
) -> list[list[MemberPrediction]]:
    """Fill in the values, in the target's own unit; ``members`` are (n, M) in what the network learned."""
    value = target.to_physical(prediction.value)
    slope = target.slope(value)
    class_sets = _class_sets(prediction) if target.task == "classification" else None
    interval = (None, None) if target.task == "classification" else (prediction.lower, prediction.upper)
    ends = [None if end is None else target.to_physical(end) for end in interval]
    spreads = (prediction.std, prediction.epistemic, prediction.aleatoric)
    columns = [value, *ends, *(None if spread is None else spread * slope for spread in spreads)]
    values = list(zip(*([None] * len(value) if each is None else each.tolist() for each in columns), strict=True))

    def fill(blank: Prediction, k: int) -> MemberPrediction:
        mean, lower, upper, std, epistemic, aleatoric = values[k]
        verdict = None if prediction.domain is None else prediction.domain[k]
        filled = replace(
            blank,
            value=mean,
            std=std,
            lower=_known(lower),
            upper=_known(upper),
            epistemic=epistemic,
            aleatoric=aleatoric,
            in_domain=None if verdict is None else verdict.in_domain,
            in_domain_reason="" if verdict is None else verdict.reason,
            domain_score=None if verdict is None else verdict.score,
            population=prediction.population,
            probabilities=None if prediction.probabilities is None else tuple(prediction.probabilities[k].tolist()),
            class_set=None if class_sets is None else class_sets[k],
        )
        return MemberPrediction(filled, members[k])

    return [[MemberPrediction(blank, None) if k is None else fill(blank, k) for blank, k in row] for row in rows]


def prediction_of(model: CrystalModel, prediction: CalibratedPrediction, record: StructureRecord) -> MemberPrediction:
    """Return what a model says of one structure, (1,), as all predictions are given."""
    rows: _Rows = [[(_blank(record, model), 0)]]
    return _filled(rows, model.target, prediction, prediction.members.T)[0][0]


def _known(end: float | None) -> float | None:
    """An end of an interval, None where the interval is empty."""
    return None if end is None or isnan(end) else end


def _with_advice(member: MemberPrediction, model: CrystalModel, elements: frozenset[int]) -> MemberPrediction:
    """Name the data set or the potential that knows such a site or structure, where the model's own does not."""
    prediction = member.prediction
    if prediction.in_domain is not False:
        return member
    if (other := better_potential(model, elements)) is not None:
        advice = f"{other} knows all its elements"
    elif prediction.element is not None and (
        fidelity := better_fidelity(model.name, symbols().index(prediction.element), elements)
    ):
        advice = f"the fidelity {fidelity} knows such sites (--fidelity {fidelity})"
    else:
        return member
    return member._replace(prediction=replace(prediction, in_domain_reason=f"{prediction.reason}; {advice}"))


def _class_sets(prediction: CalibratedPrediction) -> list[tuple[int, ...]] | None:
    """Classes from the first to the last of each conformal set, None without calibration."""
    if prediction.lower is None or prediction.upper is None:
        return None
    ends = zip(prediction.lower.astype(int).tolist(), prediction.upper.astype(int).tolist(), strict=True)
    return [tuple(range(first, last + 1)) for first, last in ends]


def _blank(record: StructureRecord, model: CrystalModel, *, error: str | None = None) -> Prediction:
    atoms = record.atoms
    return Prediction(
        id=record.id,
        source=record.source,
        formula=None if atoms is None else atoms.get_chemical_formula(mode="metal"),
        n_atoms=None if atoms is None else len(atoms),
        unit=model.target.unit,
        scale=model.scale,
        property=model.target.name,
        model=model.name,
        model_sha256=model.sha256,
        error=error,
    )


def _sites(record: StructureRecord) -> DistinctSites | str:
    """The symmetry-distinct sites of a structure, or why they cannot be found."""
    try:
        return distinct_sites(record.unwrap())
    except ValueError as error:
        return str(error)


def _site_rows(
    model: CrystalModel, graphs: GraphsAndNodes, records: list[StructureRecord], sites: list[DistinctSites | str]
) -> _Rows:
    """One row a symmetry-distinct site, with the node that stands for it."""
    rows: _Rows = []
    first = 0
    for record, distinct in zip(records, sites, strict=True):
        atoms = record.unwrap()
        nodes = graphs.node_of_atom[first : first + len(atoms)]
        first += len(atoms)
        if isinstance(distinct, str):
            rows.append([(_blank(record, model, error=distinct), None)])
            continue
        blank, symbols = _blank(record, model), atoms.get_chemical_symbols()
        counted = zip(distinct[0].tolist(), distinct[1].tolist(), strict=True)
        rows.append(
            [
                (replace(blank, site_index=site, element=symbols[site], multiplicity=count), int(nodes[site]))
                for site, count in counted
            ]
        )
    return rows


def _failure(record: StructureRecord, model: CrystalModel, error: str) -> MemberPrediction:
    return MemberPrediction(_blank(record, model, error=error), None)
