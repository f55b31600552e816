"""How far to go from the old weights to the tuned ones: as far as the held-out labels ask for, and no farther."""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.nn.network import Network
from cgcnn_ase.prediction.evaluation import embeddings_of, outputs_of
from cgcnn_ase.training.start_model import finetune_member
from cgcnn_ase.uncertainty.metrics import mae

# parts of the way that are tried, the nearest first
STEPS = (0.0, 0.25, 0.5, 0.75, 1.0)
# held-out labels below which they cannot tell, and all of the way is taken
MIN_VAL_LABELS = 10


class Blend(NamedTuple):
    """How far to go, and what was tried."""

    part: float  # of the way, 0: the old weights, 1: the tuned ones
    val_errors: dict[float, float]  # mean absolute error of the val split by part of the way, in what is learned
    val_embeddings: list[Tensor]  # of the val split by each member that was taken


def blend(networks: Sequence[Network], start: CrystalModel, data: PreparedData) -> tuple[nn.ModuleList, Blend | None]:
    """Members with the weights :math:`(1 - a) w_0 + a w` of the lowest val error (Wortsman et al., CVPR 2022, 7949).

    Between a model and one tuned from it lie models that have learned much of the new and forgotten less of the old;
    with a val split of both, one of them is chosen. Where tuning brought nothing, a is 0 and the model stays what it
    was. With fewer than 10 val labels a is 1, and there is no :class:`Blend`.
    """
    labels = data.labels("val")[:, 0]
    known = np.isfinite(labels)
    if known.sum() < MIN_VAL_LABELS or data.of_sites or data.specs[0].task != "regression":
        return nn.ModuleList(networks), None
    learned = data.specs[0].forward(torch.from_numpy(labels[known])).numpy()
    old = [finetune_member(start, k).state_dict() for k in range(len(networks))]
    ways = [[_between(network, before, part) for network, before in zip(networks, old, strict=True)] for part in STEPS]

    def model_of(members: Sequence[Network]) -> CrystalModel:
        return CrystalModel(members, graph=data.graph_config, target=data.specs[0], scaler=start.scaler)

    every = embeddings_of(model_of([network for way in ways for network in way]), data.graphs, data.rows("val"))
    embeddings = [every[k : k + len(networks)] for k in range(0, len(every), len(networks))]
    errors = {}
    for part, way, pooled in zip(STEPS, ways, embeddings, strict=True):
        values = outputs_of(model_of(way), [each[torch.from_numpy(known)] for each in pooled]).values.mean(dim=0)
        errors[part] = mae(learned, values.numpy())
    best = min(range(len(STEPS)), key=lambda k: errors[STEPS[k]])
    return nn.ModuleList(ways[best]), Blend(STEPS[best], errors, embeddings[best])


def _between(network: Network, before: dict[str, Tensor], part: float) -> Network:
    after = network.state_dict()
    mixed = copy.deepcopy(network)
    mixed.load_state_dict({k: torch.lerp(before[k], w, part) if w.is_floating_point() else w for k, w in after.items()})
    return mixed
