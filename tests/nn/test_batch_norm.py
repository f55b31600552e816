"""Batch norm with weights against PyTorch's on rows that are really repeated, and merged graphs against whole ones."""

from collections.abc import Callable

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.spacegroup import crystal
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from cgcnn_ase.graphs import CrystalGraph, GraphConfig, build_graphs
from cgcnn_ase.graphs.crystal_graph import map_tensors
from cgcnn_ase.nn.alignn import ALIGNNConfig
from cgcnn_ase.nn.architecture import ArchitectureConfig
from cgcnn_ase.nn.cgcnn import CGCNNConfig
from cgcnn_ase.nn.layers import WeightedBatchNorm, norm
from cgcnn_ase.nn.network import Network, NetworkConfig

R, C = 9, 4


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(5)


def pair() -> tuple[WeightedBatchNorm, nn.BatchNorm1d]:
    """Ours and PyTorch's, with the same state, in double precision."""
    ours, theirs = WeightedBatchNorm(C).double(), nn.BatchNorm1d(C).double()
    for tensor in (*theirs.parameters(), theirs.running_mean, theirs.running_var):
        assert tensor is not None
        tensor.data.uniform_(0.5, 2.0)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def rows() -> Tensor:
    """With means that are large beside the spread."""
    return (torch.randn(R, C, dtype=torch.double) + torch.tensor([0.0, 1.0, -10.0, 100.0])).requires_grad_()


def same_state(one: nn.Module, other: nn.Module, **tolerance: float) -> None:
    assert one.state_dict().keys() == other.state_dict().keys()
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(tensor, other.state_dict()[name], msg=lambda m, n=name: f"{n}: {m}", **tolerance)


@pytest.mark.parametrize("weights", [[1] * R, [1, 2, 3, 4, 5, 1, 2, 9, 1], [7] * R])
def test_a_weight_is_so_many_equal_rows(weights: list[int]) -> None:
    """Outputs, gradients by rows, gain and bias, and running statistics of three steps."""
    ours, theirs = pair()
    counts = torch.tensor(weights)
    for _ in range(3):
        x, target = rows(), torch.randn(R, C).double()
        y = ours(x, counts.float())
        repeated = theirs(x.repeat_interleave(counts, dim=0))
        torch.testing.assert_close(y.repeat_interleave(counts, dim=0), repeated)
        loss = (counts[:, None] * (y - target).square()).sum()
        same_loss = (repeated - target.repeat_interleave(counts, dim=0)).square().sum()
        gradients = torch.autograd.grad(loss, (x, *ours.parameters()))
        torch.testing.assert_close(gradients, torch.autograd.grad(same_loss, (x, *theirs.parameters())))
        same_state(ours, theirs)


def test_evaluation_and_no_weights_are_pytorchs() -> None:
    ours, theirs = pair()
    x, weights = rows(), torch.arange(1.0, R + 1)
    assert torch.equal(ours(x), theirs(x))
    same_state(ours, theirs, rtol=0, atol=0)
    assert torch.equal(ours.eval()(x, weights), theirs.eval()(x))
    same_state(ours, theirs, rtol=0, atol=0)


