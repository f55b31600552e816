"""ALIGNN against its definition, and what every architecture must do."""

from collections.abc import Callable

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor
from torch.nn.functional import silu

from cgcnn_ase.graphs import CrystalGraph, GraphConfig, batch, build_graph, build_graphs
from cgcnn_ase.graphs.crystal_graph import map_tensors
from cgcnn_ase.nn.alignn import ALIGNN, ALIGNNConfig
from cgcnn_ase.nn.layers import EdgeGatedConvolution
from cgcnn_ase.nn.messages import connect_lines
from cgcnn_ase.nn.network import Network, NetworkConfig, Output
from cgcnn_ase.training.config import PRESETS, preset

LONELY = Atoms("He", cell=[30] * 3, pbc=True)
STRUCTURES = [bulk("NaCl", "rocksalt", a=5.6), LONELY, bulk("Ti", "hcp", a=2.95), molecule("H2O"), bulk("Cu", a=3.6)]
WHOLE, MERGED = GraphConfig(line_graph=True), GraphConfig(line_graph=True, merge=True)
TINY = {"n_features": 8, "n_alignn": 2, "n_gcn": 2, "n_distances": 16, "n_cosines": 10, "n_embedding": 6}


def network(norm: str = "batch", **more: object) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = Network(NetworkConfig(architecture=ALIGNNConfig(**TINY, norm=norm, **more)))  # type: ignore[arg-type]
        for tensor in made.state_dict().values():  # norms that are not 0 and 1
            if tensor.is_floating_point() and tensor.dim() == 1:
                tensor.add_(torch.rand_like(tensor) / 2)
        return made


def double(graph: CrystalGraph) -> CrystalGraph:
    return map_tensors(graph, lambda field: field.double() if field.is_floating_point() else field)


def test_as_many_weights_as_published() -> None:
    """Counted by the published code's layers: 4 + 4 layers of 256; each convolution has five linear maps, two norms."""
    f, h = 256, 64

    def linear(n_in: int, n_out: int) -> int:
        return n_in * n_out + n_out

    def dense(n_in: int, n_out: int) -> int:
        return linear(n_in, n_out) + 2 * n_out

    convolution = 5 * linear(f, f) + 2 * 2 * f
    embeddings = dense(92, f) + dense(80, h) + dense(h, f) + dense(40, h) + dense(h, f)
    expected = embeddings + (2 * 4 + 4) * convolution + linear(f, 1)
    assert expected == 4_026_753
    graph, config = preset("alignn")
    assert sum(p.numel() for p in Network(NetworkConfig(architecture=config)).parameters()) == expected
    assert graph.line_graph


