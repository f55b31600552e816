"""From atomic numbers to first node vectors."""

from typing import Literal

import torch
from torch import Tensor, nn

from cgcnn_ase.elements import DESCRIPTOR_SIZE, MAX_NUMBER, descriptor_table

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
