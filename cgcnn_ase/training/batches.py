"""Batches of prepared data, in an order that only the seed and the epoch decide."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from cgcnn_ase.core.arrays import Ints
from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.graphs.crystal_graph import CrystalGraph


class Batch(NamedTuple):
    """Graphs and their targets."""

    graph: CrystalGraph
    targets: Tensor  #: (B, T), or (N, T) for targets of sites; NaN where there is no label


class GraphSamples(Dataset[Batch]):
    """Hands out whole batches; a batch is cut from the flat arrays at once."""

    def __init__(self, data: PreparedData) -> None:
        self.data, self.targets = data, torch.tensor(data.targets, dtype=torch.float32)

    def __len__(self) -> int:
        return len(self.data.graphs)

    def __getitem__(self, indices: Sequence[int]) -> Batch:
        """The batch of these samples."""
        rows = torch.as_tensor(indices).sort().values  # neighbours on disk are read together
        return Batch(self.data.graphs.batch(rows), self.targets[self.data.target_rows(rows)])


class EpochSampler(Sampler[list[int]]):
    """Batches of indices; epoch k is shuffled by (seed, k) alone, so that a resumed run sees the same batches.

    Of several processes each takes every so-many-th batch of a training, all the same number of them, and every
    so-many-th row of what is only looked at.
    """

    def __init__(self, rows: Ints, batch_size: int, seed: int | None) -> None:
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        rank, world = process()
        if self.seed is None:
            return -(-len(self.rows[rank::world]) // self.batch_size)
        whole = len(self.rows) // (self.batch_size * world)
        return max(1, whole) if world == 1 else whole

    def __iter__(self) -> Iterator[list[int]]:
        rank, world = process()
        rows, size = self.rows[rank::world], self.batch_size
        if self.seed is not None:
            rows = np.random.default_rng((self.seed, self.epoch)).permutation(self.rows)
            of_step = size * world
            rows = np.concatenate([rows[k * of_step + rank * size :][:size] for k in range(len(self))])
        for k in range(len(self)):
            yield rows[k * size : (k + 1) * size].tolist()


def process() -> tuple[int, int]:
    """Number of this process and how many there are, of those that train together."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def loader(data: PreparedData, rows: Ints, batch_size: int, seed: int | None = None) -> DataLoader[Batch]:
    """Batches of the given rows: shuffled, whole batches only, with a seed; in order, all of them, without.

    The sampler of batches stands in the place of one of samples (``batch_size=None``): Lightning tells the epoch to no
    other, and every epoch would have the same batches.
    """
    samples, sampler = GraphSamples(data), EpochSampler(rows, batch_size, seed)
    return DataLoader(samples, batch_size=None, sampler=sampler, collate_fn=_whole_batch)


def _whole_batch(batch: object) -> Batch:
    """There is nothing left to collate."""
    assert isinstance(batch, Batch)
    return batch
