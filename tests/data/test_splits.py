"""Splits: the sizes asked for, the same for the same seed, and no group on both sides."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgcnn_ase.data.splits import NAMES, group_split, k_fold, random_split


@settings(deadline=None)
@given(
    groups=st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=80),
    seed=st.integers(0, 1000),
    val=st.floats(0, 0.45),
    test=st.floats(0, 0.45),
)
def test_groups_never_straddle(groups: list[str], seed: int, val: float, test: float) -> None:
    split = group_split(groups, val=val, test=test, seed=seed)
    assert len(split) == len(groups)
    assert set(split) <= set(NAMES)
    for group in set(groups):
        assert len({name for name, g in zip(split, groups, strict=True) if g == group}) == 1


def test_sizes_and_seeds() -> None:
    split = random_split(1000, val=0.1, test=0.2, seed=3)
    assert {name: int((split == name).sum()) for name in NAMES} == {"train": 700, "val": 100, "test": 200}
    np.testing.assert_array_equal(split, random_split(1000, val=0.1, test=0.2, seed=3))
    assert (split != random_split(1000, val=0.1, test=0.2, seed=4)).any()
    assert set(random_split(10, val=0, test=0)) == {"train"}


def test_the_global_random_state_is_left_alone() -> None:
    np.random.seed(0)  # noqa: NPY002
    before = str(np.random.get_state())  # noqa: NPY002
    random_split(100)
    list(k_fold(range(10)))
    assert str(np.random.get_state()) == before  # noqa: NPY002


def test_order_of_the_samples_does_not_move_a_group() -> None:
    groups = np.array(["Li2O", "NaCl", "Cu", "Si", "NiO", "Fe"] * 3)
    shuffle = np.random.default_rng(0).permutation(len(groups))
    split = group_split(groups, val=0.3, test=0.3, seed=1)
    np.testing.assert_array_equal(group_split(groups[shuffle], val=0.3, test=0.3, seed=1), split[shuffle])


@pytest.mark.parametrize(("val", "test"), [(-0.1, 0.1), (0.1, -0.1), (0.5, 0.5), (0.9, 0.3)])
def test_fractions_that_make_no_sense(val: float, test: float) -> None:
    with pytest.raises(ValueError, match="leave something to train on"):
        random_split(10, val=val, test=test)


@settings(deadline=None)
@given(n_groups=st.integers(2, 12), k=st.integers(2, 12), seed=st.integers(0, 100))
def test_k_fold_holds_each_group_out_once(n_groups: int, k: int, seed: int) -> None:
    groups = [f"g{i % n_groups}" for i in range(3 * n_groups)]
    if k > n_groups:
        with pytest.raises(ValueError, match=f"k must lie between 2 and the number of groups, {n_groups}"):
            list(k_fold(groups, k=k, seed=seed))
        return
    held_out = np.array([split == "val" for split in k_fold(groups, k=k, seed=seed)])
    assert held_out.shape == (k, len(groups))
    assert (held_out.sum(axis=0) == 1).all()
    assert held_out.any(axis=1).all()
    for group in set(groups):
        rows = np.array(groups) == group
        assert (held_out[:, rows].all(axis=1) | ~held_out[:, rows].any(axis=1)).all()
