"""Contributions of atoms and elements to a prediction."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import replace as changed
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from cgcnn_ase.core.arrays import Floats, Ints
from cgcnn_ase.core.elements import MAX_NUMBER, symbols
from cgcnn_ase.core.parallel import available_cores
from cgcnn_ase.explain.integrated_gradients import embedding_of, integrated_gradients, value_of_vectors
from cgcnn_ase.graphs.builder import build_graph
from cgcnn_ase.graphs.crystal_graph import CrystalGraph, to_device
from cgcnn_ase.graphs.quotient import merge_equivalent
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.models.registry import DEFAULT_MODEL, load_model
from cgcnn_ase.nn.messages import Engine
from cgcnn_ase.nn.network import Network, Output
from cgcnn_ase.structures import as_atoms
from cgcnn_ase.uncertainty import ClassificationCalibration

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

Baseline = Literal["pure-elements", "mean-element", "zero"]

# points of the quadrature
N_STEPS = 16
# pure elements that make the baseline, evenly spread over those that the model knows, by atomic number
N_PURE = 24


class ElementContribution(NamedTuple):
    """Contribution of all atoms of one element together."""

    symbol: str
    n_atoms: int
    contribution: float
    std: float | None


class OrbitContribution(NamedTuple):
    """Contribution of each of some equivalent atoms."""

    atoms: tuple[int, ...]  # indices in the structure
    symbol: str
    contribution: float  # of one of them
    std: float | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Explanation:
    """A prediction as a sum: ``baseline + contributions.sum() + gap == prediction``.

    All in ``unit``, which is that of what the network learned: for a per-atom property (eV/atom) the contributions are
    to the per-atom value, a mean over the atoms, and so become smaller in a larger cell; for the moduli it is
    log10(GPa); for a classification the log-odds of class 1, ln(p / (1 - p)). Of an ensemble everything is the mean
    over the members, and ``std`` their standard deviation.
    """

    numbers: Ints  # (N,) atomic numbers
    orbits: Ints  # (N,) class of equivalent atoms that each belongs to, numbered from 0
    members: Floats  # (M, N) contributions by member
    member_baselines: Floats  # (M,)
    member_predictions: Floats  # (M,)
    target: str  # name of the property
    unit: str
    value: float  # the prediction as :func:`cgcnn_ase.predict` gives it, in ``value_unit``
    value_unit: str
    per_atom: bool  # whether the property is a mean over atoms
    baseline_kind: Baseline
    n_steps: int
    model: str
    model_sha256: str

    @property
    def contributions(self) -> Floats:
        """(N,) of each atom."""
        return np.asarray(self.members.mean(axis=0))

    @property
    def std(self) -> Floats | None:
        """(N,) standard deviation of each contribution over the members; None of a single network."""
        return _spread(self.members)

    @property
    def baseline(self) -> float:
        """Prediction for the baseline: the same structure of atoms of nothing in particular."""
        return float(self.member_baselines.mean())

    @property
    def baseline_std(self) -> float | None:
        """How much the members differ about the baseline."""
        return _number(_spread(self.member_baselines))

    @property
    def prediction(self) -> float:
        """The explained prediction."""
        return float(self.member_predictions.mean())

    @property
    def gap(self) -> float:
        """Part of the sum that the quadrature misses; smaller with more steps."""
        return self.prediction - self.baseline - float(self.contributions.sum())

    def by_element(self) -> list[ElementContribution]:
        """Sums over the atoms of each element, the largest first."""
        rows = []
        for z in np.unique(self.numbers):
            mine = self.members[:, self.numbers == z]
            total = mine.sum(axis=1)
            rows.append(ElementContribution(symbols()[z], mine.shape[1], float(total.mean()), _number(_spread(total))))
        return sorted(rows, key=lambda row: -abs(row.contribution))

    def by_orbit(self) -> list[OrbitContribution]:
        """One row for each class of equivalent atoms, in the order of their first atoms."""
        rows = []
        for orbit in range(int(self.orbits.max()) + 1):
            atoms = np.flatnonzero(self.orbits == orbit)
            each = self.members[:, atoms].mean(axis=1)
            symbol = symbols()[self.numbers[atoms[0]]]
            indices = tuple(int(i) for i in atoms)
            rows.append(OrbitContribution(indices, symbol, float(each.mean()), _number(_spread(each))))
        return rows

    def to_dict(self) -> dict[str, object]:
        """Plain values, ready for JSON."""
        std = self.std
        return {
            "property": self.target,
            "value": self.value,
            "value_unit": self.value_unit,
            "unit": self.unit,
            "per_atom": self.per_atom,
            "prediction": self.prediction,
            "baseline": self.baseline,
            "baseline_std": self.baseline_std,
            "baseline_kind": self.baseline_kind,
            "gap": self.gap,
            "n_steps": self.n_steps,
            "atoms": [
                {
                    "index": i,
                    "symbol": symbols()[z],
                    "orbit": int(self.orbits[i]),
                    "contribution": float(self.contributions[i]),
                    "std": None if std is None else float(std[i]),
                }
                for i, z in enumerate(self.numbers)
            ],
            "elements": [row._asdict() for row in self.by_element()],
            "model": self.model,
            "model_sha256": self.model_sha256,
        }


def explain(
    atoms: "Atoms | Structure",
    model: "CrystalModel | str | Path" = DEFAULT_MODEL,
    *,
    n_steps: int = N_STEPS,
    baseline: Baseline = "pure-elements",
    engine: Engine = "torch",
) -> Explanation:
    """Contributions of the atoms to a prediction, by integrated gradients over their first vectors.

    Each atom's vector goes on a straight line from the baseline to its element's, all atoms together, and its
    contribution is what the prediction gains by its movement. Bonds and distances stay as they are: a contribution is
    that of an atom's chemical identity in its surroundings, measured against the baseline's.

    Parameters
    ----------
    atoms : ase.Atoms or pymatgen Structure
        The structure.
    model : CrystalModel, str or path
        A model, or the name or path of one.
    n_steps : int
        Points of the quadrature; the gap that is left is part of the result.
    baseline : {"pure-elements", "mean-element", "zero"}
        What the atoms are measured against. ``pure-elements``: the same structure with all its atoms of one element,
        the mean over 24 elements that are spread evenly over those that the model was trained on (over all 100 known
        ones where it does not say); for a formation energy that is near zero, as it should be. ``mean-element``: the
        structure of an average element, whose vector is the mean over the elements: 24 times quicker, but the members
        agree less on what is no element. ``zero``: of atoms with the zero vector.
    engine : {"auto", "dgl", "torch"}
        How messages are passed.

    Raises
    ------
    ValueError
        If no graph of the structure can be built, or the model predicts sites.

    Examples
    --------
    >>> explanation = explain(atoms, "formation-energy-per-atom")  # doctest: +SKIP
    >>> explanation.baseline + explanation.contributions.sum() + explanation.gap == explanation.prediction
    ... # doctest: +SKIP
    """
    if baseline not in get_args(Baseline):
        raise ValueError(f"unknown baseline {baseline!r}; allowed: {', '.join(get_args(Baseline))}")
    loaded = model if isinstance(model, CrystalModel) else load_model(model)
    loaded.check_level("crystal", "an explanation")
    graph = build_graph(as_atoms(atoms), changed(loaded.graph, merge=False))
    training = loaded.training
    loaded.eval()
    try:
        with _threads_for_cores():
            rows = [_explain_network(loaded, network, graph, n_steps, baseline, engine) for network in loaded.networks]
    finally:
        loaded.train(training)
    members, baselines, predictions = (np.array(part) for part in zip(*rows, strict=True))
    target = loaded.target
    return Explanation(
        numbers=graph.numbers.numpy(),
        orbits=equivalent_atoms(graph),
        members=members,
        member_baselines=baselines,
        member_predictions=predictions,
        target=target.name,
        unit="log-odds" if target.task == "classification" else target.learned_unit,
        value=physical_value(loaded, predictions),
        value_unit=target.unit,
        per_atom=target.per_atom,
        baseline_kind=baseline,
        n_steps=n_steps,
        model=loaded.name,
        model_sha256=loaded.sha256,
    )


@contextmanager
def _threads_for_cores() -> Iterator[None]:
    """Compute with no more threads than this process has cores: torch counts those of the machine, and more are slower.

    In a container of one core on a machine of two, two threads took six times as long.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, available_cores()))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def explained_value(model: CrystalModel, output: Output) -> Tensor:
    """The number that is explained of each crystal, from a network's output: (B,) in the explanation's unit.

    What the network learned, in its own unit; for a classification the log-odds of class 1, as calibrated.
    """
    value = output.of(model.outputs).value
    if model.target.task == "regression":
        return model.scaler.unscale(value[:, 0])
    logits = value / (
        model.calibration.temperature if isinstance(model.calibration, ClassificationCalibration) else 1.0
    )
    others = [k for k in range(logits.shape[1]) if k != 1]
    return logits[:, 1] - logits[:, others].logsumexp(dim=1)


