"""The convolutions against the papers' equations written out, and the network they make up."""

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from torch import Tensor
from torch.nn import functional

from cgcnn_ase.graphs import CrystalGraph, GraphConfig, build_graph, build_graphs
from cgcnn_ase.nn.cgcnn import CGCNN, CGCNNConfig
from cgcnn_ase.nn.layers import EdgeGatedConvolution, GatedConvolution, SimpleConvolution
from cgcnn_ase.nn.messages import build_edges

F, G = 5, 4

STRUCTURES = [
    bulk("NaCl", "rocksalt", a=5.6),
    Atoms("He", cell=[30] * 3, pbc=True),
    bulk("Ti", "hcp", a=2.95),
    Atoms("OHH", positions=[(0, 0, 0), (0.96, 0, 0), (-0.24, 0.93, 0)]),
]


@pytest.fixture
def graph() -> CrystalGraph:
    return build_graphs(STRUCTURES, GraphConfig(angular=True))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(3)


def randomise(module: torch.nn.Module) -> None:
    """Norms too: as they are created they change nothing in eval mode."""
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.3, 1.5)
        for weight in module.parameters():
            if weight.dim() == 2:
                weight.normal_(0.0, 0.4)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", ["batch", "layer", "none"])
@pytest.mark.parametrize("act", ["softplus", "silu"])
def test_gated_convolution_is_equation_5(graph: CrystalGraph, act: str, kind: str, training: bool) -> None:
    layer = GatedConvolution(F, G, act, kind).double()  # type: ignore[arg-type]
    randomise(layer)
    layer.train(training)
    v, u = torch.randn(len(graph.numbers), F).double(), torch.randn(len(graph.centers), G).double()
    new_v, new_u = layer(v, u, build_edges(graph, "torch"))

    def g(x: Tensor) -> Tensor:
        return functional.softplus(x) if act == "softplus" else functional.silu(x)

    z = torch.cat([v[graph.centers], v[graph.neighbors], u], dim=1)  # v_i + v_j + u_ij, concatenated
    zw = layer.edge_norm(z @ layer.full.weight.T + layer.full.bias)
    messages = torch.sigmoid(zw[:, :F]) * g(zw[:, F:])
    total = torch.stack([messages[graph.centers == i].sum(dim=0) for i in range(len(v))])
    torch.testing.assert_close(new_v, g(v + layer.node_norm(total)))
    assert new_u is u


@pytest.mark.parametrize("engine", ["torch", "dgl"])
@pytest.mark.parametrize("kind", ["batch", "none"])
def test_simple_convolution_is_equation_4(graph: CrystalGraph, kind: str, engine: str) -> None:
    if engine == "dgl":
        pytest.importorskip("dgl")
    layer = SimpleConvolution(F, G, "softplus", kind).double()  # type: ignore[arg-type]
    randomise(layer)
    layer.eval()
    v, u = torch.randn(len(graph.numbers), F).double(), torch.randn(len(graph.centers), G).double()
    new_v, new_u = layer(v, u, build_edges(graph, engine))  # type: ignore[arg-type]

    joined = torch.cat([v[graph.neighbors], u], dim=1)  # v_j + u_ij, concatenated
    total = torch.stack([joined[graph.centers == i].sum(dim=0) for i in range(len(v))])
    linear = total @ layer.around.weight.T + v @ layer.own.weight.T + layer.own.bias
    torch.testing.assert_close(new_v, functional.softplus(layer.node_norm(linear)))
    assert new_u is u


@pytest.mark.parametrize("engine", ["torch", "dgl"])
@pytest.mark.parametrize("kind", ["batch", "layer"])
@pytest.mark.parametrize("edge_messages", [False, True])
def test_edge_gated_convolution_atom_by_atom(graph: CrystalGraph, kind: str, engine: str, edge_messages: bool) -> None:
    if engine == "dgl":
        pytest.importorskip("dgl")
    layer = EdgeGatedConvolution(F, "silu", kind, edge_messages=edge_messages).double()  # type: ignore[arg-type]
    randomise(layer)
    layer.eval()
    h, y = torch.randn(len(graph.numbers), F).double(), torch.randn(len(graph.centers), F).double()
    new_h, new_y = layer(h, y, build_edges(graph, engine))  # type: ignore[arg-type]

    weights, biases = layer.node.weight.chunk(4), layer.node.bias.chunk(4)
    of = {name: (w, b) for name, w, b in zip("ABUV", weights, biases, strict=True)}

    def dense(name: str, x: Tensor) -> Tensor:
        return of[name][0] @ x + of[name][1]

    for i in range(len(h)):
        top, bottom = torch.zeros(F).double(), torch.full((F,), layer.eps).double()
        for edge in torch.nonzero(graph.centers == i).flatten().tolist():
            j = int(graph.neighbors[edge])
            e_ij = dense("A", h[i]) + dense("B", h[j]) + layer.edge.weight @ y[edge] + layer.edge.bias
            top += torch.sigmoid(e_ij) * (dense("V", h[j]) + (y[edge] if edge_messages else 0))
            bottom += torch.sigmoid(e_ij)
            y_ij = y[edge] + functional.silu(layer.edge_norm(e_ij[None])[0])
            torch.testing.assert_close(new_y[edge], y_ij)
        h_i = h[i] + functional.silu(layer.node_norm((dense("U", h[i]) + top / bottom)[None])[0])
        torch.testing.assert_close(new_h[i], h_i)


