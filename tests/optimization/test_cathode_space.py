"""Cathode structures hold exactly the atoms that their point says, and the same ones each time."""

from collections import Counter

import numpy as np
import pytest

from cgcnn_ase.optimization.space.cathode_space import cathode_space, cathode_structure

RANGES = {
    "li_vacancy_ratio": [0, 0.5], "ni_content": [0.5, 1], "co_content": [0, 0.3], "mn_content": [0, 0.3],
    "dopant": ["Mg", "Ti"], "dopant_content": [0, 0.17], "ordering_seed": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def space():
    return cathode_space(RANGES)


def test_there_are_as_many_points_as_counting_gives(space):
    mixes = 0
    for ni in range(6, 13):
        for co in range(4):
            for mn in range(4):
                dopant = 12 - ni - co - mn
                mixes += {0: 1, 1: 2, 2: 2}.get(dopant, 0)
    assert space.count == mixes * 7 * 3


@pytest.mark.parametrize("host", ["LiNiO2", "NCM811"])
def test_a_structure_has_the_atoms_of_its_point(space, host):
    elements = {"Ni": "ni_content", "Co": "co_content", "Mn": "mn_content"}
    for point in space.sample(25, 0):
        counts = Counter(cathode_structure(point, host=host).get_chemical_symbols())
        assert counts["O"] == 24
        assert counts["Li"] == round(12 * (1 - point["li_vacancy_ratio"]))
        for element, name in elements.items():
            assert counts[element] == round(12 * point[name])
        if point["dopant"] != "none":
            assert counts[point["dopant"]] == round(12 * point["dopant_content"])
        assert sum(n for element, n in counts.items() if element not in ("Li", "O")) == 12


def test_same_point_same_structure_other_ordering_other_structure():
    point = {"li_vacancy_ratio": 0.25, "ni_content": 0.5, "co_content": 0.5, "ordering_seed": 0}
    first, again = cathode_structure(point), cathode_structure(dict(reversed(point.items())))
    assert first.numbers.tolist() == again.numbers.tolist()
    np.testing.assert_array_equal(first.positions, again.positions)
    others = [cathode_structure(point | {"ordering_seed": k}) for k in (1, 2)] + [cathode_structure(point, seed=1)]
    for other in others:
        assert (other.numbers.tolist(), other.positions.tolist()) != (first.numbers.tolist(), first.positions.tolist())


def test_a_supercell_may_stand_as_a_list():
    point = {"ni_content": 0.5, "co_content": 0.5}
    listed, tupled = (cathode_structure(point, supercell=repeats) for repeats in ([2, 1, 1], (2, 1, 1)))
    assert listed.symbols.formula.count() == {"Li": 6, "Ni": 3, "Co": 3, "O": 12}
    np.testing.assert_array_equal(listed.positions, tupled.positions)


def test_the_lattice_is_that_of_the_cathode_builder():
    from cgcnn_ase.cathodes import build_cathode

    ours = cathode_structure({"ni_content": 10 / 12, "co_content": 1 / 12, "mn_content": 1 / 12})
    theirs = build_cathode("LiNi0.8333333Co0.0833333Mn0.0833333O2", supercell=(2, 2, 1))
    np.testing.assert_allclose(ours.cell.cellpar(), theirs.cell.cellpar(), atol=1e-4)
    assert Counter(ours.get_chemical_symbols()) == Counter(theirs.get_chemical_symbols())
    doped = cathode_structure({"ni_content": 11 / 12, "dopant": "Mg", "dopant_content": 1 / 12})
    np.testing.assert_allclose(doped.cell.cellpar(), cathode_structure({}).cell.cellpar())


def test_without_contents_the_host_keeps_its_own():
    space = cathode_space({"li_vacancy_ratio": [0, 0.5]}, host="NCM811", supercell=(5, 2, 1))
    assert space.names == ("li_vacancy_ratio",)
    counts = Counter(cathode_structure(space.point(3), host="NCM811", supercell=(5, 2, 1)).get_chemical_symbols())
    assert counts == {"Li": 27, "Ni": 24, "Co": 3, "Mn": 3, "O": 60}


def test_metals_of_the_host_that_are_not_named_take_the_rest():
    space = cathode_space({"ni_content": [0.8, 1], "co_content": [0, 0.2]}, host="NCM811")
    assert set(space.names) == {"ni_content", "co_content", "mn_content"}
    assert space.count == sum(12 - ni - co >= 0 for ni in (10, 11, 12) for co in (0, 1, 2))


def test_lithium_can_leave_where_the_electrostatic_energy_is_lowest():
    point = {"ni_content": 0.5, "co_content": 0.5, "li_vacancy_ratio": 0.5}
    structures = {kind: cathode_structure(point, li_removal=kind) for kind in ("random", "ewald")}
    assert Counter(structures["random"].numbers.tolist()) == Counter(structures["ewald"].numbers.tolist())
    assert structures["random"].positions.tolist() != structures["ewald"].positions.tolist()


@pytest.mark.parametrize(
    ("ranges", "options", "words"),
    [
        ({"ni_contnet": [0, 1]}, {}, "unknown variable ni_contnet; allowed: li_vacancy_ratio, ni_content"),
        ({"ni_content": [0.9, 0.5]}, {}, "ni_content: low 0.9 is above high 0.5"),
        ({"ni_content": [0.93, 0.98], "co_content": [0, 1]}, {}, "ni_content: no whole number of 12 sites"),
        ({"ni_content": [0.5, 0.8]}, {}, "the upper bounds add up to 0.8, less than 1"),
        ({"ni_content": 0.5}, {}, r"ni_content: its range is \[low, high\], not 0.5"),
        ({"dopant": ["Mg"]}, {}, "dopant and dopant_content go together"),
        ({"dopant": ["Mq"], "dopant_content": [0, 0.2]}, {}, "'Mq' is no element"),
        ({"dopant": ["Al"], "dopant_content": [0, 0.2]}, {}, "Al is no dopant here"),
        ({"ni_content": [0, 1]}, {"supercell": (2, 0, 1)}, "a whole number, or three, of at least 1"),
        ({"ni_content": [0, 1]}, {"host": "LiFePO4"}, "'LiFePO4' is no layered cathode"),
    ],
)
def test_refused(ranges, options, words):
    with pytest.raises(ValueError, match=words):
        cathode_space(ranges, **options)


@pytest.mark.parametrize(
    ("point", "words"),
    [
        ({"ni_content": 0.5}, "the contents add up to 0.5; they must add up to 1"),
        ({"ni_content": 0.55, "co_content": 0.45}, "ni_content 0.55: no whole number of the 12 sites"),
        ({"li_vacancy_ratio": 1.5}, "li_vacancy_ratio 1.5: no whole number"),
        ({"cobalt": 1.0}, "unknown variable cobalt"),
        ({"ni_content": 0.5, "dopant": "Ni", "dopant_content": 0.5}, "Ni is no dopant here"),
        ({"dopant": "Mg", "dopant_content": 1.0}, "some metal of the host must be left"),
    ],
)
def test_structures_refused(point, words):
    with pytest.raises(ValueError, match=words):
        cathode_structure(point)
