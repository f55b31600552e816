"""Layers that architectures are made of: embeddings, activations, norms, dense layers and graph convolutions."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgcnn_ase.core.elements import DESCRIPTOR_SIZE, MAX_NUMBER, descriptor_table
from cgcnn_ase.nn.messages import Edges, neighbor_sum, pair_sum, sum_messages, weighted_mean

# e^-50 is zero to single precision; smaller values would be denormal numbers, which slow every product they enter
SMALLEST_EXPONENT = 50.0


class GaussianBasis(nn.Module):
    """exp(-(d - c)^2 / w^2) for evenly spaced centres c between ``first`` and ``cutoff``, w the spacing unless given.

    With 41 functions up to 8 Å this is the expansion of Xie and Grossman (2018).
    """

    centers: Tensor

    def __init__(self, n_functions: int, cutoff: float, width: float | None = None, first: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("centers", torch.linspace(first, cutoff, n_functions), persistent=False)
        self.width = (cutoff - first) / (n_functions - 1) if width is None else width

    def forward(self, distances: Tensor) -> Tensor:
        """(E,) -> (E, n_functions)."""
        x = (distances[:, None] - self.centers) / self.width
        return torch.exp(-(x * x).clamp(max=SMALLEST_EXPONENT))


Embedding = Literal["descriptor", "learned", "both"]


class ElementEmbedding(nn.Module):
    """W x_Z + b with the 92-bit descriptor x_Z, a learned vector for each element, or the sum of the two.

    The learned part starts at zero where there is a descriptor as well: an element that training never showed keeps
    what its descriptor says.
    """

    descriptors: Tensor

    def __init__(self, n_features: int, kind: Embedding = "descriptor") -> None:
        super().__init__()
        self.linear = nn.Linear(DESCRIPTOR_SIZE, n_features) if kind != "learned" else None
        self.table = nn.Embedding(MAX_NUMBER + 1, n_features) if kind != "descriptor" else None
        if self.table is not None and self.linear is not None:
            nn.init.zeros_(self.table.weight)
        self.register_buffer("descriptors", torch.from_numpy(descriptor_table()), persistent=False)

    def forward(self, numbers: Tensor) -> Tensor:
        """(N,) -> (N, F)."""
        if self.linear is None:
            assert self.table is not None
            return self.table(numbers)
        vectors = self.linear(self.descriptors).index_select(0, numbers)
        return vectors if self.table is None else vectors + self.table(numbers)


class WeightedBatchNorm(nn.BatchNorm1d):
    """Batch norm that counts each row as often as its weight says.

    y = g (x - m) / sqrt(s + eps) + b, where m and s are the weighted mean and variance of each column in training, and
    the running ones in evaluation. Outputs, gradients and running statistics are those of ``nn.BatchNorm1d`` on a batch
    that holds each row as many times, so that a graph with merged atoms trains as the graph of all atoms does.
    """

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """(R, C), (R,) -> (R, C); without weights each row counts once."""
        if weights is None or not self.training or (len(x) < 2 and float(weights.sum()) < 2):
            if self.training and len(x) == 1:
                raise ValueError(
                    "a batch norm in training needs at least two rows, there is 1: "
                    "take larger batches (batch_size), or norms that need no batch (network.norm: layer)"
                )
            return super().forward(x)
        weights = weights.to(x.dtype)
        n = weights.sum()
        mean, variance = weighted_moments(x, weights / n)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.detach(), self.momentum)
        self.running_var.lerp_(variance.detach() * (n / (n - 1)), self.momentum)
        return standardise(x, mean, variance, self.weight, self.bias, self.eps)


def weighted_moments(x: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each column for weights that sum to one: (R, C), (R,) -> (C,), (C,).

    m = sum_r p_r x_r and s = sum_r p_r (x_r - m)^2. The weights are taken for constants.
    """
    mean, variance = _WeightedMoments.apply(x, p)  # type: ignore[no-untyped-call]
    return mean, variance


