"""Which structures are learned from, which are held out to validate, which to test: also where there are very few."""

from collections.abc import Hashable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

#: a group larger than this part of the structures is not held out as a whole to validate
_LARGEST = 1 / 3

By = Literal["group", "structure"]


class Division(NamedTuple):
    """Of each structure ``train``, ``val`` or ``test``, and whether groups were kept together."""

    split: npt.NDArray[np.str_]
    by: By


def divide(groups: Sequence[Hashable], *, val: float, test: float, seed: int) -> Division:
    """Divide structures by their groups (formula, host), so that no group is in two parts.

    At least one structure is held out to validate. Where there are too few groups for that, or the smallest is more
    than a third of all, single structures are drawn instead.

    Parameters
    ----------
    groups
        The group of each structure.
    val, test
        Parts of the groups, from 0 to less than 1.
    seed
        Of the drawing.

    Raises
    ------
    ValueError
        If there are fewer than 2 structures, or the parts leave nothing to train on.
    """
    from cgcnn_ase.data.splits import group_split, random_split

    n = len(groups)
    if n < 2:
        raise ValueError(
            f"training needs at least 2 labelled structures, one to learn from and one to hold out; got {n}"
        )
    split = group_split([repr(group) for group in groups], val=val, test=test, seed=seed)
    if (split == "val").any() and (split == "train").any():
        return Division(split, "group")
    held_out = _smallest_group(groups, split)
    if held_out is not None and len(held_out) <= _LARGEST * n:
        split[held_out] = "val"
        return Division(split, "group")
    split = random_split(n, val=val, test=test, seed=seed)
    if not (split == "train").any():
        split[:] = "train"
    if not (split == "val").any():
        rows = np.flatnonzero(split == "train")
        if len(rows) < 2:
            split[split == "test"] = "train"
            rows = np.flatnonzero(split == "train")
        split[np.random.default_rng(seed).choice(rows)] = "val"
    return Division(split, "structure")


def _smallest_group(groups: Sequence[Hashable], split: npt.NDArray[np.str_]) -> list[int] | None:
    """Rows of the smallest group to learn from, where another is left."""
    rows: dict[Hashable, list[int]] = {}
    for k, group in enumerate(groups):
        if split[k] == "train":
            rows.setdefault(group, []).append(k)
    return min(rows.values(), key=len) if len(rows) > 1 else None
