"""The original CGCNN evaluated in plain PyTorch, as independent truth for the package's own network.

Written from equation 5 of Xie and Grossman (Phys. Rev. Lett. 120, 145301) and the behaviour of their code, in the
concatenated form and over a dense (N, 12) table of neighbours. It shares nothing with `cgcnn_ase.nn` and is not fast.
"""

from collections.abc import Mapping

import numpy as np
import torch
from pymatgen.core import Structure
from torch import Tensor
from torch.nn.functional import batch_norm, linear, log_softmax, softplus

N_NEIGHBORS = 12
RADIUS = 8.0  # Å
STEP = 0.2  # Å, both the spacing of the Gaussians' centres and their width


def neighbor_table(structure: Structure) -> tuple[np.ndarray, np.ndarray]:
    """Indices and distances (Å) of the 12 nearest neighbours within 8 Å of each atom, both (N, 12).

    Where there are fewer, the reference code fills up with atom 0 at 9 Å.
    """
    indices = np.zeros((len(structure), N_NEIGHBORS), dtype=np.int64)
    distances = np.full((len(structure), N_NEIGHBORS), RADIUS + 1.0)
    for i, neighbors in enumerate(structure.get_all_neighbors(RADIUS)):
        nearest = sorted(neighbors, key=lambda neighbor: neighbor.nn_distance)[:N_NEIGHBORS]
        indices[i, : len(nearest)] = [neighbor.index for neighbor in nearest]
        distances[i, : len(nearest)] = [neighbor.nn_distance for neighbor in nearest]
    return indices, distances


def original_output(
    structure: Structure,
    state: Mapping[str, Tensor],
    task: str,
    descriptor_table: np.ndarray,
    table: tuple[np.ndarray, np.ndarray] | None = None,
) -> Tensor:
    """What the network's last layer gives: (1,) before un-scaling, or (2,) log-probabilities.

    `table` is `neighbor_table(structure)`, to make it once for several networks.
    """

    def dense(name: str, x: Tensor) -> Tensor:
        return linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def normed(name: str, x: Tensor) -> Tensor:
        parts = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return batch_norm(x, *parts, training=False)

    indices, distances = neighbor_table(structure) if table is None else table
    centres = np.arange(0, RADIUS + STEP, STEP)
    bonds = torch.tensor(
        np.exp(-((distances[:, :, None] - centres) ** 2) / STEP**2), dtype=torch.float32
    )  # (N, 12, 41)
    numbers = [site.specie.Z for site in structure]
    atoms = dense("embedding", torch.tensor(descriptor_table[numbers], dtype=torch.float32))  # (N, F)

    layer = 0
    while f"convs.{layer}.fc_full.weight" in state:
        conv = f"convs.{layer}"
        center = atoms[:, None, :].expand(-1, N_NEIGHBORS, -1)
        z = dense(f"{conv}.fc_full", torch.cat([center, atoms[indices], bonds], dim=-1))  # (N, 12, 2F)
        gate, core = normed(f"{conv}.bn1", z.flatten(0, 1)).view_as(z).chunk(2, dim=-1)
        messages = (torch.sigmoid(gate) * softplus(core)).sum(dim=1)  # (N, F)
        atoms = softplus(atoms + normed(f"{conv}.bn2", messages))
        layer += 1

    crystal = softplus(dense("conv_to_fc", softplus(atoms.mean(dim=0))))  # (h,); dropout does nothing in evaluation
    layer = 0
    while f"fcs.{layer}.weight" in state:
        crystal = softplus(dense(f"fcs.{layer}", crystal))
        layer += 1
    output = dense("fc_out", crystal)
    return log_softmax(output, dim=-1) if task == "classification" else output


def original_prediction(
    structure: Structure,
    state: Mapping[str, Tensor],
    mean: float,
    std: float,
    task: str,
    descriptor_table: np.ndarray,
    table: tuple[np.ndarray, np.ndarray] | None = None,
) -> float:
    """The prediction in the file's unit, or the probability of class 1 for a classifier.

    `descriptor_table` is (101, 92): row Z is the descriptor of the element of atomic number Z.
    """
    with torch.no_grad():
        output = original_output(structure, state, task, descriptor_table, table)
    return float(output[1].exp()) if task == "classification" else float(output[0]) * std + mean