def network(convolution: str, embedding: str = "descriptor") -> CGCNN:
    config = CGCNNConfig(
        n_features=8,
        n_hidden=6,
        n_hidden_layers=2,
        n_gaussians=20,
        n_angular=12,
        convolution=convolution,  # type: ignore[arg-type]
        norm="batch" if convolution in ("gated", "simple") else "layer",
        embedding=embedding,  # type: ignore[arg-type]
        atom_layer=convolution not in ("gated", "simple"),
        dropout=0.3,
    )
    return CGCNN(config)


@pytest.mark.parametrize("engine", ["torch", "auto"])
@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("convolution", ["gated", "simple", "edge-gated", "edge-message"])
def test_a_batch_is_its_graphs_one_at_a_time(convolution: str, merge: bool, engine: str) -> None:
    config = GraphConfig(angular=True, merge=merge)
    model = network(convolution).eval()
    with torch.no_grad():
        together = model(build_graphs(STRUCTURES, config), engine)
        apart = torch.cat([model(build_graph(atoms, config), engine) for atoms in STRUCTURES])
    assert together.shape == (len(STRUCTURES), 6)
    assert (together[0] - together[1:]).abs().amax(dim=1).min() > 1e-4
    torch.testing.assert_close(together, apart, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("convolution", ["gated", "simple", "edge-gated", "edge-message"])
def test_slope_by_the_distances_equals_finite_differences(convolution: str) -> None:
    graph = build_graphs([STRUCTURES[2], STRUCTURES[3]], GraphConfig(angular=True))
    graph = graph._replace(**{name: getattr(graph, name).double() for name in ("distances", "angular", "multiplicity")})
    model = network(convolution).double().eval()

    def total(distances: Tensor) -> Tensor:
        out: Tensor = model(graph._replace(distances=distances), "auto")
        return out.sum()

    distances = graph.distances.clone().requires_grad_()
    (slope,) = torch.autograd.grad(total(distances), distances)
    step, numerical = 1e-4, torch.zeros_like(graph.distances)
    with torch.no_grad():
        for e in range(len(distances)):
            move = torch.zeros_like(graph.distances)
            move[e] = step
            numerical[e] = (total(graph.distances + move) - total(graph.distances - move)) / (2 * step)
    assert slope.abs().max() > 1e-5
    torch.testing.assert_close(slope, numerical, atol=1e-8, rtol=1e-4)


@pytest.mark.parametrize("embedding", ["descriptor", "learned", "both"])
def test_the_network_is_the_sum_of_its_parts(graph: CrystalGraph, embedding: str) -> None:
    """Pooling is the mean over the atoms of each crystal; dropout acts in training only."""
    model = network("edge-gated", embedding).eval()
    with torch.no_grad():
        atoms = model.atoms(graph, "torch")
        pooled = torch.stack([part.mean(dim=0) for part in atoms[-1].split(graph.n_nodes.tolist())])
        torch.testing.assert_close(model.pool(graph, atoms), pooled)
        torch.testing.assert_close(model.crystal(pooled), model(graph, "torch"))
        assert torch.equal(model(graph, "torch"), model(graph, "torch"))
        model.train()
        assert not torch.equal(model(graph, "torch"), model(graph, "torch"))


def test_an_element_needs_edge_messages_to_show_its_structure() -> None:
    """Where all atoms are alike the weighted mean of their vectors is that vector, whatever the weights are."""
    carbon = [bulk("C", "diamond", a=3.57), bulk("C", "diamond", a=3.8), bulk("C", "fcc", a=4.0)]
    graphs = build_graphs(carbon, GraphConfig())

    def spread(convolution: str) -> float:
        config = CGCNNConfig(convolution=convolution, norm="layer", activation="silu")  # type: ignore[arg-type]
        values = CGCNN(config).eval()(graphs, "torch")
        return float((values - values[0]).abs().max())

    assert spread("edge-gated") < 1e-5
    assert spread("edge-message") > 1e-3
