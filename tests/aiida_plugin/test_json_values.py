"""Values of ``atoms.info`` as JSON: whatever goes in comes out, of the same type."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from aiida_plugin.data.structure_archive.atoms import dumps, loads

ARRAYS = st_numpy.arrays(
    st.sampled_from(["?", "i1", "<u2", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8", "<c8", "<c16", "<U3"]),
    st_numpy.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.text() | ARRAYS
KEYS = st.text() | st.sampled_from(["$array", "$tuple", "$complex", "$$tuple", "$spacegroup", "$"])
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(KEYS, inner), max_leaves=12
)


def same(a, b):
    """Equal in type and in every bit that Python shows."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
    return repr(a) == repr(b)


@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_whatever_goes_in_comes_out(value):
    text = dumps(value, "it")
    assert "\n" not in text
    assert text.isascii()
    assert same(loads(text), value)


@given(st.dictionaries(KEYS, st.integers(), min_size=2))
def test_the_order_of_keys_does_not_matter(value):
    assert dumps(value, "it") == dumps(dict(reversed(value.items())), "it")


@pytest.mark.parametrize(
    ("scalar", "plain"),
    [(np.float64(0.1), 0.1), (np.int8(-3), -3), (np.bool_(True), True), (np.str_("x"), "x"), (np.float32(0.5), 0.5)],
)
def test_numpy_scalars_become_plain(scalar, plain):
    assert same(loads(dumps([scalar], "it")), [plain])


def test_plain_values_are_plain_json():
    assert json.loads(dumps({"a.b": [1, 2.5, None, True, "x"]}, "it")) == {"a.b": [1, 2.5, None, True, "x"]}
    assert math.isnan(json.loads(dumps(math.nan, "it")))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"x", "it is a bytes"), ({"a": [{1, 2}]}, r"it\['a'\]\[0\] is a set"),
        ({"a": {None: 1}}, r"it\['a'\] has the key None"),
        (np.array([object()]), "it is a ndarray"), (np.longdouble(1) / 3, "it is a longdouble"),
        (np.ones(2, np.longdouble), "it is a ndarray"), (np.datetime64("2020-01-01"), "it is a date"),
    ],
)  # fmt: skip
def test_what_has_no_form_is_named(value, words):
    with pytest.raises(ValueError, match=words):
        dumps(value, "it")
