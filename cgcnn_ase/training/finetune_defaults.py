"""How to fine-tune, by how many labels there are and whether the model has learned the property before."""

from dataclasses import dataclass, field
from math import ceil
from typing import Any

from cgcnn_ase.nn.pooling import PoolingName
from cgcnn_ase.training.finetune import Frozen

#: fewer labels than this cannot choose an epoch, nor move convolutions to a better place
MIN_LABELS_TO_SELECT = 50
#: from this many labels on all layers learn alike
MIN_LABELS_UNIFORM_RATE = 3000
#: up to this many labels the number of steps is fixed, not that of epochs
_MAX_LABELS_FIXED_STEPS = 300


@dataclass(frozen=True)
class Tuning:
    """Settings of a fine-tuning: fields of :class:`~cgcnn_ase.training.config.TrainConfig`, and what stays fixed."""

    frozen: Frozen
    settings: dict[str, Any] = field(default_factory=dict)


def tuning(n_labels: int, *, same_target: bool, pooling: PoolingName = "mean", n_replayed: int = 0) -> Tuning:
    """Defaults for so many training labels; docs/finetuning.md says what they give.

    For another property than the model's own, a network with up to 3,000 labels reads the vectors of all its layers
    (``pooling: layers``): the last have given up for the old property what the new one needs. Batch norms keep the
    statistics of the old data unless there are many new ones.

    Parameters
    ----------
    n_labels
        In the training split, without replayed ones.
    same_target
        Whether the model learns its own target on, with its own head.
    pooling
        Of the model; only where it is the mean another takes its place.
    n_replayed
        Old labels that are learned beside them: what is a number of steps makes fewer epochs then.

    Raises
    ------
    ValueError
        If there is no label.

    Examples
    --------
    >>> tuning(40, same_target=True).frozen
    'convolutions'
    >>> tuning(10_000, same_target=True).settings["learning_rate"]
    0.0005
    """
    if n_labels < 1:
        raise ValueError(f"fine-tuning needs labels, there are {n_labels}")
    if n_labels >= MIN_LABELS_UNIFORM_RATE:
        rate = 5e-4 if same_target else 1e-3
        return Tuning("none", {"learning_rate": rate, "epochs": 20 if same_target else 30, "batch_size": 64})
    batch = 8 if n_labels < _MAX_LABELS_FIXED_STEPS else 16
    few = {"batch_size": batch, "freeze_batchnorm_stats": True} | (
        {"checkpoint": "last"} if n_labels < MIN_LABELS_TO_SELECT else {}
    )
    if n_labels < _MAX_LABELS_FIXED_STEPS:
        rate, steps = (1e-3, 300) if same_target else (3e-3, 400)
        model_settings = few | {"learning_rate": rate, "epochs": _epochs(steps, n_labels + n_replayed, batch)}
        stays = same_target or n_labels < MIN_LABELS_TO_SELECT
        result = (
            Tuning("convolutions", model_settings)
            if stays
            else Tuning("none", model_settings | {"backbone_lr_scale": 0.1})
        )
    else:
        result = Tuning(
            "none", few | {"learning_rate": 1e-3 if same_target else 2e-3, "backbone_lr_scale": 0.1, "epochs": 20}
        )
    return (
        result
        if same_target or pooling != "mean"
        else Tuning(result.frozen, result.settings | {"network": {"pooling": "layers"}})
    )


def _epochs(steps: int, n: int, batch: int) -> int:
    """Passes over n crystals that make about so many steps, at least a few."""
    return max(5, ceil(steps / max(1, n // batch)))
