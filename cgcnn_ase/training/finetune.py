"""Start from a trained model: copy its members, freeze the layers that should stay."""

import copy
from typing import Literal, get_args

from torch import nn

from cgcnn_ase.nn.model import CrystalModel
from cgcnn_ase.nn.network import Network

Frozen = Literal["none", "embedding", "convolutions"]


def member_to_tune(model: CrystalModel, k: int, frozen: Frozen = "none") -> Network:
    """A copy of member k (counted around if there are fewer) with the layers up to ``frozen`` fixed.

    ``embedding`` fixes the embeddings of elements and bonds, ``convolutions`` these and all convolutions. The running
    statistics of fixed layers stay as they are, too.

    Raises
    ------
    ValueError
        If ``frozen`` is not one of the names.
    """
    if frozen not in get_args(Frozen):
        raise ValueError(f"unknown layers {frozen!r} to freeze; allowed: {', '.join(get_args(Frozen))}")
    network = copy.deepcopy(model.networks[k % len(model.networks)])
    for part in _parts(network, frozen):
        part.requires_grad_(False)
    return network


def hold_frozen(network: nn.Module) -> None:
    """Put modules whose parameters are all fixed into evaluation, so that their running statistics stay."""
    for module in network.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def _parts(network: Network, frozen: Frozen) -> list[nn.Module]:
    """The modules up to a name."""
    n_groups = get_args(Frozen).index(frozen)
    return [module for group in network.architecture.trunk[:n_groups] for module in group]
