"""A smooth CGCNN: the energy of atoms as a function of their positions that can be differentiated everywhere.

The graph holds all neighbours within a cutoff, and everything that comes along an edge is multiplied by an envelope
that goes to zero there with two derivatives. Nothing depends on the number or the order of neighbours, and no layer
normalises over a batch, so the energy is invariant and extensive, and no neighbour enters or leaves with a step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log, pi, sqrt
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from cgcnn_ase.core.elements import MAX_NUMBER
from cgcnn_ase.graphs.builder import TERMS_OF_DEGREE, GraphConfig, harmonics
from cgcnn_ase.graphs.crystal_graph import CrystalGraph
from cgcnn_ase.nn.architecture import Architecture, ArchitectureConfig
from cgcnn_ase.nn.layers import ElementEmbedding
from cgcnn_ase.nn.messages import Edges, Engine, build_edges, pair_sum, sum_messages
from cgcnn_ase.nn.pooling import Pooling, PoolingName

# edges shorter than this count as so long, Å: no atoms are there, and 1 / r has no end
SHORTEST = 0.1
# of random weights the angular columns are so many times smaller than the radial ones, and products of them as many
ANGULAR_GAIN, PRODUCT_GAIN = 30.0, 10.0
# descriptors of elements give vectors of about this part of one
EMBEDDING_GAIN = 5.0


@dataclass(frozen=True, kw_only=True)
class SmoothCGCNNConfig(ArchitectureConfig):
    """Sizes of a smooth CGCNN."""

    least: ClassVar[Mapping[str, int]] = {
        "n_features": 1, "n_convolutions": 1, "n_radial": 1, "n_channels": 1, "n_degrees": 1, "n_products": 0
    }  # fmt: skip
    is_smooth: ClassVar[bool] = True

    architecture: Literal["smooth-cgcnn"] = "smooth-cgcnn"
    n_features: int = 48  # F, length of the node vectors
    n_convolutions: int = 3
    n_radial: int = 8  # R, Bessel functions of the distance
    n_channels: int = 8  # C, weights of neighbours in the angular densities
    n_degrees: int = 3  # L, degrees of the harmonics, 1 to 4
    n_products: int = 16  # Q, products of two densities that each atom reads, for each degree
    cutoff: float = 4.5  # Å
    neighbors: float = 44.0  # a usual number of neighbours: sums over them are divided by its root
    pooling: PoolingName = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_degrees > len(TERMS_OF_DEGREE):
            raise ValueError(f"n_degrees must be at most {len(TERMS_OF_DEGREE)}, not {self.n_degrees}")
        if self.cutoff <= SHORTEST or self.neighbors <= 0:
            raise ValueError(
                f"cutoff {self.cutoff:g} and neighbors {self.neighbors:g} must be positive lengths, counts"
            )
        if self.pooling != "mean" or self.dropout:
            raise ValueError("the energy of a potential is the sum over its atoms: pooling must be mean, dropout 0")

    def build(self) -> "SmoothCGCNN":
        """Return the network with random weights."""
        return SmoothCGCNN(self)

    def check_graph(self, graph: GraphConfig) -> None:
        """Raise where the graph lacks neighbours within the cutoff, or their directions."""
        super().check_graph(graph)
        if graph.rule != "radius" or not graph.vectors or graph.cutoff != self.cutoff:
            raise ValueError(
                f"a {self.architecture} reads all neighbours within its cutoff and their directions: its graph needs "
                f"rule='radius', vectors=True and cutoff={self.cutoff:g}"
            )


def envelope(x: Tensor) -> Tensor:
    r"""1 at x = 0, and 0 from x = 1 on with two derivatives: :math:`1 - 28 x^6 + 48 x^7 - 21 x^8`.

    Gasteiger et al., Directional message passing (2020), equation 8 with p = 6.
    """
    x = x.clamp(max=1.0)
    x6 = (x * x * x) ** 2
    return 1.0 - x6 * (28.0 - x * (48.0 - 21.0 * x))


class BesselBasis(nn.Module):
    r""":math:`\sqrt{2c}\,\sin(n\pi r/c)/r`, c times the normalised ones, n = 1 ... N, times the envelope (ibid.)."""

    orders: Tensor

    def __init__(self, n_functions: int, cutoff: float) -> None:
        super().__init__()
        self.register_buffer("orders", torch.arange(1.0, n_functions + 1), persistent=False)
        self.cutoff = cutoff

    def forward(self, distances: Tensor, at: Tensor) -> Tensor:
        """(E, 1) distances, (E, 1) envelope -> (E, n_functions)."""
        waves = torch.sin(self.orders * (pi / self.cutoff) * distances)
        return sqrt(2.0 * self.cutoff) * at * waves / distances


class Slots(NamedTuple):
    """A table with a row of K places for each node, in which its edges stand: sums become products of matrices."""

    places: Tensor  # (E,) the place of each edge, counted through all rows
    n_nodes: int
    width: int  # K, the most edges of a node

    @classmethod
    def of(cls, centers: Tensor, n_nodes: int) -> "Slots":
        """Places of edges whose centres never decrease."""
        counts = torch.bincount(centers, minlength=n_nodes)
        width = int(counts.max()) if len(centers) else 0
        first = counts.cumsum(0) - counts
        order = torch.arange(len(centers), device=centers.device)
        return cls(centers * width + order - first.index_select(0, centers), n_nodes, width)

    def put(self, on_edges: Tensor) -> Tensor:
        """(E, C) -> (N, K, C), zero where there is no edge."""
        n, k, c = self.n_nodes, self.width, on_edges.shape[1]
        return on_edges.new_zeros(n * k, c).index_copy(0, self.places, on_edges).view(n, k, c)

    def take(self, rows: Tensor) -> Tensor:
        """(N, K, C) -> (E, C)."""
        return rows.reshape(self.n_nodes * self.width, rows.shape[2]).index_select(0, self.places)


class Surroundings(NamedTuple):
    """Description of each edge before the first convolution."""

    edges: Edges
    slots: Slots
    envelope: Tensor  # (E, 1)
    radial: Tensor  # (E, R), zero at the cutoff
    harmonics: list[Tensor]  # of each degree l, (N, K, 2 l + 1)


class SmoothConvolution(nn.Module):
    r"""One convolution over all neighbours within the cutoff.

    With node vectors h, radial functions R, the envelope w and harmonics Y:

    .. math::

        A_i^{clm} &= \sum_j (V R_{ij})_c (U h_j)_c Y_{lm}(ij) \\
        p_i^{ql} &= \sum_m (S_l A_i^{lm})_q (T_l A_i^{lm})_q, \qquad g_i = h_i + B p_i \\
        b_{ij}^{cl} &= w_{ij} \sum_m A_i^{clm} Y_{lm}(ij) \\
        z_{ij} &= W_1 g_i + W_2 h_j + W_3 [R_{ij}, b_{ij}] \\
        h_i' &= g_i + P \sum_j w_{ij}\, \sigma(z_{ij}^{g}) \odot \mathrm{silu}(z_{ij}^{f})

    The gate is that of Xie and Grossman (2018). b holds the angles between the bond and all others of its centre at the
    cost of one sum per atom, by the addition theorem of the harmonics; p those between any two neighbours, as the power
    spectrum of Bartók et al. (2013) does.
    """

    def __init__(self, config: SmoothCGCNNConfig) -> None:
        super().__init__()
        f, c, n_degrees, n_products = config.n_features, config.n_channels, config.n_degrees, config.n_products
        self.scale = 1.0 / sqrt(config.neighbors)
        self.of_distance = nn.Linear(config.n_radial, c, bias=False)
        self.of_neighbor = nn.Linear(f, c)
        self.factors = nn.ModuleList(
            nn.Linear(c, 2 * n_products, bias=False) for _ in range(n_degrees if n_products else 0)
        )
        self.products = nn.Linear(n_products * n_degrees, f, bias=False) if n_products else None
        self.center = nn.Linear(f, 2 * f)
        self.neighbor = nn.Linear(f, 2 * f, bias=False)
        self.radial = nn.Linear(config.n_radial, 2 * f, bias=False)
        self.angular = nn.Linear(c * n_degrees, 2 * f, bias=False)
        self.out = nn.Sequential(nn.Linear(f, f), nn.SiLU(), nn.Linear(f, f))

    def forward(self, h: Tensor, around: Surroundings) -> Tensor:
        """(N, F) -> (N, F)."""
        edges, w = around.edges, around.envelope
        densities = self.densities(h, around)
        if self.products is not None:
            h_center = h + self.products(self.invariants(densities))
        else:
            h_center = h
        on_edge = torch.cat([around.radial, self.angles(densities, around)], dim=1)
        weight = torch.cat([self.radial.weight, self.angular.weight], dim=1)
        z = torch.addmm(pair_sum(edges, self.center(h_center), self.neighbor(h)), on_edge, weight.T)
        gate, message = z.chunk(2, dim=1)
        total = sum_messages(edges, w * torch.sigmoid(gate) * nn.functional.silu(message))
        return h_center + self.out(self.scale * total)

    def densities(self, h: Tensor, around: Surroundings) -> list[Tensor]:
        """A of each degree l, (N, C, 2 l + 1)."""
        weight = self.of_distance(around.radial) * self.of_neighbor(h).index_select(0, around.edges.neighbors)
        rows = self.scale * around.slots.put(weight).transpose(1, 2)  # (N, C, K)
        return [torch.bmm(rows, y) for y in around.harmonics]

    def invariants(self, densities: Sequence[Tensor]) -> Tensor:
        """p, (N, L Q)."""
        p = []
        for factors, density in zip(self.factors, densities, strict=True):
            left, right = factors(density.transpose(1, 2)).chunk(2, dim=2)
            p.append((left * right).sum(dim=1))
        return PRODUCT_GAIN * torch.cat(p, dim=1)

    def angles(self, densities: Sequence[Tensor], around: Surroundings) -> Tensor:
        """b, (E, L C)."""
        rows = [torch.bmm(y, a.transpose(1, 2)) for y, a in zip(around.harmonics, densities, strict=True)]
        return ANGULAR_GAIN * around.envelope * around.slots.take(torch.cat(rows, dim=2))


class SmoothCGCNN(Architecture):
    """Graph -> vector of each atom, of which a head's linear map is its energy; the energies of the elements are added.

    ``force_error`` reads the same vectors, without changing them, for the logarithm of the error of the force.
    """

    element_energies: Tensor  # (101,) by atomic number, in the unit of the head

    def __init__(self, config: SmoothCGCNNConfig) -> None:
        super().__init__(config.dropout)
        f = config.n_features
        self.config = config
        self.embedding = ElementEmbedding(f, "both")
        self.basis = BesselBasis(config.n_radial, config.cutoff)
        self.convolutions = nn.ModuleList(SmoothConvolution(config) for _ in range(config.n_convolutions))
        self.last = nn.Sequential(nn.Linear(f, f), nn.SiLU())
        self.force_error = nn.Sequential(nn.Linear(f, f), nn.SiLU(), nn.Linear(f, 1))
        self.register_buffer("element_energies", torch.zeros(MAX_NUMBER + 1, dtype=torch.float64))
        self.pooling = Pooling("mean", f)
        self.n_crystal = f

    @staticmethod
    def slots(graph: CrystalGraph) -> Slots:
        """Places of the edges in a table with a row for each node."""
        return Slots.of(graph.centers, len(graph.numbers))

    def surroundings(self, graph: CrystalGraph, vectors: Tensor, engine: Engine, slots: Slots) -> Surroundings:
        """Envelope, radial functions and harmonics of the vectors of the edges, (E, 3) Å."""
        distances = torch.linalg.vector_norm(vectors, dim=1, keepdim=True).clamp(min=SHORTEST)
        at = envelope(distances / self.config.cutoff)
        terms = TERMS_OF_DEGREE[: self.config.n_degrees]
        y = torch.stack(harmonics(*(vectors / distances).unbind(dim=1))[: sum(terms)], dim=1)
        of_degree = [part.contiguous() for part in slots.put(y).split(list(terms), dim=2)]
        return Surroundings(build_edges(graph, engine), slots, at, self.basis(distances, at), of_degree)

    def convolved(
        self, graph: CrystalGraph, vectors: Tensor, engine: Engine = "auto", slots: Slots | None = None
    ) -> Tensor:
        """Vectors of the nodes after the last convolution, (N, F), as a function of those of the edges, (E, 3) Å.

        The slots are :meth:`slots` of the graph; compiled code is handed them, as their width is read from a tensor.
        """
        around = self.surroundings(graph, vectors, engine, slots or self.slots(graph))
        h = EMBEDDING_GAIN * self.embedding(graph.numbers)
        for convolution in self.convolutions:
            h = convolution(h, around)
        return h

    def of_vectors(
        self, graph: CrystalGraph, vectors: Tensor, engine: Engine = "auto", slots: Slots | None = None
    ) -> Tensor:
        """Vectors of the nodes after the last layer, (N, F); see :meth:`convolved`."""
        last: Tensor = self.last(self.convolved(graph, vectors, engine, slots))
        return last

    def atoms(self, graph: CrystalGraph, engine: Engine = "auto") -> list[Tensor]:
        """Vectors of the nodes after the last layer, (N, F), as the only ones of a list."""
        if graph.vectors is None:
            raise ValueError("a smooth CGCNN reads the directions of bonds: the graph needs vectors=True")
        return [self.of_vectors(graph, graph.vectors.to(next(self.last.parameters()).dtype), engine)]

    def shift_force_error(self, factor: float) -> None:
        """Multiply the errors that ``force_error`` tells, once they were compared with true ones."""
        last = self.force_error[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.bias.add_(log(factor))

    def pool(self, graph: CrystalGraph, layers: list[Tensor]) -> Tensor:
        """Mean vector of the atoms and, in the last column, the mean energy of the elements, (B, F + 1)."""
        energies = self.element_energies.index_select(0, graph.numbers).to(layers[-1].dtype)
        pooled: Tensor = self.pooling(graph, [torch.cat([layers[-1], energies[:, None]], dim=1)])
        return pooled

    def crystal(self, pooled: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, F + 1) -> (B, F)."""
        return self.apply_dropout(pooled[:, :-1], mask)

    def offset(self, pooled: Tensor) -> Tensor:
        """Mean energy of the elements, (B, 1)."""
        return pooled[:, -1:]

    @property
    def backbone(self) -> list[tuple[nn.Module, ...]]:
        """The embedding, then the convolutions and the layer after them."""
        return [(self.embedding,), (self.convolutions, self.last)]
