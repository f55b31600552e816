"""Move numbers along the edges of a graph: gather from nodes, sum back to nodes.

This is the only file that knows DGL. The torch engine does the same with plain PyTorch, on any device; the two are
tested to agree in value, gradient and gradient of the gradient.
"""

import os
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from cgcnn_ase.graphs.crystal_graph import CrystalGraph

Engine = Literal["auto", "dgl", "torch"]


class Edges(NamedTuple):
    """The directed edges of a graph, or of its line graph, ready for message passing by one engine."""

    centers: Tensor  # (E,)
    neighbors: Tensor  # (E,)
    n_nodes: int
    node_weights: Tensor | None = None  # (N,) how many atoms (or bonds) each node stands for; None: one
    edge_weights: Tensor | None = None  # (E,) how many edges of the whole crystal each edge stands for; None: one
    multiplicity: Tensor | None = None  # (E, 1) how many equal edges of its centre each stands for; None: one
    dgl_graph: Any = None  # a DGLGraph for the DGL engine, None for torch


@cache
def dgl_available() -> bool:
    """Return whether DGL can be imported; it is tried once.

    Installed is not enough: a DGL that was built for another torch does not find its libraries.
    """
    try:
        _dgl()
    except (ImportError, OSError, RuntimeError, AttributeError):
        return False
    return True


def build_edges(graph: CrystalGraph, engine: Engine = "auto") -> Edges:
    """Edges of a graph for an engine; ``auto`` takes DGL on the CPU where it can be imported, else torch.

    ValueError if the engine has no such name, ImportError if DGL is asked for and not installed.
    """
    edges = Edges(graph.centers, graph.neighbors, len(graph.numbers))
    return _connect(edges, graph.multiplicity, graph.edge_multiplicity, engine)


def connect_lines(graph: CrystalGraph, engine: Engine = "auto") -> Edges:
    """Edges of a graph's line graph, whose nodes are the graph's edges; ValueError if it was built without."""
    if graph.lines is None:
        raise ValueError("the graph has no line graph: it must be built with line_graph=True")
    weights = graph.multiplicity.index_select(0, graph.centers)
    if graph.edge_multiplicity is not None:
        weights = weights * graph.edge_multiplicity
    edges = Edges(graph.lines.targets, graph.lines.sources, len(graph.centers))
    return _connect(edges, weights, graph.lines.multiplicity, engine)


def _connect(edges: Edges, node_weights: Tensor, multiplicity: Tensor | None, engine: Engine) -> Edges:
    """Add what the engine needs, and the weights where any row stands for several."""
    centers = edges.centers
    engine = resolved_engine(engine, centers.device.type)
    if multiplicity is not None and not has_multiplicity(multiplicity):
        multiplicity = None
    if multiplicity is not None or has_multiplicity(node_weights):
        weights = node_weights.index_select(0, centers)
        edges = edges._replace(node_weights=node_weights, edge_weights=weights)
        if multiplicity is not None:
            edges = edges._replace(multiplicity=multiplicity[:, None], edge_weights=weights * multiplicity)
    if engine == "dgl":
        return edges._replace(dgl_graph=_dgl().graph((edges.neighbors, centers), num_nodes=edges.n_nodes))
    return edges


def resolved_engine(engine: Engine, device: str) -> Literal["dgl", "torch"]:
    """The engine that passes the messages on a kind of device (``cpu``, ``cuda``); raises as `build_edges`."""
    if engine not in ("auto", "dgl", "torch"):
        raise ValueError(f"unknown engine {engine!r}; allowed: auto, dgl, torch")
    if engine == "auto":
        return "dgl" if device == "cpu" and dgl_available() else "torch"
    return engine


def has_multiplicity(multiplicity: Tensor) -> bool:
    """Return whether any row stands for several (compiled code cannot look, and always counts)."""
    return torch.compiler.is_compiling() or bool((multiplicity != 1).any())


def _dgl() -> Any:
    os.environ.setdefault("DGLBACKEND", "pytorch")  # else importing DGL writes to the home folder
    import dgl

    return dgl


def pair_sum(edges: Edges, at_center: Tensor, at_neighbor: Tensor) -> Tensor:
    """a_i + b_j for each edge: (N, F), (N, F) -> (E, F)."""
    if edges.dgl_graph is not None:
        return _dgl().ops.u_add_v(edges.dgl_graph, at_neighbor, at_center)
    return at_center.index_select(0, edges.centers) + at_neighbor.index_select(0, edges.neighbors)


def sum_messages(edges: Edges, messages: Tensor) -> Tensor:
    """sum_j n_ij m_ij for each node, n_ij the number of equal edges: (E, F) -> (N, F)."""
    return _sum(edges, _counted(edges, messages))


def weighted_mean(
    edges: Edges, weights: Tensor, at_neighbor: Tensor, on_edges: Tensor | None = None, *, eps: float
) -> Tensor:
    """sum_j n_ij w_ij * (b_j + c_ij) / (sum_j n_ij w_ij + eps): (E, F), (N, F), (E, F) or none -> (N, F)."""
    weights = _counted(edges, weights)
    if edges.dgl_graph is not None:
        total = _dgl().ops.u_mul_e_sum(edges.dgl_graph, at_neighbor, weights)
    else:
        total = _sum(edges, weights * at_neighbor.index_select(0, edges.neighbors))
    if on_edges is not None:
        total = total + _sum(edges, weights * on_edges)
    return total / (_sum(edges, weights) + eps)


def _counted(edges: Edges, on_edges: Tensor) -> Tensor:
    return on_edges if edges.multiplicity is None else on_edges * edges.multiplicity


def _sum(edges: Edges, messages: Tensor) -> Tensor:
    if edges.dgl_graph is not None:
        return _dgl().ops.copy_e_sum(edges.dgl_graph, messages)
    return messages.new_zeros(edges.n_nodes, *messages.shape[1:]).index_add(0, edges.centers, messages)


def neighbor_sum(edges: Edges, at_neighbor: Tensor) -> Tensor:
    """sum_j n_ij b_j for each node: (N, F) -> (N, F)."""
    if edges.dgl_graph is not None and edges.multiplicity is None:
        return _dgl().ops.copy_u_sum(edges.dgl_graph, at_neighbor)
    return sum_messages(edges, at_neighbor.index_select(0, edges.neighbors))


def segment_sum(values: Tensor, segment: Tensor, n_segments: int) -> Tensor:
    """Sum of the rows of each segment: (N, F), (N,) -> (n_segments, F)."""
    return values.new_zeros(n_segments, values.shape[1]).index_add(0, segment, values)


def segment_mean(values: Tensor, weights: Tensor, segment: Tensor, n_segments: int) -> Tensor:
    """Weighted mean of the rows of each segment: (N, F), (N,), (N,) -> (n_segments, F)."""
    total = segment_sum(values * weights[:, None], segment, n_segments)
    return total / segment_sum(weights[:, None], segment, n_segments)


def segment_max(values: Tensor, segment: Tensor, n_segments: int) -> Tensor:
    """Largest of each column in each segment: (N, F), (N,) -> (n_segments, F); no segment may be empty."""
    index = segment[:, None].expand_as(values)
    lowest = values.new_full((n_segments, values.shape[1]), -torch.inf)
    return lowest.scatter_reduce(0, index, values, "amax", include_self=False)