class _WeightedMoments(torch.autograd.Function):
    """Its gradient in one pass, where autograd makes five: dm/dx_r = p_r and ds/dx_r = 2 p_r (x_r - m).

    The mean is saved as an output, so that it is part of the graph when the gradient is differentiated again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        mean = p @ x
        variance = p @ (x - mean).square_()
        ctx.save_for_backward(x, p, mean)
        return mean, variance

    @staticmethod
    def backward(ctx: Any, by_mean: Tensor, by_variance: Tensor) -> tuple[Tensor, None]:
        x, p, mean = ctx.saved_tensors
        slope = 2 * by_variance
        return torch.addcmul(by_mean - slope * mean, x, slope).mul_(p[:, None]), None


def standardise(x: Tensor, mean: Tensor, variance: Tensor, gain: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Gain times (x - m) / sqrt(s + eps) plus bias, by PyTorch's own kernel: (R, C) and four of (C,) -> (R, C).

    The kernel takes m and s for constants. Their gradients go through the gain and the bias instead, into which go a
    factor of value one and a summand of value zero: the result is the same function of m and s, to all orders.
    """
    fixed_mean, fixed_variance = mean.detach(), variance.detach()
    scale = torch.rsqrt(variance + eps)
    gain, bias = gain * (scale / scale.detach()), bias - gain * scale * (mean - fixed_mean)
    return F.batch_norm(x, fixed_mean, fixed_variance, gain, bias, eps=eps)


Activation = Literal["softplus", "ssp", "elu", "relu", "selu", "celu", "silu"]
Norm = Literal["batch", "layer", "none"]


def activation(name: Activation) -> nn.Module:
    """A module for an activation's name."""
    modules: dict[Activation, type[nn.Module]] = {
        "softplus": nn.Softplus,
        "ssp": ShiftedSoftplus,
        "elu": nn.ELU,
        "relu": nn.ReLU,
        "selu": nn.SELU,
        "celu": nn.CELU,
        "silu": nn.SiLU,
    }
    return modules[name]()


def norm(name: Norm, n_features: int) -> nn.Module:
    """A module that normalises (rows, n_features); its second argument, if any, says how often each row counts."""
    return {"batch": WeightedBatchNorm, "layer": LayerNorm, "none": NoNorm}[name](n_features)


class ShiftedSoftplus(nn.Module):
    """log(1 + e^x) - log 2, which is zero at zero."""

    def forward(self, x: Tensor) -> Tensor:
        """Of each number."""
        return F.softplus(x) - math.log(2.0)


class LayerNorm(nn.LayerNorm):
    """Each row by itself, however often it counts."""

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """(R, C) -> (R, C)."""
        del weights
        return super().forward(x)


class NoNorm(nn.Identity):
    """The rows as they are."""

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """(R, C) -> (R, C)."""
        del weights
        return x