def reference(model: ALIGNN, graph: CrystalGraph) -> Tensor:
    """The published forward pass, node by node and edge by edge, in evaluation; (N, F)."""
    assert graph.lines is not None
    spacing = {"d": 8.0 / 15, "c": 2.0 / 9}

    def expand(x: Tensor, first: float, last: float, n: int, gamma: float) -> Tensor:
        return torch.exp(-gamma * (x[:, None] - torch.linspace(first, last, n, dtype=x.dtype)) ** 2)

    def dense(layer: torch.nn.Module, x: Tensor) -> Tensor:
        linear, norm = layer.layer, layer.norm
        return silu(norm(x @ linear.weight.T + linear.bias))

    def convolution(
        layer: EdgeGatedConvolution, h: Tensor, y: Tensor, sources: list[int], targets: list[int]
    ) -> tuple[Tensor, Tensor]:
        n_f = h.shape[1]
        maps = zip(layer.node.weight.split(n_f), layer.node.bias.split(n_f), strict=True)
        to, of, center, sent = (h @ w.T + b for w, b in maps)
        m = torch.stack(
            [to[i] + of[j] + layer.edge(y[e]) for e, (j, i) in enumerate(zip(sources, targets, strict=True))]
            or [torch.zeros(n_f, dtype=h.dtype)]
        )[: len(sources)]
        rows = []
        for i in range(len(h)):
            mine = [e for e, target in enumerate(targets) if target == i]
            top = sum((torch.sigmoid(m[e]) * sent[sources[e]] for e in mine), torch.zeros(n_f, dtype=h.dtype))
            bottom = sum((torch.sigmoid(m[e]) for e in mine), torch.zeros(n_f, dtype=h.dtype))
            rows.append(center[i] + top / (bottom + 1e-6))
        return h + silu(layer.node_norm(torch.stack(rows))), y + silu(layer.edge_norm(m))

    bonds = graph.neighbors.tolist(), graph.centers.tolist()
    pairs = graph.lines.sources.tolist(), graph.lines.targets.tolist()
    elements = model.atom_embedding.layer
    x = silu(model.atom_embedding.norm(elements.linear(elements.descriptors[graph.numbers])))
    distances = expand(graph.distances, 0, 8, 16, 1 / spacing["d"])
    cosines = expand(graph.lines.cosines, -1, 1, 10, 1 / spacing["c"])
    y = dense(model.bond_embedding.out, dense(model.bond_embedding.hidden, distances))
    z = dense(model.angle_embedding.out, dense(model.angle_embedding.hidden, cosines))
    for layer in model.alignn_layers:
        x, m = convolution(layer.on_bonds, x, y, *bonds)
        y, z = convolution(layer.on_angles, m, z, *pairs)
    for layer in model.gcn_layers:
        x, y = convolution(layer, x, y, *bonds)
    return x


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_the_definition(norm: str) -> None:
    structures = [molecule("H2O"), LONELY, bulk("NaCl", "rocksalt", a=5.6)]
    graph = double(build_graphs(structures, GraphConfig(line_graph=True, n_neighbors=4)))
    net = network(norm).double()
    for _ in range(2):
        net(graph, "torch")  # running statistics that are not 0 and 1
    net.eval()
    model = net.architecture
    assert isinstance(model, ALIGNN)
    with torch.no_grad():
        torch.testing.assert_close(model.atoms(graph, "torch")[-1], reference(model, graph))


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_engines_agree(norm: str, merge: bool) -> None:
    """In value, gradient, and gradient of the gradient by the distances and cosines."""
    pytest.importorskip("dgl")
    graph = double(build_graphs(STRUCTURES, MERGED if merge else WHOLE))
    net = network(norm).double()
    assert graph.lines is not None
    result: list[tuple[Tensor, ...]] = []
    for engine in ("torch", "dgl"):
        distances, cosines = graph.distances.clone().requires_grad_(), graph.lines.cosines.clone().requires_grad_()
        moved = graph._replace(distances=distances, lines=graph.lines._replace(cosines=cosines))
        out = net(moved, engine).value
        slopes = torch.autograd.grad(out.sum(), (distances, cosines), create_graph=True)
        loss = out.square().sum() + sum(slope.square().sum() for slope in slopes)
        rest = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True, materialize_grads=True)
        result.append((out, *slopes, *rest))
    assert result[0][2].abs().max() > 1e-6
    for one, other in zip(*result, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("engine", ["torch", "auto"])
@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_a_batch_is_its_graphs_one_at_a_time_merged_or_whole(norm: str, engine: str) -> None:
    net = network(norm).eval()
    with torch.no_grad():
        together = net(build_graphs(STRUCTURES, WHOLE), engine).value
        for config in (WHOLE, MERGED):
            apart = [build_graph(atoms, config) for atoms in STRUCTURES]
            one_by_one = torch.cat([net(graph, engine).value for graph in apart])
            torch.testing.assert_close(one_by_one, together, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(net(batch(apart), engine).value, together, atol=1e-5, rtol=1e-5)
    assert together.isfinite().all()
    assert together.diff(dim=0).abs().min() > 1e-4


@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("engine", ["torch", "auto"])
def test_atoms_without_bonds_can_be_trained_on(norm: str, engine: str) -> None:
    graph = build_graphs([LONELY, Atoms("Ne", cell=[30] * 3, pbc=True)], MERGED)
    net = network(norm)
    net(graph, engine).value.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
    assert net.eval()(graph, engine).value.isfinite().all()
    assert all(tensor.isfinite().all() for tensor in net.state_dict().values())


@pytest.mark.parametrize(
    ("ends", "edge_messages", "seen"), [("HF", False, True), ("HH", False, False), ("HH", True, True)]
)
def test_angles_matter(ends: str, edge_messages: bool, seen: bool) -> None:
    """Bent and straight at the same bond lengths; the published mean over equal bonds does not see their angle."""
    bent = Atoms(f"O{ends}", positions=[(0, 0, 0), (0.96, 0, 0), (0, 0.96, 0)])
    straight = Atoms(f"O{ends}", positions=[(0, 0, 0), (0.96, 0, 0), (-0.96, 0, 0)])
    config = GraphConfig(rule="radius", cutoff=1.2, line_graph=True)
    with torch.no_grad():
        values = network("layer", edge_messages=edge_messages).eval()(build_graphs([bent, straight], config)).value
    assert ((values[0] - values[1]).abs() > 1e-5) == seen


def test_a_graph_without_lines_is_refused() -> None:
    graph = build_graph(STRUCTURES[0], GraphConfig())
    with pytest.raises(ValueError, match="must be built with line_graph=True"):
        network()(graph)
    with pytest.raises(ValueError, match="unknown engine 'jax'"):
        connect_lines(build_graph(STRUCTURES[0], WHOLE), "jax")  # type: ignore[arg-type]


def test_presets_by_name() -> None:
    assert preset("alignn-small") is PRESETS["alignn-small"]
    for graph, config in PRESETS.values():
        assert graph.line_graph == config.reads_lines
    with pytest.raises(ValueError, match="unknown preset 'alignn-huge'; .*allowed: .*alignn, alignn-small"):
        preset("alignn-huge")


@pytest.mark.parametrize("pooling", ["mean", "mean+max", "softmax", "site"])
def test_poolings(pooling: str) -> None:
    graph = build_graphs(STRUCTURES, MERGED)
    net = network("layer", pooling=pooling, dropout=0.2).eval()
    rows = len(graph.numbers) if pooling == "site" else len(STRUCTURES)
    assert net(graph).value.shape == (rows, 1)
    assert len(net.architecture.backbone) == 2


def test_compiled() -> None:
    """Traced without breaks, for batches of any size; the backend of the test makes no code."""
    net = network("layer").eval()
    compiled: Callable[..., Output] = torch.compile(net, dynamic=True, fullgraph=True, backend="eager")
    with torch.no_grad():
        for structures in (STRUCTURES, STRUCTURES[2:]):
            graph = build_graphs(structures, MERGED)
            torch.testing.assert_close(compiled(graph, "torch").value, net(graph, "torch").value)
