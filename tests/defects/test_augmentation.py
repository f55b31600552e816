"""Random vacancies: distinct, reproducible, and refused where there are not enough."""

import numpy as np
import pytest
from ase.build import bulk

from cgcnn_ase.defects.generate import random_vacancies

from .conftest import example


def removed(**options):
    return [manifest.sites for _, manifest in random_vacancies(example("LiNiO2"), **options)]


def test_the_old_command(lithium_nickelate):
    """Three structures, seed 42, one lithium less in each."""
    result = list(random_vacancies(lithium_nickelate, supercell=(3, 3, 1), name="LiNiO2"))
    assert [manifest.id for _, manifest in result] == ["LiNiO2-v_Li-0", "LiNiO2-v_Li-1", "LiNiO2-v_Li-2"]
    whole = lithium_nickelate.repeat((3, 3, 1))
    for atoms, manifest in result:
        (site,) = manifest.sites
        assert whole.symbols[site] == "Li"
        rest = np.delete(np.arange(len(whole)), site)
        np.testing.assert_allclose(atoms.positions, whole.positions[rest])
        assert (manifest.kind, manifest.seed, manifest.removed) == ("random-vacancy", 42, ("Li",))


def test_the_seed_decides():
    assert removed(seed=1, n_vacancies=4) == removed(seed=1, n_vacancies=4)
    assert removed(seed=1, n_vacancies=4) != removed(seed=2, n_vacancies=4)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    removed(seed=3)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


@pytest.mark.parametrize("num", [3, 20, 27])
def test_all_are_different(num):
    """Also where nearly all that exist are asked for."""
    assert len(set(removed(num=num, supercell=(3, 3, 1)))) == num
    pairs = removed(num=6, n_vacancies=2, supercell=(2, 1, 1))
    assert len(set(pairs)) == 6
    assert all(len(set(pair)) == 2 for pair in pairs)


def test_every_site_is_as_likely_as_another():
    hits = np.bincount([site for (site,) in removed(num=1, supercell=1, seed=0)] or [0], minlength=3)
    for seed in range(1, 300):
        hits[removed(num=1, supercell=1, seed=seed)[0][0]] += 1
    assert hits.sum() == 300
    assert (np.abs(hits[:3] - 100) < 35).all()  # four standard deviations


def test_fractions():
    (atoms, manifest), *_ = random_vacancies(example("LiNiO2"), n_vacancies=1 / 3, supercell=(3, 3, 1), num=1)
    assert atoms.symbols.count("Li") == 18
    assert (len(manifest.sites), manifest.defect) == (9, "9v_Li")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"element": "Co"}, "host has no Co; its elements are Li, Ni, O"),
        ({"element": "Lithium"}, "element 'Lithium': is no symbol"),
        ({"n_vacancies": 40, "supercell": (3, 3, 1)}, "has 27 Li, fewer than the 40 vacancies asked for"),
        ({"n_vacancies": 0}, "give a whole number, or a fraction between 0 and 1"),
        ({"n_vacancies": 1.5}, "give a whole number, or a fraction between 0 and 1"),
        ({"n_vacancies": -0.5}, "give a whole number, or a fraction between 0 and 1"),
        ({"n_vacancies": 0.01, "supercell": 1}, "less than half an atom"),
        ({"num": 0}, "num 0: must be 1 or more"),
        ({"num": 4, "supercell": 1}, "1 of 3 Li can be removed in 3 ways only"),
    ],
)
def test_bad_input_is_told_at_once(lithium_nickelate, options, words):
    with pytest.raises(ValueError, match=words):
        random_vacancies(lithium_nickelate, **options)


def test_nothing_left():
    with pytest.raises(ValueError, match="has only Cu, none would be left"):
        random_vacancies(bulk("Cu"), "Cu", n_vacancies=8, supercell=2, num=1)
