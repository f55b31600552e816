"""From the vectors of the atoms to one vector a crystal, independent of the choice of cell unless extensive."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from cgcnn_ase.core.elements import MAX_NUMBER
from cgcnn_ase.graphs.crystal_graph import CrystalGraph, crystal_index
from cgcnn_ase.nn.messages import segment_max, segment_mean, segment_sum

PoolingName = Literal[
    "mean", "sum", "max", "mean+max", "softmax", "gated", "layers", "contrast", "site", "site+mean", "site+contrast"
]

# those that keep a row for each node
OF_SITES: tuple[PoolingName, ...] = ("site", "site+mean", "site+contrast")
# vectors side by side in what is pooled, where not one
_PARTS: dict[str, int] = {"mean+max": 2, "site+mean": 2, "contrast": 4, "site+contrast": 4}
# variance of vectors that is taken for none
_SMALL = 0.01


class Pooling(nn.Module):
    """Node vectors of each layer -> crystal embedding.

    An atom counts as often as it stands for (``multiplicity``). By name:

    ``mean``, ``max``, ``mean+max``
        of the last layer's vectors; the third puts the two side by side.
    ``sum``
        of the last layer's vectors: an extensive quantity, twice as large for twice the cell.
    ``softmax``
        sum over atoms and layers with weights that are the softmax, over both, of a linear map of the vector
        (Xie and Grossman, 2018, go over all layers as well).
    ``gated``
        mean of sigmoid(W h + b) * h of the last layer (CGNN, Tony-Y, 2019).
    ``layers``
        means of all layers' vectors side by side. The first layers know what the last have given up for the property
        that they were trained on, which is what fine-tuning for another one needs.
    ``contrast``
        mean of the last layer's vectors, and beside it the largest of each of three deviations of an atom's vector (see
        `group_deviations`). One odd atom among many makes them large in a cell of any size.
    ``site``
        no pooling: a row for each node.
    ``site+mean``
        a row for each node, with the mean of its crystal beside it: the site in its host.
    ``site+contrast``
        a row for each node, and beside it its three deviations.
    """

    def __init__(self, name: PoolingName, n_features: int, n_layers: int = 1) -> None:
        super().__init__()
        if name not in get_args(PoolingName):
            raise ValueError(f"unknown pooling {name!r}; allowed: {', '.join(get_args(PoolingName))}")
        self.name = name
        self.n_out = (n_layers if name == "layers" else _PARTS.get(name, 1)) * n_features
        self.attention = nn.Linear(n_features, 1) if name == "softmax" else None
        self.gate = nn.Linear(n_features, n_features) if name == "gated" else None

    def forward(self, graph: CrystalGraph, layers: list[Tensor]) -> Tensor:
        """(N, F) of each layer -> (B, n_out), or (N, F) for sites."""
        v = layers[-1]
        if self.name == "site":
            return v
        if self.name == "site+contrast":
            return torch.cat([v, *group_deviations(graph, v)], dim=1)
        index, n = crystal_index(graph), len(graph.n_nodes)
        if self.name == "site+mean":
            return torch.cat([v, segment_mean(v, graph.multiplicity, index, n)[index]], dim=1)
        if self.name == "layers":
            return torch.cat([segment_mean(u, graph.multiplicity, index, n) for u in layers], dim=1)
        if self.name == "sum":
            return segment_sum(v * graph.multiplicity[:, None], index, n)
        if self.name == "softmax":
            assert self.attention is not None
            return softmax_sum(torch.stack(layers, dim=1), self.attention, graph.multiplicity, index, n)
        if self.gate is not None:
            v = torch.sigmoid(self.gate(v)) * v
        parts = [] if self.name == "max" else [segment_mean(v, graph.multiplicity, index, n)]
        if "max" in self.name:
            parts.append(segment_max(v, index, n))
        if self.name == "contrast":
            parts += [segment_max(deviation.abs(), index, n) for deviation in group_deviations(graph, v)]
        return torch.cat(parts, dim=1)


class MultiStepPooling(nn.Module):
    """sum_t pool_t(v_t) W_t over the layers t (CGNN): each layer's vectors pooled by name, with weights of its own."""

    def __init__(self, name: PoolingName, n_features: int, n_layers: int) -> None:
        super().__init__()
        self.steps = nn.ModuleList(Pooling(name, n_features) for _ in range(n_layers))
        n_pooled = _PARTS.get(name, 1) * n_features
        self.linears = nn.ModuleList(nn.Linear(n_pooled, n_features, bias=False) for _ in range(n_layers))
        self.n_out = n_features

    def forward(self, graph: CrystalGraph, layers: list[Tensor]) -> Tensor:
        """(N, F) of each layer -> (B, F), or (N, F) for sites."""
        parts = [linear(step(graph, [v])) for linear, step, v in zip(self.linears, self.steps, layers, strict=True)]
        return torch.stack(parts).sum(dim=0)


def group_deviations(graph: CrystalGraph, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How far each vector is from the mean of others in its crystal: (N, F) -> three of (N, F).

    d = v - mean and z = d / sqrt(mean(d^2) + 0.01) over the atoms of its element, and z over all atoms. The first is
    large where an element has sites of several kinds; z is only where few of many atoms are odd; of an element with one
    atom both are 0, and z over all atoms is not.
    """
    index = crystal_index(graph)
    kinds, kind = torch.unique(index * (MAX_NUMBER + 1) + graph.numbers, return_inverse=True)
    d, z = _deviation(v, graph.multiplicity, kind, len(kinds))
    return d, z, _deviation(v, graph.multiplicity, index, len(graph.n_nodes))[1]


def _deviation(v: Tensor, weights: Tensor, group: Tensor, n_groups: int) -> tuple[Tensor, Tensor]:
    """Of each vector from the mean of its group, and that over the group's standard deviation."""
    d = v - segment_mean(v, weights, group, n_groups)[group]
    variance = segment_mean(d * d, weights, group, n_groups)
    return d, d / torch.sqrt(variance + _SMALL)[group]


def softmax_sum(v: Tensor, score: nn.Module, multiplicity: Tensor, index: Tensor, n: int) -> Tensor:
    """Sum with weights m_i exp(s_it) / sum over the crystal, s_it = score(v_it): (N, T, F) -> (n, F)."""
    s = score(v).squeeze(-1)  # (N, T)
    highest = segment_max(s.detach().amax(dim=1, keepdim=True), index, n)
    w = multiplicity[:, None] * torch.exp(s - highest[index])  # (N, T)
    total = segment_sum(w.sum(dim=1, keepdim=True), index, n)  # (n, 1)
    return segment_sum((w[:, :, None] * v).sum(dim=1), index, n) / total