class Dense(nn.Module):
    """g(norm(x W + b)); a norm has a shift of its own and takes the place of b."""

    def __init__(self, n_in: int, n_out: int, act: Activation, kind: Norm = "none", *, bias: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(n_in, n_out, bias=bias and kind == "none")
        self.norm = norm(kind, n_out)
        self.act = activation(act)

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """(R, n_in), (R,) -> (R, n_out); the weights say how often each row counts."""
        return self.act(self.norm(self.linear(x), weights))


Convolution = Literal["gated", "simple", "edge-gated", "edge-message"]


class GatedConvolution(nn.Module):
    """Eq. 5 of Xie and Grossman, Phys. Rev. Lett. 120, 145301 (2018).

    v_i <- g(v_i + BN(sum_j sigmoid(z_ij W_f + b_f) * g(z_ij W_s + b_s))), z_ij = v_i + v_j + u_ij (concatenated), with
    a norm on z W over the edges. The product of the concatenation is split into one per node and one per edge.
    """

    def __init__(self, n_features: int, n_edge_features: int, act: Activation = "softplus", kind: Norm = "batch"):
        super().__init__()
        self.n_features = n_features
        self.full = nn.Linear(2 * n_features + n_edge_features, 2 * n_features)
        self.edge_norm = norm(kind, 2 * n_features)
        self.node_norm = norm(kind, n_features)
        self.act = activation(act)

    def forward(self, v: Tensor, u: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
        """(N, F), (E, G) -> (N, F), (E, G): new node vectors and the same edge vectors."""
        w_i, w_j, w_u = self.full.weight.split([self.n_features, self.n_features, u.shape[1]], dim=1)
        z = pair_sum(edges, F.linear(v, w_i, self.full.bias), F.linear(v, w_j)).addmm_(u, w_u.t())  # (E, 2F)
        gate, core = self.edge_norm(z, edges.edge_weights).chunk(2, dim=1)
        messages = torch.sigmoid(gate) * self.act(core)  # (E, F)
        return self.act(v + self.node_norm(sum_messages(edges, messages), edges.node_weights)), u


class SimpleConvolution(nn.Module):
    """Eq. 4 of Xie and Grossman, Phys. Rev. Lett. 120, 145301 (2018).

    v_i <- g((sum_j v_j + u_ij) W_c + v_i W_s + b), v_j + u_ij concatenated: all neighbours count the same. A norm,
    which the paper does not have, acts before g.
    """

    def __init__(self, n_features: int, n_edge_features: int, act: Activation = "softplus", kind: Norm = "none"):
        super().__init__()
        self.around = nn.Linear(n_features + n_edge_features, n_features, bias=False)  # W_c
        self.own = nn.Linear(n_features, n_features)  # W_s, b
        self.node_norm = norm(kind, n_features)
        self.act = activation(act)

    def forward(self, v: Tensor, u: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
        """(N, F), (E, G) -> (N, F), (E, G): new node vectors and the same edge vectors."""
        around = torch.cat([neighbor_sum(edges, v), sum_messages(edges, u)], dim=1)  # (N, F + G)
        return self.act(self.node_norm(self.around(around) + self.own(v), edges.node_weights)), u


class EdgeGatedConvolution(nn.Module):
    """Edge-gated convolution, Choudhary and DeCost, npj Comput. Mater. 7, 185 (2021), eqs. 1-3.

    e_ij = A h_i + B h_j + C y_ij;  y_ij <- y_ij + g(norm(e_ij));
    h_i <- h_i + g(norm(U h_i + sum_j s(e_ij) * m_ij / (sum_j s(e_ij) + eps))), s the sigmoid.

    The published message is m_ij = V h_j. Where all atoms are alike its weighted mean is V h whatever the weights, so
    that the energy of a pure element would not depend on its structure at all; with ``edge_messages`` it is
    m_ij = V h_j + y_ij, which tells the atom about its bonds directly.

    On a line graph h are the vectors of bonds and y those of pairs of bonds.
    """

    def __init__(
        self,
        n_features: int,
        act: Activation = "silu",
        kind: Norm = "layer",
        *,
        edge_messages: bool = False,
        eps: float = 1e-6,
    ):
        super().__init__()
        self.edge_messages = edge_messages
        self.node = nn.Linear(n_features, 4 * n_features)  # A, B, U, V
        self.edge = nn.Linear(n_features, n_features)  # C
        self.edge_norm = norm(kind, n_features)
        self.node_norm = norm(kind, n_features)
        self.act = activation(act)
        self.eps = eps

    def forward(self, h: Tensor, y: Tensor, edges: Edges, *, is_last: bool = False) -> tuple[Tensor, Tensor]:
        """(N, F), (E, F) -> (N, F), (E, F): new node and edge vectors; old edge vectors if nobody reads them later."""
        a, b, u, v = self.node(h).chunk(4, dim=1)
        e = pair_sum(edges, a.contiguous(), b.contiguous()) + self.edge(y)  # (E, F)
        on_edges = y if self.edge_messages else None
        mean = weighted_mean(edges, torch.sigmoid(e), v.contiguous(), on_edges, eps=self.eps)  # (N, F)
        h = h + self.act(self.node_norm(u + mean, edges.node_weights))
        return h, y if is_last else y + self.act(self.edge_norm(e, edges.edge_weights))