def test_gradients_and_gradients_of_gradients() -> None:
    ours, _ = pair()
    weights = torch.tensor([1.0, 2, 3, 4, 5, 1, 2, 9, 1])

    def function(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(ours, {"weight": gain, "bias": bias}, (x, weights)).sin()

    inputs = (torch.randn(R, C, dtype=torch.double).requires_grad_(), *ours.parameters())
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


def test_few_rows() -> None:
    """A row that stands for several atoms is a batch of several; one alone is refused, as PyTorch does."""
    ours, theirs = pair()
    x = torch.randn(1, C).double()
    torch.testing.assert_close(ours(x, torch.tensor([3.0])), theirs(x.expand(3, C))[:1])
    assert ours(x[:0], torch.ones(0)).shape == theirs(x[:0]).shape
    same_state(ours, theirs)
    with pytest.raises(ValueError, match=r"at least two rows, there is 1: .*network\.norm: layer"):
        ours(x, torch.ones(1))


@pytest.mark.parametrize("kind", ["layer", "none"])
def test_other_norms_take_each_row_by_itself(kind: str) -> None:
    layer, x = norm(kind, C), torch.randn(R, C)  # type: ignore[arg-type]
    assert torch.equal(layer(x, torch.arange(1.0, R + 1)), layer(x))


STRUCTURES = [
    bulk("NaCl", "rocksalt", a=5.6, cubic=True),
    bulk("Ti", "hcp", a=2.95) * (2, 2, 1),
    crystal(["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.6, 4.6, 2.96, 90, 90, 90]),
    crystal(["Ca", "Ti", "O"], [(0.5, 0.5, 0.5), (0, 0, 0), (0, 0, 0.5)], spacegroup=221, cellpar=[3.9] * 3 + [90] * 3),
    Atoms("He", cell=[30] * 3, pbc=True),
    Atoms("OHH", positions=[(0, 0, 0), (0.96, 0, 0), (-0.24, 0.93, 0)]),
]


def double(graph: CrystalGraph) -> CrystalGraph:
    return map_tensors(graph, lambda field: field.double() if field.is_floating_point() else field)


def two_steps(network: Network, graph: CrystalGraph, run: Callable[[CrystalGraph], Tensor]) -> list[Tensor]:
    """Outputs of a step, gradients of its loss, and outputs of the next: in between only the statistics move."""
    first = run(graph)
    (first.square().sum() + first[0].exp().sum()).backward()
    return [first, *(parameter.grad for parameter in network.parameters()), run(graph)]  # type: ignore[list-item]


SMALL_ALIGNN = ALIGNNConfig(n_features=8, n_alignn=2, n_gcn=2, n_distances=20, n_cosines=10, n_embedding=6)


@pytest.mark.parametrize("engine", ["torch", "dgl"])
@pytest.mark.parametrize("convolution", ["gated", "simple", "edge-gated", "edge-message", "alignn"])
def test_training_on_merged_atoms_is_training_on_all(convolution: str, engine: str) -> None:
    """Outputs, gradients and running statistics: equivalent atoms are computed once and count as often as they are.

    So do equal edges, and on the line graph equal pairs of them.
    """
    if engine == "dgl":
        pytest.importorskip("dgl")
    if convolution == "alignn":
        config: ArchitectureConfig = SMALL_ALIGNN
    else:
        config = CGCNNConfig(n_features=8, n_hidden=6, n_convolutions=3, n_angular=12, convolution=convolution)  # type: ignore[arg-type]
    networks, results = [], []
    for merge in (False, True):
        lines = config is SMALL_ALIGNN
        graph = double(build_graphs(STRUCTURES, GraphConfig(angular=not lines, line_graph=lines, merge=merge)))
        torch.manual_seed(0)
        networks.append(Network(NetworkConfig(architecture=config, mean_variance=True)).double())
        results.append(two_steps(networks[-1], graph, lambda g: torch.cat(list(networks[-1](g, engine)[:2]), dim=1)))
        assert (len(graph.numbers) < 20) == merge
        assert (len(graph.centers) < 100) == merge
    for merged, whole in zip(*reversed(results), strict=True):
        torch.testing.assert_close(merged, whole, atol=1e-5, rtol=1e-5)
    same_state(*reversed(networks), atol=1e-5, rtol=1e-5)


def test_it_matters_how_often_a_class_counts() -> None:
    """What the test above would not see if the weights were lost on the way."""
    graph = build_graphs(STRUCTURES, GraphConfig(merge=True))
    result = []
    for multiplicity in (graph.multiplicity, torch.ones_like(graph.multiplicity)):
        torch.manual_seed(0)
        network = Network(NetworkConfig(architecture=CGCNNConfig(n_features=8)))
        network(graph._replace(multiplicity=multiplicity), "torch")
        result.append({name: tensor for name, tensor in network.state_dict().items() if "running" in name})
    counted, once = result
    for name, tensor in counted.items():
        assert (tensor - once[name]).abs().max() > 0.01 * tensor.std(), name
