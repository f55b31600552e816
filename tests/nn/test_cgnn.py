"""CGNN against its equations written out edge by edge, and what it must not see."""

from dataclasses import asdict, replace

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.spacegroup import crystal
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.nn import functional

from cgcnn_ase.graphs import CrystalGraph, GraphConfig, build_graph, build_graphs
from cgcnn_ase.graphs.crystal_graph import crystal_index
from cgcnn_ase.graphs.quotient import merge_equal_edges, merge_equivalent
from cgcnn_ase.nn.architecture import ARCHITECTURES
from cgcnn_ase.nn.cgcnn import CGCNNConfig
from cgcnn_ase.nn.cgnn import CGNN, AggregateLayer, BilinearLayer, CGNNConfig, CGNNConvolution, FastLayer
from cgcnn_ase.nn.layers import activation
from cgcnn_ase.nn.messages import build_edges
from cgcnn_ase.nn.network import Network, NetworkConfig
from cgcnn_ase.prediction.fused_cgcnn import for_prediction

STRUCTURES = [
    bulk("NaCl", "rocksalt", a=5.6, cubic=True),
    bulk("Ti", "hcp", a=2.95) * (2, 1, 1),
    crystal(["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.6, 4.6, 2.96, 90, 90, 90]),
    Atoms("He", cell=[30] * 3, pbc=True),
]
COORDINATOR = GraphConfig(rule="coordinator")

SMALL = CGNNConfig(n_features=6, n_hidden=5, n_edge_features=7, n_convolutions=2, cardinality=3, width=2)

VARIANTS: dict[str, CGNNConfig] = {
    "complete": SMALL,
    "benchmark": replace(SMALL, edge_network="none", n_post_layers=0),
    "no edge network": replace(SMALL, edge_network="none", edge_activation="ssp", bias=True),
    "original": replace(SMALL, edge_network="original", n_edge_layers=2, edge_shortcut=False, bias=True),
    "original, norms": replace(SMALL, edge_network="original", edge_network_norm="batch", edge_norm="batch"),
    "fast 0": replace(SMALL, fast_type=0, n_edge_layers=2, edge_network_norm="batch", node_norm="batch"),
    "fast 1": replace(SMALL, n_edge_layers=2, edge_network_norm="batch", bias=True, node_activation="celu"),
    "aggregate": replace(SMALL, edge_network="aggregate", n_edge_layers=2, bias=True, core="neighbor"),
    "aggregate, norms": replace(SMALL, edge_network="aggregate", edge_network_norm="batch", edge_norm="batch"),
    "neighbors": replace(SMALL, core="neighbor", edge_activation="selu", edge_norm="batch", n_post_layers=1),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(11)


def randomised(model: nn.Module) -> nn.Module:
    """In double precision, the norms' numbers too."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and ("norm" in name or name.endswith("bias")):
                tensor.uniform_(0.3, 1.5)
    return model.double()


def double(graph: CrystalGraph) -> CrystalGraph:
    return graph._replace(**{name: getattr(graph, name).double() for name in ("distances", "angular", "multiplicity")})


def dense(layer: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(layer, nn.Linear)
    return x @ layer.weight.T + (0 if layer.bias is None else layer.bias)


def edge_layer(layer: nn.Module, h_i: Tensor, e: Tensor, config: CGNNConfig, h: Tensor, centers: Tensor) -> Tensor:
    """One layer of an edge network, on a row for each edge as in the reference."""
    f = activation(config.edge_network_activation)
    if isinstance(layer, BilinearLayer):
        b = layer.bilinear
        rows = torch.stack([torch.stack([x @ w @ y for w in b.weight]) for x, y in zip(h_i, e, strict=True)])
        return f(layer.norm(rows + (0 if b.bias is None else b.bias)))
    if isinstance(layer, FastLayer):
        left, right = layer.node_norm(dense(layer.node, h))[centers], layer.edge_norm(dense(layer.edge, e))
        return f(left * right) if config.fast_type == 0 else f(left) * f(right)
    assert isinstance(layer, AggregateLayer)
    x, y = f(dense(layer.node, h_i)).chunk(config.cardinality, 1), f(dense(layer.edge, e)).chunk(config.cardinality, 1)
    blocks = [functional.bilinear(a, b, w) for a, b, w in zip(x, y, layer.bilinear, strict=True)]
    mixed = torch.cat(blocks, dim=1) + (0 if layer.bilinear_bias is None else layer.bilinear_bias)
    return f(layer.norm(dense(layer.out, f(mixed))))


def convolution_by_words(layer: CGNNConvolution, h: Tensor, graph: CrystalGraph, config: CGNNConfig) -> Tensor:
    h_i, e = h[graph.centers], h[graph.neighbors]
    network = layer.edge_network
    if network is not None:
        for k, part in enumerate(network.layers):
            new = edge_layer(part, h_i, e, config, h, graph.centers)
            e = new if network.shortcuts is None else new + e @ network.shortcuts[k].weight.T  # type: ignore[operator]
    z = dense(layer.gate, e)
    if layer.core is not None:
        z = torch.cat([z, dense(layer.core, h[graph.neighbors])], dim=1)
    gate, core = layer.edge_norm(z).chunk(2, dim=1)
    if config.edge_activation is not None:
        core = activation(config.edge_activation)(core)
    messages = torch.sigmoid(gate) * core
    total = torch.stack([messages[graph.centers == i].sum(dim=0) for i in range(len(h))])
    for part in layer.post:
        total = activation(config.post_activation)(part.norm(dense(part.linear, total)))  # type: ignore[operator, arg-type]
    out = layer.node_norm(h + total)
    return out if config.node_activation is None else activation(config.node_activation)(out)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("engine", ["torch", "dgl"])
@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_convolution_edge_by_edge(config: CGNNConfig, engine: str, training: bool) -> None:
    if engine == "dgl":
        pytest.importorskip("dgl")
    graph = double(build_graphs(STRUCTURES, COORDINATOR))
    layer = randomised(CGNNConvolution(config)).train(training)
    h = torch.randn(len(graph.numbers), config.n_features).double()
    edges = build_edges(graph, engine)  # type: ignore[arg-type]
    torch.testing.assert_close(layer(h, edges), convolution_by_words(layer, h, graph, config))  # type: ignore[arg-type]


@pytest.mark.parametrize("multi_step", [False, True])
@pytest.mark.parametrize("pooling", ["gated", "mean"])
def test_the_network_is_the_sum_of_its_parts(pooling: str, multi_step: bool) -> None:
    """Gated or linear pooling, after each layer or the last, then full connections."""
    config = replace(SMALL, pooling=pooling, multi_step=multi_step)  # type: ignore[arg-type]
    graph = double(build_graphs(STRUCTURES, COORDINATOR))
    model = CGNN(config)
    randomised(model).eval()
    h, pooled = model.embedding(graph.numbers), []
    for t, layer in enumerate(model.convolutions):
        h = layer(h, build_edges(graph, "torch"))
        step = model.pooling.steps[t] if multi_step else model.pooling  # type: ignore[index, union-attr]
        gated = torch.sigmoid(dense(step.gate, h)) * h if pooling == "gated" else h  # type: ignore[arg-type, union-attr]
        pooled.append(torch.stack([part.mean(dim=0) for part in gated.split(graph.n_nodes.tolist())]))
    if multi_step:
        weights = [linear.weight for linear in model.pooling.linears]  # type: ignore[union-attr]
        c = sum(p @ w.T for p, w in zip(pooled, weights, strict=True))  # type: ignore[operator]
    else:
        c = pooled[-1]
    c = functional.softplus(model.norm(c))
    for layer in model.hidden:
        c = functional.softplus(layer.norm(c @ layer.linear.weight.T))  # type: ignore[operator, union-attr]
    torch.testing.assert_close(model(graph, "torch"), c)


def two_steps(network: Network, graph: CrystalGraph, engine: str) -> list[Tensor]:
    """Outputs of a step, gradients of its loss, outputs of the next and running statistics."""
    first = network(graph, engine).value  # type: ignore[arg-type]
    (first.square().sum() + first[0].exp().sum()).backward()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    second = network(graph, engine).value  # type: ignore[arg-type]
    return [first, *gradients, second, *network.buffers()]


@pytest.mark.parametrize("rule", ["coordinator", "shell"])
@pytest.mark.parametrize("engine", ["torch", "dgl"])
@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_training_on_merged_atoms_and_edges_is_training_on_all(config: CGNNConfig, engine: str, rule: str) -> None:
    if engine == "dgl":
        pytest.importorskip("dgl")
    results = []
    whole = build_graphs(STRUCTURES, GraphConfig(rule=rule))  # type: ignore[arg-type]
    fewer = merge_equal_edges(whole)
    merged = build_graphs(STRUCTURES, GraphConfig(rule=rule, merge=True))  # type: ignore[arg-type]
    assert len(merged.centers) < len(fewer.centers) < len(whole.centers)
    for graph in (whole, merged, fewer):
        torch.manual_seed(0)
        network = randomised(Network(NetworkConfig(architecture=config)))
        results.append(two_steps(network, double(graph), engine))  # type: ignore[arg-type]
    for expected, *result in zip(*results, strict=True):
        torch.testing.assert_close(result[0], expected)
        torch.testing.assert_close(result[1], expected)


def test_a_batch_is_its_graphs_one_at_a_time() -> None:
    for config in VARIANTS.values():
        model = CGNN(config).eval()
        with torch.no_grad():
            together = model(build_graphs(STRUCTURES, COORDINATOR))
            apart = torch.cat([model(build_graph(atoms, COORDINATOR)) for atoms in STRUCTURES])
        torch.testing.assert_close(together, apart, atol=1e-6, rtol=1e-5)
        assert (together[0] - together[1:]).abs().amax(dim=1).min() > 1e-5


def test_no_distance_enters() -> None:
    """A uniformly strained crystal is the same, and so is a graph with made-up distances."""
    model = CGNN(SMALL).eval()
    graph = build_graphs(STRUCTURES, COORDINATOR)
    strained = [atoms.copy() for atoms in STRUCTURES]
    for atoms in strained:
        atoms.set_cell(1.3 * atoms.cell.array, scale_atoms=True)
    with torch.no_grad():
        torch.testing.assert_close(model(build_graphs(strained, COORDINATOR)), model(graph))
        assert torch.equal(model(graph._replace(distances=torch.rand_like(graph.distances))), model(graph))


def test_times_the_number_of_atoms() -> None:
    config = NetworkConfig(architecture=replace(SMALL, extensive=True), quantiles=True)
    plain = Network(replace(config, architecture=SMALL)).eval()
    network = Network(config).eval()
    network.load_state_dict(plain.state_dict())
    cell = STRUCTURES[2]
    for merge in (False, True):
        graph = build_graphs([cell, cell * (2, 1, 1)], GraphConfig(rule="coordinator", merge=merge))
        with torch.no_grad():
            result, expected = network(graph), plain(graph)
        for one, other in zip(result, expected, strict=True):
            torch.testing.assert_close(one, other * torch.tensor([[6.0], [12.0]]))
            torch.testing.assert_close(one[1], 2 * one[0])
    for pooling in ("sum", "max", "mean+max", "site", "site+mean"):
        with pytest.raises(ValueError, match="times the number of atoms makes sense of a mean"):
            replace(SMALL, extensive=True, pooling=pooling)  # type: ignore[arg-type]


@pytest.mark.parametrize("pooling", ["site", "site+mean"])
@pytest.mark.parametrize("multi_step", [False, True])
def test_a_row_for_each_site(multi_step: bool, pooling: str) -> None:
    """Equal sites have equal rows, in training too: no norm takes them for a batch of crystals."""
    whole, merged = (build_graphs(STRUCTURES, GraphConfig(rule="coordinator", merge=m)) for m in (False, True))
    sites = merge_equivalent(
        whole.numbers.numpy() + 128 * crystal_index(whole).numpy(),
        whole.centers.numpy(),
        whole.neighbors.numpy(),
        whole.distances.numpy().astype(float),
        whole.angular.numpy(),
    )
    model = CGNN(replace(SMALL, pooling=pooling, multi_step=multi_step)).double()
    for training in (True, False):
        model.train(training)
        rows = model(double(merged))
        assert rows.shape == (len(merged.numbers), 5)
        torch.testing.assert_close(rows[sites.class_of], model(double(whole)))


def test_the_copy_for_prediction() -> None:
    network = Network(NetworkConfig(architecture=VARIANTS["fast 0"]))
    graph = build_graphs(STRUCTURES, GraphConfig(rule="coordinator", merge=True))
    network(graph)
    with torch.inference_mode():
        torch.testing.assert_close(
            for_prediction(network)(merge_equal_edges(graph)).value, network.eval()(graph).value, atol=1e-5, rtol=1e-5
        )


def test_activations() -> None:
    x = torch.linspace(-4, 4, 33, dtype=torch.double)
    minus = torch.exp(x.clamp(max=0)) - 1
    expected = {
        "softplus": torch.log(1 + torch.exp(x)),
        "ssp": torch.log(0.5 + 0.5 * torch.exp(x)),
        "elu": torch.where(x > 0, x, minus),
        "relu": x.clamp(min=0),
        "selu": 1.0507009873554805 * torch.where(x > 0, x, 1.6732632423543772 * minus),
        "celu": torch.where(x > 0, x, minus),
        "silu": x / (1 + torch.exp(-x)),
    }
    for name, values in expected.items():
        torch.testing.assert_close(activation(name)(x), values)  # type: ignore[arg-type]


def test_settings_are_told_apart_by_their_tag() -> None:
    read = TypeAdapter(NetworkConfig).validate_python
    for architecture in (CGCNNConfig(n_features=3), SMALL):
        config = NetworkConfig(architecture=architecture)
        assert read(asdict(config)) == config
        assert TypeAdapter(NetworkConfig).validate_python(config) == config
    assert read({"architecture": {"n_features": 5}}).architecture == CGCNNConfig(n_features=5)
    assert read({"architecture": {"architecture": "cgnn"}}).architecture == CGNNConfig()
    for wrong in ({"architecture": "gnn"}, {"architecture": "cgnn", "n_gaussians": 3}):
        with pytest.raises(ValidationError):
            read({"architecture": wrong})
    assert ARCHITECTURES.get("cgcnn") is CGCNNConfig
    assert ARCHITECTURES.get("cgnn") is CGNNConfig
    with pytest.raises(ValueError, match="unknown architecture 'gnn'; .*allowed: alignn, cgcnn"):
        ARCHITECTURES.get("gnn")
    with pytest.raises(ValueError, match="at least one layer"):
        CGNNConfig(n_hidden_layers=0)


def test_what_fine_tuning_may_fix() -> None:
    model = CGNN(SMALL)
    fixed = {p for group in model.backbone for module in group for p in module.parameters()}
    rest = [name for name, p in model.named_parameters() if p not in fixed]
    assert {name.split(".")[0] for name in rest} == {"pooling", "norm", "hidden"}
