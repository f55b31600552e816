"""Each pooling against a plain loop over crystals and atoms, and what must not change it."""

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.spacegroup import crystal
from torch import Tensor

from cgcnn_ase.graphs import CrystalGraph, GraphConfig, build_graph, build_graphs
from cgcnn_ase.nn.cgcnn import CGCNN, CGCNNConfig
from cgcnn_ase.nn.cgnn import CGNN, CGNNConfig
from cgcnn_ase.nn.pooling import OF_SITES, MultiStepPooling, Pooling, PoolingName

NAMES: list[PoolingName] = list(get_args(PoolingName))
OF_CRYSTALS = [name for name in NAMES if name not in OF_SITES]
F, T = 5, 3

STRUCTURES = [
    bulk("NaCl", "rocksalt", a=5.6, cubic=True),
    bulk("Ti", "hcp", a=2.95) * (2, 1, 1),
    crystal(["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.6, 4.6, 2.96, 90, 90, 90]),
    Atoms("He", cell=[30] * 3, pbc=True),
]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(5)


def by_loop(pooling: Pooling, layers: list[Tensor]) -> Tensor:
    """Of one crystal, atom by atom: (N, F) of each layer -> (P,)."""
    atoms = list(layers[-1])
    if pooling.name == "softmax":
        assert pooling.attention is not None
        rows = [v for layer in layers for v in layer]
        scores = [torch.exp(v @ pooling.attention.weight[0] + pooling.attention.bias) for v in rows]
        weighted = [s * v for s, v in zip(scores, rows, strict=True)]
        return torch.stack(weighted).sum(dim=0) / torch.stack(scores).sum()
    if pooling.gate is not None:
        atoms = [torch.sigmoid(pooling.gate.weight @ v + pooling.gate.bias) * v for v in atoms]
    total, largest = torch.zeros(F).double(), torch.full((F,), -np.inf).double()
    for v in atoms:
        total, largest = total + v, torch.maximum(largest, v)
    mean = total / len(atoms)
    unlike = torch.stack([(v - mean).abs() for v in atoms])  # all atoms are of one element here
    spread = (unlike.square().mean(dim=0) + 0.01).sqrt()
    results = {
        "mean": mean,
        "sum": total,
        "max": largest,
        "mean+max": torch.cat([mean, largest]),
        "gated": mean,
        "layers": torch.cat([layer.mean(dim=0) for layer in layers]),
        "contrast": torch.cat([mean, unlike.amax(dim=0), *[unlike.amax(dim=0) / spread] * 2]),
    }
    return results[pooling.name]


def crystals_with(counts: list[list[int]]) -> CrystalGraph:
    """Crystals whose nodes stand for so many atoms; no edges are needed."""
    none = torch.zeros(0, dtype=torch.long)
    n = torch.tensor([len(c) for c in counts])
    return CrystalGraph(
        numbers=torch.ones(int(n.sum()), dtype=torch.long),
        centers=none,
        neighbors=none,
        distances=torch.zeros(0),
        angular=torch.zeros(0, 0),
        multiplicity=torch.tensor([float(m) for c in counts for m in c]).double(),
        n_nodes=n,
        n_edges=torch.zeros_like(n),
    )


COUNTS = [[1, 1, 1, 1], [1], [1, 1]]
REPEATED = [[2, 1, 3, 1], [4], [1, 2]]


def random_layers(n: int) -> list[Tensor]:
    return list(torch.randn(T, n, F).double())


@pytest.mark.parametrize("name", OF_CRYSTALS)
def test_crystal_by_crystal(name: PoolingName) -> None:
    graph, pooling = crystals_with(COUNTS), Pooling(name, F, T).double()
    layers = random_layers(7)
    parts = [v.split(graph.n_nodes.tolist()) for v in layers]
    expected = torch.stack([by_loop(pooling, [part[c] for part in parts]) for c in range(3)])
    result = pooling(graph, layers)
    assert result.shape == (3, pooling.n_out)
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("name", OF_CRYSTALS)
def test_nodes_count_as_often_as_they_stand_for_atoms(name: PoolingName) -> None:
    """In value and gradient."""
    pooling = Pooling(name, F, T).double()
    multiplicity = torch.tensor([m for c in REPEATED for m in c])
    all_atoms = crystals_with([[1] * sum(c) for c in REPEATED])
    results = []
    for graph, repeats in ((crystals_with(REPEATED), None), (all_atoms, multiplicity)):
        torch.manual_seed(0)
        layers = [v.requires_grad_() for v in random_layers(7)]
        out = pooling(graph, layers if repeats is None else [v.repeat_interleave(repeats, dim=0) for v in layers])
        weights = [*layers[:1], *pooling.parameters(), layers[-1]]
        results.append([out, *torch.autograd.grad(out.sin().sum(), weights, allow_unused=True)])
    for merged, whole in zip(*results, strict=True):
        assert (merged is None) == (whole is None)
        if merged is not None:
            torch.testing.assert_close(merged, whole)


@pytest.mark.parametrize("name", OF_CRYSTALS)
def test_steps_add_up(name: PoolingName) -> None:
    graph, pooling = crystals_with(REPEATED), MultiStepPooling(name, F, T).double()
    layers = random_layers(7)
    steps = zip(pooling.steps, pooling.linears, layers, strict=True)
    expected = sum(step(graph, [v]) @ linear.weight.T for step, linear, v in steps)  # type: ignore[operator]
    result = pooling(graph, layers)
    assert result.shape == (3, F)
    torch.testing.assert_close(result, expected)


def test_an_atom_is_held_against_its_own_element_in_its_own_crystal() -> None:
    graph = crystals_with([[3, 1, 1], [1, 1]])._replace(numbers=torch.tensor([8, 8, 3, 8, 3]))
    v = torch.tensor([[1.0], [5.0], [40.0], [7.0], [60.0]]).double()
    result = Pooling("contrast", 1)(graph, [v])
    # the mean over the oxygens of the first crystal is (3 * 1 + 5) / 4 = 2, their variance (3 * 1 + 9) / 4 = 3;
    # over all of its atoms the mean is 9.6 and the variance 233.44, in the second crystal 33.5 and 702.25
    of_all = [30.4 / 233.45**0.5, 26.5 / 702.26**0.5]
    expected = [[9.6, 3.0, 3.0 / 3.01**0.5, of_all[0]], [33.5, 0.0, 0.0, of_all[1]]]
    torch.testing.assert_close(result, torch.tensor(expected).double(), rtol=1e-6, atol=0.0)


def test_sites_are_not_pooled() -> None:
    layers = random_layers(7)
    assert Pooling("site", F)(crystals_with(REPEATED), layers) is layers[-1]
    assert MultiStepPooling("site", F, T).double()(crystals_with(REPEATED), layers).shape == (7, F)


def test_sites_beside_the_others() -> None:
    graph = crystals_with([[3, 1, 1]])._replace(numbers=torch.tensor([8, 8, 3]))
    result = Pooling("site+contrast", 1)(graph, [torch.tensor([[1.0], [5.0], [40.0]]).double()])
    small, large = 3.01**0.5, 233.45**0.5
    expected = [[1.0, -1.0, -1 / small, -8.6 / large], [5.0, 3.0, 3 / small, -4.6 / large], [40.0, 0, 0, 30.4 / large]]
    torch.testing.assert_close(result, torch.tensor(expected).double(), rtol=1e-6, atol=0.0)


def test_sites_beside_their_crystal() -> None:
    graph, layers = crystals_with(REPEATED), random_layers(7)
    result = Pooling("site+mean", F)(graph, layers)
    means = Pooling("mean", F)(graph, layers)
    assert result.shape == (7, 2 * F)
    torch.testing.assert_close(result[:, :F], layers[-1])
    torch.testing.assert_close(result[:, F:], torch.repeat_interleave(means, graph.n_nodes, dim=0))
    assert MultiStepPooling("site+mean", F, T).double()(graph, layers).shape == (7, F)


def test_an_unknown_name() -> None:
    with pytest.raises(ValueError, match="unknown pooling 'median'; allowed: mean, sum, max"):
        Pooling("median", F)  # type: ignore[arg-type]


# In a network

Embedding = Callable[[CrystalGraph], Tensor]


def embedding_of(architecture: str, name: PoolingName) -> tuple[Embedding, GraphConfig]:
    """The crystal embedding of a small random network in evaluation, double precision."""
    if architecture == "cgcnn":
        model: CGCNN | CGNN = CGCNN(CGCNNConfig(n_features=F, n_gaussians=10, pooling=name, n_convolutions=2))
        config = GraphConfig()
    else:
        model = CGNN(CGNNConfig(n_features=F, n_edge_features=6, n_hidden=4, pooling=name, n_convolutions=2))
        config = GraphConfig(rule="coordinator")
    model.double().eval()

    def embed(graph: CrystalGraph) -> Tensor:
        fields = ("distances", "angular", "multiplicity")
        graph = graph._replace(**{field: getattr(graph, field).double() for field in fields})
        with torch.no_grad():
            return model.pool(graph, model.atoms(graph, "torch"))

    return embed, config


@pytest.mark.parametrize("architecture", ["cgcnn", "cgnn"])
@pytest.mark.parametrize("name", OF_CRYSTALS)
def test_order_merging_and_the_size_of_the_cell(name: PoolingName, architecture: str) -> None:
    """The order of the atoms plays no part; a cell twice as large has twice the sum and the same of everything else."""
    embed, config = embedding_of(architecture, name)
    rng = np.random.default_rng(0)
    expected = embed(build_graphs(STRUCTURES, config))
    assert (expected[0] - expected[1:]).abs().amax(dim=1).min() > 1e-6
    shuffled = [atoms[rng.permutation(len(atoms))] for atoms in STRUCTURES]
    doubled = [atoms * (1, 1, 2) for atoms in STRUCTURES]
    torch.testing.assert_close(embed(build_graphs(shuffled, config)), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(
        embed(build_graphs(STRUCTURES, replace(config, merge=True))), expected, atol=1e-6, rtol=1e-5
    )
    torch.testing.assert_close(
        embed(build_graphs(doubled, config)), 2 * expected if name == "sum" else expected, atol=1e-6, rtol=1e-5
    )


@pytest.mark.parametrize("architecture", ["cgcnn", "cgnn"])
def test_a_site_keeps_its_place(architecture: str) -> None:
    embed, config = embedding_of(architecture, "site")
    atoms = STRUCTURES[0].copy()
    atoms.symbols[3] = "K"
    order = np.random.default_rng(1).permutation(len(atoms))
    torch.testing.assert_close(
        embed(build_graph(atoms[order], config)), embed(build_graph(atoms, config))[order], atol=1e-6, rtol=1e-5
    )


def test_one_odd_atom_among_many() -> None:
    """What pooling by the maximum is for: the mean sees one in N."""
    layers = [torch.zeros(400, F).double()]
    layers[0][123] = 1.0
    graph = crystals_with([[1] * 400])
    assert Pooling("max", F)(graph, layers).min() == 1.0
    assert Pooling("mean", F)(graph, layers).max() == pytest.approx(1 / 400)
