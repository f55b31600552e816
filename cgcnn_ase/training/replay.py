"""Old data learned beside new, so that a fine-tuned model does not forget what it knew (rehearsal; Robins, 1995)."""

from dataclasses import replace

import numpy as np

from cgcnn_ase.data.prepared import PreparedData, join
from cgcnn_ase.data.splits import OLD_ID, composition_groups

#: replayed crystals where the new labels are fewer
MIN_REPLAYED = 500
#: the split of old crystals that tell what was forgotten, and of those that are not used
OLD_TEST, UNUSED = "old test", "unused"


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
