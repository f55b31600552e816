"""Potentials of this package as models of torch-sim (extra ``[torch-sim]``), for its optimisers and dynamics."""

from pathlib import Path
from typing import Any

import torch
import torch_sim
from torch_sim.models.interface import ModelInterface

from cgcnn_ase.graphs.crystal_graph import Geometry, batch
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.models.registry import load_model
from cgcnn_ase.potential.potential import NeighborList, Potential


class TorchSimModel(ModelInterface):
    """Energy, forces and stress of the systems of a torch-sim state.

    Parameters
    ----------
    model
        A potential: pretrained name, model folder, or loaded model; else a
        :class:`~cgcnn_ase.potential.potential.NotAPotentialError` is raised.
    dtype
        Of the state and the results; the network computes in its own.

    Examples
    --------
    >>> torch_sim.optimize(system=atoms, model=TorchSimModel("cathode-potential"), ...)  # doctest: +SKIP
    """

    def __init__(self, model: str | Path | CrystalModel, *, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.potential = Potential(model if isinstance(model, CrystalModel) else load_model(model))
        self._device, self._dtype = torch.device("cpu"), dtype
        self._compute_stress = self._compute_forces = True

    def forward(self, state: Any, **options: object) -> dict[str, torch.Tensor]:
        """``energy`` (B,) eV, ``forces`` (N, 3) eV/Å and ``stress`` (B, 3, 3) eV/Å^3."""
        del options
        if not isinstance(state, torch_sim.SimState):
            state = torch_sim.SimState(**state, masses=torch.ones_like(state["positions"][:, 0]))
        pbc = torch.as_tensor(state.pbc).expand(3).numpy()
        counts = torch.bincount(state.system_idx, minlength=len(state.cell)).tolist()
        positions, numbers = state.positions.detach().double().split(counts), state.atomic_numbers.split(counts)
        for each in numbers:
            self.potential.check_elements(each.numpy())
        cells = state.row_vector_cell.detach().double().numpy()
        output = self.potential(
            batch(
                [
                    NeighborList(self.potential.cutoff, 0.0).graph(Geometry(z.numpy(), r.numpy(), cell, pbc))
                    for z, r, cell in zip(numbers, positions, cells, strict=True)
                ]
            )
        )
        return {
            name: torch.from_numpy(getattr(output, field)).to(self._dtype)
            for name, field in (("energy", "energies"), ("forces", "forces"), ("stress", "stress"))
        }
