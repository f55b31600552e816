"""Integrated gradients over the first vectors of the atoms: how much of a prediction comes from which atom.

Sundararajan, Taly and Yan, *Axiomatic attribution for deep networks* (ICML 2017, arXiv:1703.01365).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from cgcnn_ase.graphs.crystal_graph import CrystalGraph, batch
from cgcnn_ase.nn.layers import ElementEmbedding
from cgcnn_ase.nn.messages import Engine
from cgcnn_ase.nn.network import Network, Output

# atoms that go through the network at once, with gradients; bounds the memory
MAX_ATOMS = 2000

# from what a network says of B crystals to the one number of each that is explained, (B,)
ReadOut = Callable[[Output], Tensor]


def integrated_gradients(value: Callable[[Tensor], Tensor], end: Tensor, starts: Tensor, n_steps: int) -> Tensor:
    r"""Contribution (N,), float64, of each row, the mean over the starts.

    .. math:: c_i = (x_i - x'_i) \cdot \int_0^1 \frac{\partial f}{\partial x_i}(x' + t (x - x'))\,dt

    with start x' (of K, N, F) and end x (N, F); the integral by Gauss and Legendre's rule, exact for polynomials of
    degree 2 n_steps - 1. ``value`` maps (S, N, F) -> (S,), each of the S alone. The contributions add up to value(end)
    less the mean of value(starts), but for the error of the quadrature. The mean over several starts is what Erion et
    al. (Nat. Mach. Intell. 3, 620, 2021) call expected gradients.

    Examples
    --------
    Of a product, 3 * 5, each factor gets half:

    >>> end = torch.tensor([[3.0], [5.0]])
    >>> integrated_gradients(lambda x: x[:, 0, 0] * x[:, 1, 0], end, torch.zeros(1, 2, 1), 2)
    tensor([7.5000, 7.5000], dtype=torch.float64)
    """
    if n_steps < 1:
        raise ValueError(f"the number of steps must be at least 1, not {n_steps}")
    roots, weights = np.polynomial.legendre.leggauss(n_steps)
    n_paths = len(starts)
    t = torch.as_tensor((roots + 1) / 2).to(end).repeat(n_paths)[:, None, None]
    w = torch.as_tensor(weights / (2 * n_paths), device=end.device).repeat(n_paths)
    source = torch.arange(n_paths, device=end.device).repeat_interleave(n_steps)
    total = torch.zeros(len(end), dtype=torch.float64, device=end.device)
    size = max(1, MAX_ATOMS // len(end))
    for k in range(0, len(w), size):
        way = end - starts[source[k : k + size]]  # (S, N, F)
        points = (end - (1 - t[k : k + size]) * way).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(value(points).sum(), points)
        total += w[k : k + size] @ (way * gradient).sum(dim=2).double()
    return total


def value_of_vectors(
    network: Network, graph: CrystalGraph, read_out: ReadOut, engine: Engine = "torch"
) -> Callable[[Tensor], Tensor]:
    """A network as a function of the first vectors of one crystal's atoms, (S, N, F) -> (S,)."""

    def value(vectors: Tensor) -> Tensor:
        copies = batch([graph] * len(vectors))
        with first_vectors(network, vectors.flatten(0, 1)):
            return read_out(network(copies, engine))

    return value


@contextmanager
def first_vectors(network: Network, vectors: Tensor) -> Iterator[None]:
    """While inside, the network's atoms start from these vectors (N, F) instead of those of their elements.

    A hook on the output of ``architecture.embedding``: it suits every architecture that has one.
    """

    def replace(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        del module, inputs
        if output.shape != vectors.shape:
            raise ValueError(f"the embedding gives {tuple(output.shape)}, the vectors are {tuple(vectors.shape)}")
        return vectors

    handle = embedding_of(network).register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def embedding_of(network: Network) -> nn.Module:
    """The module that gives atoms their first vectors, (N,) atomic numbers -> (N, F); ValueError if there is none."""
    embeddings = (module for module in network.architecture.modules() if isinstance(module, ElementEmbedding))
    embedding = next(embeddings, None) or getattr(network.architecture, "embedding", None)
    if not isinstance(embedding, nn.Module):
        raise ValueError(f"{type(network.architecture).__name__} has no embedding of the elements to explain it by")
    return embedding
