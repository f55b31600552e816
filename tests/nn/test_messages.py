"""DGL and plain torch move the same numbers: in value, gradient and gradient of the gradient."""

from collections.abc import Callable

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from cgcnn_ase.graphs import CrystalGraph, GraphConfig, build_graphs
from cgcnn_ase.graphs.quotient import merge_equal_edges
from cgcnn_ase.nn import messages
from cgcnn_ase.nn.cgcnn import CGCNN, CGCNNConfig
from cgcnn_ase.nn.messages import (
    Edges,
    build_edges,
    neighbor_sum,
    pair_sum,
    segment_mean,
    sum_messages,
    weighted_mean,
)

N, E, F = 4, 7, 3

Function = Callable[[Edges, Tensor, Tensor], Tensor]


def mixed_batch(config: GraphConfig) -> CrystalGraph:
    """Three crystals, one of them a single atom without any neighbour."""
    structures = [bulk("NaCl", "rocksalt", a=5.6), Atoms("He", cell=[30] * 3, pbc=True), bulk("Ti", "hcp", a=2.95)]
    return build_graphs(structures, config)


def tiny_edges(engine: str) -> Edges:
    """Seven edges among four nodes: loops, a double edge, and node 3 receives nothing."""
    graph = mixed_batch(GraphConfig())._replace(
        numbers=torch.ones(N, dtype=torch.long),
        centers=torch.tensor([0, 0, 0, 1, 1, 2, 2]),
        neighbors=torch.tensor([0, 1, 1, 2, 3, 0, 2]),
    )
    return build_edges(graph, engine)  # type: ignore[arg-type]


def pairs(edges: Edges, at_center: Tensor, at_neighbor: Tensor) -> Tensor:
    return pair_sum(edges, at_center.square(), at_neighbor)


def sums(edges: Edges, on_edges: Tensor, _: Tensor) -> Tensor:
    return sum_messages(edges, on_edges.square())


def weighted_sum(edges: Edges, weights: Tensor, at_neighbor: Tensor) -> Tensor:
    """The numerator of the weighted mean."""
    return weighted_mean(edges, weights, at_neighbor, eps=10.0) * (sum_messages(edges, weights) + 10.0)


def neighbors_summed(edges: Edges, _: Tensor, at_neighbor: Tensor) -> Tensor:
    return neighbor_sum(edges, at_neighbor)


FUNCTIONS: dict[str, tuple[Function, int, int]] = {
    "pair_sum": (pairs, N, N),
    "sum_messages": (sums, E, N),
    "weighted_sum": (weighted_sum, E, N),
    "neighbor_sum": (neighbors_summed, N, N),
}


def inputs(first: int, second: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((first, F), (second, F))
    a, b = (torch.randn(shape, generator=generator, dtype=torch.double).requires_grad_() for shape in shapes)
    return a, b


@pytest.fixture(params=["torch", "dgl"])
def engine(request: pytest.FixtureRequest) -> str:
    if request.param == "dgl":
        pytest.importorskip("dgl")
    return str(request.param)


def expected(name: str, a: Tensor, b: Tensor) -> Tensor:
    """Edge by edge."""
    centers, neighbors = tiny_edges("torch")[:2]
    edges = list(zip(range(E), centers.tolist(), neighbors.tolist(), strict=True))
    if name == "pair_sum":
        return torch.stack([a[i] ** 2 + b[j] for _, i, j in edges])
    rows = []
    for node in range(N):
        here = [(e, j) for e, i, j in edges if i == node]
        term = {
            "sum_messages": lambda e, _: a[e] ** 2,
            "weighted_sum": lambda e, j: a[e] * b[j],
            "neighbor_sum": lambda _, j: b[j],
        }[name]
        terms = [term(e, j) for e, j in here]
        rows.append(torch.stack(terms).sum(dim=0) if terms else torch.zeros(F, dtype=torch.double))
    return torch.stack(rows)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_gradients_follow_the_definition(engine: str, name: str) -> None:
    function, first, second = FUNCTIONS[name]
    a, b = inputs(first, second)
    edges = tiny_edges(engine)
    assert (edges.dgl_graph is not None) == (engine == "dgl")
    torch.testing.assert_close(function(edges, a, b), expected(name, a, b))
    gradients = [
        torch.autograd.grad(result.sin().sum(), (a, b), allow_unused=True, materialize_grads=True)
        for result in (function(edges, a, b), expected(name, a, b))
    ]
    torch.testing.assert_close(gradients[0], gradients[1])


def means(edges: Edges, on_edges: Tensor, at_neighbor: Tensor) -> Tensor:
    return weighted_mean(edges, on_edges.exp(), at_neighbor, on_edges, eps=1e-6)


@pytest.mark.parametrize("function", [sums, weighted_sum, means])
def test_an_edge_counts_as_often_as_its_multiplicity_says(engine: str, function: Function) -> None:
    """The same values and gradients as with each edge written out."""
    counts = torch.tensor([1, 3, 2, 1, 4, 2, 1])
    few, rows = mixed_batch(GraphConfig()), torch.arange(E).repeat_interleave(counts)
    few = few._replace(numbers=torch.ones(N, dtype=torch.long), multiplicity=torch.tensor([1.0, 2, 1, 5]))
    centers, neighbors = torch.tensor([0, 0, 0, 1, 1, 2, 2]), torch.tensor([0, 1, 1, 2, 3, 0, 2])
    merged = few._replace(centers=centers, neighbors=neighbors, edge_multiplicity=counts.double())
    written = few._replace(centers=centers[rows], neighbors=neighbors[rows])
    a, b = inputs(E, N)
    edges, all_edges = (build_edges(graph, engine) for graph in (merged, written))  # type: ignore[arg-type]
    assert edges.edge_weights is not None
    assert all_edges.edge_weights is not None
    torch.testing.assert_close(edges.edge_weights[rows], all_edges.edge_weights.double() * counts[rows])
    result, expected = function(edges, a, b), function(all_edges, a[rows], b)
    torch.testing.assert_close(result, expected)
    slopes = (
        torch.autograd.grad(r.sin().sum(), (a, b), materialize_grads=True, allow_unused=True)
        for r in (result, expected)
    )
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other)
    assert gradgradcheck(lambda x, y: function(edges, x, y).sin(), (a, b))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_of_gradients(engine: str, name: str) -> None:
    function, first, second = FUNCTIONS[name]
    edges = tiny_edges(engine)

    def smooth(a: Tensor, b: Tensor) -> Tensor:
        return function(edges, a, b).sin()

    assert gradcheck(smooth, inputs(first, second))
    assert gradgradcheck(smooth, inputs(first, second))


