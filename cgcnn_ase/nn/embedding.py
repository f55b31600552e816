"""From atomic numbers to first node vectors."""

from typing import Literal

import torch
from torch import Tensor, nn

from cgcnn_ase.core.elements import DESCRIPTOR_SIZE, MAX_NUMBER, descriptor_table

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
