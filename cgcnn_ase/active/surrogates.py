"""Surrogates by name."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from cgcnn_ase.active.surrogate import Surrogate
from cgcnn_ase.active.variables import Point

if TYPE_CHECKING:
    from ase import Atoms

    from cgcnn_ase.nn.model import CrystalModel

SurrogateName = Literal["gp", "network", "stacked"]


def make_surrogate(
    name: SurrogateName,
    *,
    model: "str | Path | CrystalModel | None" = None,
    structure: "Callable[[Point], Atoms] | None" = None,
    progress: bool = False,
) -> Surrogate:
    """The surrogate of one objective.

    Parameters
    ----------
    name
        ``gp``: a Gaussian process on the numbers of a point. ``network``: a model of crystal graphs. ``stacked``: a
        Gaussian process of that model's errors.
    model
        Of ``network`` and ``stacked``: what predicts the objective.
    structure
        Of ``network`` and ``stacked``: makes the structure of a point.
    progress
        Of these: whether to show a progress bar while they predict candidates.

    Raises
    ------
    ValueError
        If the name is none of these, or a network lacks its model or its structures.
    """
    if name not in get_args(SurrogateName):
        raise ValueError(f"no surrogate {name!r}; allowed: {', '.join(get_args(SurrogateName))}")
    if name == "gp":
        from cgcnn_ase.active.gaussian_process import GaussianProcess

        return GaussianProcess()
    if model is None or structure is None:
        raise ValueError(f"the surrogate {name!r} needs a model and what makes the structure of a point")
    from cgcnn_ase.active.network import Network, Stacked

    network = Network(model, structure, progress=progress)
    return network if name == "network" else Stacked(network)