def test_a_graph_without_edges(engine: str) -> None:
    graph = build_graphs([Atoms("He", cell=[30] * 3, pbc=True)], GraphConfig())
    edges, none = build_edges(graph, engine), torch.zeros(0, F)  # type: ignore[arg-type]
    assert pair_sum(edges, torch.ones(1, F), torch.ones(1, F)).shape == (0, F)
    assert torch.equal(sum_messages(edges, none), torch.zeros(1, F))
    assert torch.equal(weighted_sum(edges, none, torch.ones(1, F)), torch.zeros(1, F))


@pytest.mark.parametrize("convolution", ["gated", "simple", "edge-gated", "edge-message"])
def test_equal_edges_computed_once(engine: str, convolution: str) -> None:
    """Sums count them as often as there are, and so do batch norms in training."""
    graph = mixed_batch(GraphConfig(angular=True))
    fewer = merge_equal_edges(graph)
    again = merge_equal_edges(fewer)
    assert again.edge_multiplicity.sum() == len(graph.centers)  # type: ignore[union-attr]
    assert len(fewer.centers) < 0.5 * len(graph.centers)
    outputs, statistics = [], []
    for edges in (graph, fewer):
        model = model_of(convolution, 12, norm="batch")
        outputs.append(model(edges, engine))  # type: ignore[arg-type]
        statistics += [{name: x for name, x in model.state_dict().items() if "running" in name}]
    torch.testing.assert_close(outputs[1], outputs[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(statistics[1], statistics[0], atol=1e-4, rtol=1e-4)


def test_segment_mean_weighs_the_rows() -> None:
    values = torch.tensor([[1.0, 10.0], [4.0, 40.0], [7.0, 70.0]])
    result = segment_mean(values, torch.tensor([2.0, 1.0, 5.0]), torch.tensor([0, 0, 1]), 2)
    torch.testing.assert_close(result, torch.tensor([[2.0, 20.0], [7.0, 70.0]]))


def model_of(convolution: str, n_angular: int, norm: str | None = None) -> CGCNN:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return CGCNN(
            CGCNNConfig(
                n_features=16,
                n_hidden=8,
                n_hidden_layers=2,
                n_gaussians=20,
                n_angular=n_angular,
                convolution=convolution,  # type: ignore[arg-type]
                norm=norm or ("batch" if convolution == "gated" else "layer"),  # type: ignore[arg-type]
                activation="softplus" if convolution == "gated" else "silu",
            )
        )


def force_loss(model: CGCNN, graph: CrystalGraph, engine: str) -> tuple[Tensor, ...]:
    """Output, its derivative by the distances, and the gradients of a loss on both: a gradient of a gradient."""
    distances = graph.distances.clone().requires_grad_()
    out = model(graph._replace(distances=distances), engine)
    (slope,) = torch.autograd.grad(out.sum(), distances, create_graph=True)
    loss = out.square().sum() + slope.square().sum()
    return out, slope, *torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("convolution", ["gated", "edge-gated", "edge-message"])
def test_the_network_agrees(convolution: str, merge: bool, training: bool) -> None:
    pytest.importorskip("dgl")
    graph = mixed_batch(GraphConfig(angular=True, merge=merge))
    model = model_of(convolution, 12).train(training)
    by_torch, by_dgl = (force_loss(model, graph, engine) for engine in ("torch", "dgl"))
    assert by_torch[1].abs().max() > 1e-6
    for one, other in zip(by_dgl, by_torch, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("convolution", ["gated", "edge-gated", "edge-message"])
def test_the_network_agrees_to_the_last_digits_in_double_precision(convolution: str) -> None:
    pytest.importorskip("dgl")
    graph = mixed_batch(GraphConfig())
    graph = graph._replace(**{k: getattr(graph, k).double() for k in ("distances", "angular", "multiplicity")})
    model = model_of(convolution, 0).double()
    for one, other in zip(*(force_loss(model, graph, engine) for engine in ("torch", "dgl")), strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-9)


def test_auto_takes_dgl_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = mixed_batch(GraphConfig())
    assert (build_edges(graph).dgl_graph is not None) == messages.dgl_available()
    monkeypatch.setattr(messages, "dgl_available", lambda: False)
    assert build_edges(graph, "auto").dgl_graph is None
    assert build_edges(graph, "torch").dgl_graph is None


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown engine 'jax'; allowed: auto, dgl, torch"):
        build_edges(mixed_batch(GraphConfig()), "jax")  # type: ignore[arg-type]


def test_asking_for_dgl_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "dgl", None)
    with pytest.raises(ImportError):
        build_edges(mixed_batch(GraphConfig()), "dgl")
