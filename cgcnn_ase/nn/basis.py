"""Expansions of a distance, or of another number, into features."""

import torch
from torch import Tensor, nn

#: e^-50 is zero to single precision; smaller values would be denormal numbers, which slow every product they enter
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
