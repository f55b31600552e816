"""How far to go from the old weights to the tuned ones: as far as the held-out labels ask for, and no farther."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.nn.network import Network
from cgcnn_ase.prediction.evaluation import embeddings_of, outputs_of
from cgcnn_ase.training.finetune import finetune_member

#: parts of the way that are tried, the nearest first
STEPS = (0.0, 0.25, 0.5, 0.75, 1.0)
#: held-out labels below which they cannot tell, and all of the way is taken
MIN_HELD_OUT = 10


class Blend(NamedTuple):
    """What was tried."""

    part: float  #: of the way, 0: the old weights, 1: the tuned ones
    val_errors: dict[float, float]  #: mean absolute error of the val split by part of the way, in what is learned


def blend(networks: Sequence[Network], start: CrystalModel, data: PreparedData) -> tuple[nn.ModuleList, Blend | None]:
    r"""Members with the weights :math:`(1 - a) w_0 + a w` of the lowest val error (Wortsman et al., CVPR 2022, 7949).

    Between a model and one tuned from it lie models that have learned much of the new and forgotten less of the old;
    with a val split of both, one of them is chosen. Where tuning brought nothing, a is 0 and the model stays what it
    was. With fewer than 10 val labels a is 1, and there is no :class:`Blend`.

    Parameters
    ----------
    networks
        Tuned members.
    start
        The model that they were tuned from, of the same target.
    data
        With a val split.
    """
    labels = data.labels("val")[:, 0]
    known = np.isfinite(labels)
    whole = nn.ModuleList(networks)
    if known.sum() < MIN_HELD_OUT or data.of_sites or data.specs[0].task != "regression":
        return whole, None
    learned = data.specs[0].forward(torch.from_numpy(labels[known])).numpy()
    old = [finetune_member(start, k).state_dict() for k in range(len(whole))]
    new = [{name: tensor.clone() for name, tensor in network.state_dict().items()} for network in networks]
    errors = {}
    for part in STEPS:
        _set(whole, old, new, part)
        model = CrystalModel(whole, graph=data.graph_config, target=data.specs[0], scaler=start.scaler)
        embeddings = embeddings_of(model, data.graphs, data.rows("val"))
        predicted = (
            outputs_of(model, [embedding[torch.from_numpy(known)] for embedding in embeddings])
            .values.mean(dim=0)
            .numpy()
        )
        errors[part] = float(np.abs(predicted - learned).mean())
    best = min(STEPS, key=lambda part: errors[part])
    _set(whole, old, new, best)
    return whole, Blend(best, errors)


def _set(networks: nn.ModuleList, old: list[dict[str, Tensor]], new: list[dict[str, Tensor]], part: float) -> None:
    for network, before, after in zip(networks, old, new, strict=True):
        mixed = {k: torch.lerp(before[k], w, part) if w.is_floating_point() else w for k, w in after.items()}
        network.load_state_dict(mixed)
