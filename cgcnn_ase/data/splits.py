"""Divide a data set into train, val and test."""

from collections.abc import Iterator, Sequence
from hashlib import sha256

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

NAMES = ("train", "val", "test")


def random_split(n: int, *, val: float = 0.1, test: float = 0.1, seed: int = 0) -> npt.NDArray[np.str_]:
    """Name of the split of each of n samples, drawn at random."""
    return group_split(np.arange(n), val=val, test=test, seed=seed)


def group_split(
    groups: Sequence[object] | npt.NDArray[np.generic], *, val: float = 0.1, test: float = 0.1, seed: int = 0
) -> npt.NDArray[np.str_]:
    """Name of the split of each sample; samples of one group (a reduced formula, a host) stay together.

    Raises
    ------
    ValueError
        If the fractions leave nothing to train on.
    """
    _check_fractions(val, test)
    _, group = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    n_groups = int(group.max(initial=-1)) + 1
    rank = np.random.default_rng(seed).permutation(n_groups)
    n_test, n_val = round(test * n_groups), round(val * n_groups)
    name = np.where(rank < n_test, "test", np.where(rank < n_test + n_val, "val", "train"))
    return name[group]


def hashed_split(groups: Sequence[str], *, val: float = 0.1, test: float = 0.1, seed: int = 0) -> npt.NDArray[np.str_]:
    """As :func:`group_split`, each group by a hash of its name: the same in every part of a data set.

    Raises
    ------
    ValueError
        If the fractions leave nothing to train on.
    """
    _check_fractions(val, test)
    draws = {g: int.from_bytes(sha256(f"{seed}:{g}".encode()).digest()[:8], "big") / 2.0**64 for g in set(groups)}
    u = np.array([draws[g] for g in groups])
    return np.where(u < test, "test", np.where(u < test + val, "val", "train"))


def _check_fractions(val: float, test: float) -> None:
    if val < 0 or test < 0 or val + test >= 1:
        raise ValueError(f"val and test must be fractions that leave something to train on, not {val} and {test}")


def k_fold(groups: Sequence[object], *, k: int = 5, seed: int = 0) -> Iterator[npt.NDArray[np.str_]]:
    """Yield k splits into train and val in which each group is in val once.

    Raises
    ------
    ValueError
        If there are fewer groups than folds.
    """
    _, group = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    n_groups = int(group.max(initial=-1)) + 1
    if not 2 <= k <= n_groups:
        raise ValueError(f"k must lie between 2 and the number of groups, {n_groups}; got {k}")
    fold = np.random.default_rng(seed).permutation(n_groups) % k
    for held_out in range(k):
        yield np.where(fold == held_out, "val", "train")[group]
