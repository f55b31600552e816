"""Queries: what is allowed, and that the same question is written the same way."""

import math

import pytest

from cgcnn_ase.sources.client import Query

BAD = {
    "element": ({"elements": ("Li", "Xx")}, "elements: 'Xx' is no element"),
    "dummy": ({"exclude_elements": ("X",)}, "exclude_elements: 'X' is no element"),
    "chemsys": ({"chemsys": ("Li-Q-O",)}, "chemsys 'Li-Q-O': 'Q' is no element"),
    "both": ({"elements": ("Li", "O"), "exclude_elements": ("O",)}, "O is both in elements and in exclude_elements"),
    "text": ({"ids": "mp-149"}, "ids='mp-149': needed is a tuple of strings"),
    "comma": ({"formula": ("LiO,NiO",)}, "formula: 'LiO,NiO' is no name; give several as several"),
    "empty name": ({"ids": (" ",)}, "ids: ' ' is no name"),
    "range name": ({"ranges": {"bandgap": (0, 1)}}, "unknown range 'bandgap'; did you mean band_gap"),
    "no bound": ({"ranges": {"band_gap": (None, None)}}, "range of band_gap: needed is a lower bound"),
    "order": ({"ranges": {"band_gap": (2.0, 1.0)}}, r"range of band_gap: 2.0 to 1.0 is empty"),
    "infinite": ({"ranges": {"band_gap": (0.0, math.inf)}}, "no finite number"),
    "max_atoms": ({"max_atoms": 0}, "max_atoms=0: at least 1"),
    "limit": ({"limit": -1}, "limit=-1: at least 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_queries_are_refused_in_words(name):
    query, words = BAD[name]
    with pytest.raises(ValueError, match=words):
        Query(**query)


def test_the_same_question_is_written_the_same_way():
    first = Query(elements=("Li", "O"), chemsys=("O-Li", "Ni-O"), ids=("b", "a", "a"), ranges={"K_VRH": (1.0, None)})
    second = Query(elements=("O", "Li"), chemsys=("O-Ni", "Li-O"), ids=("a", "b"), ranges={"K_VRH": (1.0, None)})
    assert first.as_dict() == second.as_dict()
    assert first.as_dict() == {
        "ids": ["a", "b"], "elements": ["Li", "O"], "chemsys": ["Li-O", "Ni-O"], "ranges": {"K_VRH": [1.0, None]}
    }  # fmt: skip
    assert Query().as_dict() == {}
    assert Query(stable=False).as_dict() == {"stable": False}
