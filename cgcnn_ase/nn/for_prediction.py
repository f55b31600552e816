"""A copy of a model that predicts faster: norms folded away, edges in blocks. Its outputs are the same."""

import copy
from typing import cast

from torch import Tensor, nn

from cgcnn_ase.graphs.crystal_graph import CrystalGraph
from cgcnn_ase.nn.blocked import BlockedCGCNN
from cgcnn_ase.nn.blocks import blocks
from cgcnn_ase.nn.cgcnn import CGCNN
from cgcnn_ase.nn.messages import Engine
from cgcnn_ase.nn.model import CrystalModel
from cgcnn_ase.nn.network import Network


class FastModel(CrystalModel):
    """A copy of a model, for use without gradients; the members share what they read of a graph."""

    @classmethod
    def of(cls, model: CrystalModel) -> "FastModel":
        """The copy."""
        fast = cls.__new__(cls)
        members = nn.ModuleList(for_prediction(network) for network in model.networks)
        fast.__dict__ = model.__dict__ | {"_modules": {"members": members}}
        return fast

    def reading(self, model: CrystalModel) -> CrystalModel:
        """A model of the same members, read off these copies of them."""
        view = CrystalModel.__new__(CrystalModel)
        view.__dict__ = model.__dict__ | {"_modules": self._modules}
        return view

    def pooled(self, graph: CrystalGraph, engine: Engine = "auto") -> list[Tensor]:
        """Crystal embeddings of each member, (B, P); for blocked networks the engine makes no difference."""
        first = self.networks[0].architecture
        if not isinstance(first, BlockedCGCNN):
            return super().pooled(graph, engine)
        architectures = [cast(BlockedCGCNN, network.architecture) for network in self.networks]
        edges = blocks(graph, first.basis)
        return [own.pool(graph, own.atoms_of_blocks(graph.numbers, edges)) for own in architectures]


def for_prediction(network: Network) -> Network:
    """A copy in evaluation mode, for use without gradients.

    In evaluation a batch norm is an affine map, which goes into the weights and bias of the linear map before it; a
    layer norm depends on its input and stays. The convolutions of a CGCNN pass over the edges in blocks.
    """
    network = copy.deepcopy(network).eval()
    if isinstance(network.architecture, CGCNN):
        network.architecture = BlockedCGCNN.of(network.architecture)
    return network