def physical_value(model: CrystalModel, predictions: Floats) -> float:
    """The ensemble's prediction as ``predict`` gives it, from the explained numbers of the members (M,)."""
    if model.target.task == "classification":
        return float(np.mean(1 / (1 + np.exp(-predictions))))
    mean = model.target.clamp(torch.from_numpy(predictions)).numpy().mean(keepdims=True)
    return float(model.target.to_physical(mean)[0])


def known_elements(model: CrystalModel) -> list[int]:
    """Atomic numbers that the model was trained on; all where it does not say."""
    return list(range(1, MAX_NUMBER + 1)) if model.calibration is None else sorted(model.calibration.domain.elements)


def equivalent_atoms(graph: CrystalGraph) -> Ints:
    """Class of each atom of one unmerged crystal, (N,): atoms of a class are the same to every graph network."""
    numbers, centers, neighbors = graph.numbers.numpy(), graph.centers.numpy(), graph.neighbors.numpy()
    distances = graph.distances.numpy().astype(np.float64)
    return merge_equivalent(numbers, centers, neighbors, distances, graph.angular.numpy()).class_of


def _explain_network(
    model: CrystalModel, network: Network, graph: CrystalGraph, n_steps: int, baseline: Baseline, engine: Engine
) -> tuple[Floats, float, float]:
    """One member's contributions (N,), its baseline, and what it predicts without any of this."""
    device = next(network.parameters()).device
    graph = to_device(graph, device)
    read_out = partial(explained_value, model)
    embedding = embedding_of(network)
    with torch.no_grad():
        prediction = read_out(network(graph, engine))
        end = embedding(graph.numbers)
        starts = _starts(model, network, end, baseline)
        value = value_of_vectors(network, graph, read_out, engine)
        at_starts = torch.stack([value(start[None])[0] for start in starts])
    contributions = integrated_gradients(value, end, starts, n_steps)
    return contributions.cpu().numpy(), float(at_starts.double().mean()), float(prediction)


def _starts(model: CrystalModel, network: Network, end: Tensor, baseline: Baseline) -> Tensor:
    """First vectors of the atoms in each structure of the baseline, (K, N, F)."""
    if baseline == "zero":
        return torch.zeros_like(end)[None]
    elements = known_elements(model)
    if baseline == "pure-elements":
        elements = [elements[i] for i in np.unique(np.linspace(0, len(elements) - 1, N_PURE).round().astype(int))]
    vectors: Tensor = embedding_of(network)(torch.tensor(elements, device=end.device))  # (K, F)
    if baseline == "mean-element":
        vectors = vectors.mean(dim=0, keepdim=True)
    return vectors[:, None, :].expand(-1, *end.shape)


def _spread(members: Floats) -> Floats | None:
    """Standard deviation over the members (M, ...), as everywhere in this package; None of one."""
    return np.asarray(members.std(axis=0)) if len(members) > 1 else None


def _number(value: Floats | None) -> float | None:
    return None if value is None else float(value)
