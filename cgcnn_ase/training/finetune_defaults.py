"""The recipe of a fine-tuning: by how many labels there are and whether the model has learned the property before."""

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from cgcnn_ase.core.yaml_settings import Plain
from cgcnn_ase.nn.pooling import PoolingName
from cgcnn_ase.training.start_model import Frozen, can_reuse_head

if TYPE_CHECKING:
    from cgcnn_ase.data.prepared import PreparedData
    from cgcnn_ase.models.crystal_model import CrystalModel

# fewer labels than this cannot choose an epoch, nor move convolutions to a better place
MIN_TO_CHOOSE_EPOCH = 50
# up to this many labels the number of steps is fixed, not that of epochs
MAX_FIXED_STEPS = 300
# from this many labels on all layers learn alike
MIN_FOR_ALL_LAYERS = 3000


@dataclass(frozen=True)
class FinetuneRecipe:
    """Settings of a fine-tuning: fields of :class:`~cgcnn_ase.training.config.TrainConfig`, and what stays fixed."""

    frozen: Frozen
    settings: Plain


def recipe_for(
    n_labels: int,
    *,
    same_target: bool,
    pooling: PoolingName = "mean",
    n_replayed: int = 0,
    epochs_factor: float = 1.0,
) -> FinetuneRecipe:
    """FinetuneRecipe for so many training labels; docs/how_to/finetune.md says what it gives.

    For another property than the model's own, a network with up to 3,000 labels reads the vectors of all its layers
    (``pooling: layers``) where its pooling is the mean: the last have given up for the old property what the new one
    needs. Batch norms keep the statistics of the old data unless there are many new ones. ``n_labels`` is without the
    ``n_replayed`` old ones, which make fewer epochs of a number of steps.

    >>> recipe_for(40, same_target=True).frozen
    'convolutions'
    >>> recipe_for(10_000, same_target=True).settings["learning_rate"]
    0.0005
    """
    if n_labels < 1:
        raise ValueError(f"fine-tuning needs labels, there are {n_labels}")
    if not epochs_factor > 0:
        raise ValueError(f"epochs_factor must be positive, not {epochs_factor}")
    frozen: Frozen = "none"
    if n_labels >= MIN_FOR_ALL_LAYERS:
        epochs = 20 if same_target else 30
        settings: Plain = {"learning_rate": 5e-4 if same_target else 1e-3, "batch_size": 64}
    elif n_labels >= MAX_FIXED_STEPS:
        epochs = 20
        settings = {"learning_rate": 1e-3 if same_target else 2e-3, "batch_size": 16, "backbone_lr_scale": 0.1}
    else:
        rate, n_steps, batch = 1e-3 if same_target else 3e-3, 300 if same_target else 400, 8
        epochs = max(5, ceil(n_steps / max(1, (n_labels + n_replayed) // batch)))
        settings = {"learning_rate": rate, "batch_size": batch}
        if same_target or n_labels < MIN_TO_CHOOSE_EPOCH:
            frozen = "convolutions"
        else:
            settings["backbone_lr_scale"] = 0.1
        if n_labels < MIN_TO_CHOOSE_EPOCH:
            settings["checkpoint"] = "last"
    settings["epochs"] = max(1, round(epochs * epochs_factor))
    if n_labels < MIN_FOR_ALL_LAYERS:
        settings["freeze_batchnorm_stats"] = True
        if not same_target and pooling == "mean":
            settings["network"] = {"pooling": "layers"}
    return FinetuneRecipe(frozen, settings)


def recipe_of(
    model: "CrystalModel", data: "PreparedData", *, n_replayed: int = 0, epochs_factor: float = 1.0
) -> FinetuneRecipe:
    """FinetuneRecipe for a model to tune and its new data, beside so many replayed crystals."""
    return recipe_for(
        int(np.isfinite(data.labels("train")).any(axis=1).sum()),
        same_target=can_reuse_head(model, data.specs),
        pooling=model.networks[0].config.architecture.pooling,
        n_replayed=n_replayed,
        epochs_factor=epochs_factor,
    )
