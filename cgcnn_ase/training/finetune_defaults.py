"""The recipe of a fine-tuning, and the old data that it replays.

The recipe goes by how many labels there are and whether the model has learned the property before. Old data learned
beside new keeps a model from forgetting what it knew (rehearsal; Robins, 1995).
"""

from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from cgcnn_ase.core.yaml_settings import Plain
from cgcnn_ase.data.prepared import PreparedData, join
from cgcnn_ase.data.splits import OLD_ID, composition_groups
from cgcnn_ase.nn.pooling import PoolingName
from cgcnn_ase.training.start_model import Frozen, can_reuse_head

if TYPE_CHECKING:
    from cgcnn_ase.models.crystal_model import CrystalModel

# fewer labels than this cannot choose an epoch, nor move convolutions to a better place
MIN_TO_CHOOSE_EPOCH = 50
# up to this many labels the number of steps is fixed, not that of epochs
MAX_FIXED_STEPS = 300
# from this many labels on all layers learn alike
MIN_FOR_ALL_LAYERS = 3000
# replayed crystals where the new labels are fewer
MIN_REPLAYED = 500
# the split of old crystals that tell what was forgotten, and of those that are not used
OLD_TEST, UNUSED = "old test", "unused"


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
    model: "CrystalModel", data: PreparedData, *, n_replayed: int = 0, epochs_factor: float = 1.0
) -> FinetuneRecipe:
    """FinetuneRecipe for a model to tune and its new data, beside so many replayed crystals."""
    return recipe_for(
        int(np.isfinite(data.labels("train")).any(axis=1).sum()),
        same_target=can_reuse_head(model, data.specs),
        pooling=model.networks[0].config.architecture.pooling,
        n_replayed=n_replayed,
        epochs_factor=epochs_factor,
    )


def with_replay(new: PreparedData, old: PreparedData, *, n: int | None = None, seed: int = 0) -> PreparedData:
    """The new data, with some of the old in its train and val splits and the old test split beside its own.

    Old crystals are drawn at random: `n` of their train split (by default as many as there are new ones, at least 500),
    and of their val split as many as the new data has for val, so that the chosen epoch and the calibration serve both.
    None of a composition that the new data holds out for val or test is learned, and a crystal in both sets counts as
    new. Further splits are ``old test`` and ``unused``; the ids of the old data begin with ``old:``.
    """
    if n is not None and n < 1:
        raise ValueError(f"replayed crystals: must be at least 1, not {n}")
    known = set(new.ids)
    taken = np.array([name in known for name in old.ids])
    both = join([new, replace(old, ids=[f"{OLD_ID}{name}" for name in old.ids])])
    is_old = np.arange(len(both.ids)) >= len(new.ids)
    only_old = is_old.copy()
    only_old[is_old] = ~taken
    rng = np.random.default_rng(seed)
    split = np.where(is_old, UNUSED, both.split).astype(object)
    split[only_old & (both.split == "test")] = OLD_TEST
    group = composition_groups(both.graphs, np.arange(len(both.ids)))
    held_out = np.isin(group, group[~is_old & np.isin(both.split, ["val", "test"])])
    free = only_old & ~held_out
    n_train = max(MIN_REPLAYED, len(new.rows("train"))) if n is None else n
    for name, n_rows in (("train", n_train), ("val", len(new.rows("val")))):
        pool = np.flatnonzero(free & (both.split == name))
        if not len(pool):
            raise ValueError(
                f"nothing of the old data's {name} split can be replayed: it is all in the new data or held out there"
            )
        split[rng.permutation(pool)[:n_rows]] = name
    return replace(both, split=split.astype(str))
