"""Graph convolutions: the gated and the simple one of CGCNN and the edge-gated one of ALIGNN."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgcnn_ase.nn.layers import Activation, Norm, activation, norm
from cgcnn_ase.nn.messages import Edges, neighbor_sum, pair_sum, sum_messages, weighted_mean

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
