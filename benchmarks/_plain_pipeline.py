"""CIF files to CSV the plain way: pymatgen, the original network in PyTorch over a dense table, one process.

``python _plain_pipeline.py FOLDER WEIGHTS ATOM_INIT OUTPUT.csv``. It shares no code with cgcnn_ase.
"""

import csv
import json
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pymatgen.core import Structure
from torch import Tensor
from torch.nn.functional import batch_norm, linear, softplus

K, RADIUS, STEP, BATCH = 12, 8.0, 0.2, 256


class Dense(NamedTuple):
    numbers: list[int]
    indices: np.ndarray  # (N, 12)
    distances: np.ndarray  # (N, 12) Å


def read(path: Path) -> Dense:
    """The 12 nearest neighbours within 8 Å of each atom; missing ones are atom 0 at 9 Å."""
    structure = Structure.from_file(path)
    indices = np.zeros((len(structure), K), dtype=np.int64)
    distances = np.full((len(structure), K), RADIUS + 1.0)
    for i, neighbors in enumerate(structure.get_all_neighbors(RADIUS)):
        nearest = sorted(neighbors, key=lambda neighbor: neighbor.nn_distance)[:K]
        indices[i, : len(nearest)] = [neighbor.index for neighbor in nearest]
        distances[i, : len(nearest)] = [neighbor.nn_distance for neighbor in nearest]
    return Dense([site.specie.Z for site in structure], indices, distances)


def network(batch: list[Dense], state: Mapping[str, Tensor], elements: Tensor) -> Tensor:
    """Scaled outputs, (B,)."""

    def dense(name: str, x: Tensor) -> Tensor:
        return linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def normed(name: str, x: Tensor) -> Tensor:
        return batch_norm(x, *(state[f"{name}.{p}"] for p in ("running_mean", "running_var", "weight", "bias")))

    sizes = torch.tensor([len(crystal.numbers) for crystal in batch])
    first = (sizes.cumsum(0) - sizes).tolist()
    indices = torch.cat([torch.from_numpy(c.indices) + shift for c, shift in zip(batch, first, strict=True)])
    distances = torch.from_numpy(np.concatenate([c.distances for c in batch])).float()
    bonds = torch.exp(-((distances[:, :, None] - torch.arange(0, RADIUS + STEP, STEP)) ** 2) / STEP**2)
    v = dense("embedding", elements[[z for crystal in batch for z in crystal.numbers]])
    layer = 0
    while f"convs.{layer}.fc_full.weight" in state:
        z = torch.cat([v[:, None, :].expand(-1, K, -1), v[indices], bonds], dim=2)
        z = dense(f"convs.{layer}.fc_full", z)
        gate, core = normed(f"convs.{layer}.bn1", z.flatten(0, 1)).view_as(z).chunk(2, dim=2)
        v = softplus(v + normed(f"convs.{layer}.bn2", (torch.sigmoid(gate) * softplus(core)).sum(1)))
        layer += 1
    pooled = torch.stack([part.mean(0) for part in v.split(sizes.tolist())])
    return dense("fc_out", softplus(dense("conv_to_fc", softplus(pooled))))[:, 0]


def main(folder: Path, weights: Path, atom_init: Path, output: Path) -> None:
    warnings.filterwarnings("ignore")
    checkpoint = torch.load(weights, map_location="cpu", weights_only=False)
    mean, std = (float(checkpoint["normalizer"][name]) for name in ("mean", "std"))
    rows = {int(z): row for z, row in json.loads(atom_init.read_text()).items()}
    elements = torch.tensor([rows.get(z, [0] * 92) for z in range(max(rows) + 1)], dtype=torch.float32)
    files = sorted(folder.glob("*.cif"))
    with output.open("w", newline="") as lines, torch.inference_mode():
        writer = csv.writer(lines)
        writer.writerow(["id", "value"])
        for k in range(0, len(files), BATCH):
            part = files[k : k + BATCH]
            values = network([read(file) for file in part], checkpoint["state_dict"], elements) * std + mean
            writer.writerows((file.stem, value) for file, value in zip(part, values.tolist(), strict=True))


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
