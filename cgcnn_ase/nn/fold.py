"""Fold batch normalisation into the linear maps before it: fewer passes over the edges when predicting."""

import copy

import torch
from torch import nn

from cgcnn_ase.nn.convolutions import GatedConvolution
from cgcnn_ase.nn.network import Network


def folded(network: Network) -> Network:
    """A copy for prediction whose edges are not normalised one by one any more; its outputs are the same.

    In evaluation a batch norm is the affine map s * x + t, which goes into the weights and bias of the map that made x.
    Layer norms depend on their input and stay; so do the norms of edge-gated convolutions, whose gates read what comes
    before the norm.
    """
    network = copy.deepcopy(network).eval()
    for convolution in network.architecture.convolutions:
        if isinstance(convolution, GatedConvolution) and isinstance(convolution.edge_norm, nn.BatchNorm1d):
            _scale(convolution.full, *_affine(convolution.edge_norm))
            convolution.edge_norm = nn.Identity()
    return network


def _affine(norm: nn.BatchNorm1d) -> tuple[torch.Tensor, torch.Tensor]:
    """s and t of a batch norm in evaluation."""
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


def _scale(linear: nn.Linear, scale: torch.Tensor, shift: torch.Tensor) -> None:
    with torch.no_grad():
        linear.weight.mul_(scale[:, None])
        linear.bias.mul_(scale).add_(shift)
