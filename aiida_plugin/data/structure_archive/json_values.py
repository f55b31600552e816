"""Values that ASE keeps in ``info`` and ``results`` as JSON and back, with nothing changed on the way.

Plain JSON values are written as they are, NaN and infinities by their usual names. What JSON does not have (arrays,
tuples, ...) is a dict of one key that starts with ``$``. NumPy scalars become the Python numbers they equal.
"""

import json
from typing import Any

import numpy as np

from cgcnn_ase.core.arrays import AnyArray

_KINDS = "biufcU"  # kinds of NumPy arrays that have a JSON form: bool, integers, floats, complex, text
_LONG = (np.dtype(np.longdouble), np.dtype(np.clongdouble))  # those that Python's numbers cannot hold


def dumps(value: object, what: str) -> str:
    """The value as one line of JSON; dicts that are equal give the same line, whatever the order of their keys.

    Allowed are None, bool, numbers, strings and NumPy arrays, and lists, tuples and dicts (keys are strings) of these;
    the ValueError for anything else names the place (``what`` is the value as a whole) and the type.
    """
    return json.dumps(_encode(value, what), sort_keys=True, separators=(",", ":"))


def loads(text: str) -> Any:
    """The value that `dumps` was given."""
    return json.loads(text, object_hook=_restored)


def _encode(value: object, what: str) -> object:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, complex):
        return {"$complex": [value.real, value.imag]}
    if isinstance(value, np.ndarray) and value.dtype.kind in _KINDS and value.dtype not in _LONG:
        return {"$array": [value.dtype.newbyteorder("<").str, list(value.shape), _flat(value)]}
    if isinstance(value, list):
        return [_encode(entry, f"{what}[{i}]") for i, entry in enumerate(value)]
    if isinstance(value, tuple):
        return {"$tuple": [_encode(entry, f"{what}[{i}]") for i, entry in enumerate(value)]}
    if isinstance(value, dict):
        return _encode_dict(value, what)
    if type(value).__name__ == "Spacegroup":  # which ASE leaves in the info of what it reads from a CIF
        return {"$spacegroup": [int(getattr(value, name)) for name in ("no", "setting")]}
    raise ValueError(
        f"{what} is a {type(value).__name__}; allowed are numbers, strings, None, NumPy arrays, and lists, tuples and "
        "dicts of these"
    )


def _encode_dict(value: dict[object, object], what: str) -> dict[str, object]:
    for key in value:
        if not isinstance(key, str):
            raise ValueError(f"{what} has the key {key!r}, a {type(key).__name__}; allowed are strings")
    plain = {str(key): _encode(entry, f"{what}[{key!r}]") for key, entry in value.items()}
    only = next(iter(plain), "")
    return {f"${only}": plain[only]} if len(plain) == 1 and only.startswith("$") else plain


def _flat(array: AnyArray) -> list[object]:
    flat = array.ravel().tolist()
    return [part for number in flat for part in (number.real, number.imag)] if array.dtype.kind == "c" else flat


def _restored(result: dict[str, Any]) -> object:
    """Called for the innermost dict first, so that what is within a marked dict is restored already."""
    if len(result) != 1:
        return result
    ((mark, content),) = result.items()
    if mark == "$array":
        return _array(*content)
    if mark == "$tuple":
        return tuple(content)
    if mark == "$complex":
        return complex(*content)
    if mark.startswith("$$"):  # a dict of the user's that looks like a mark
        return {mark[1:]: content}
    if mark == "$spacegroup":
        from ase.spacegroup import Spacegroup

        return Spacegroup(*content)
    return result


def _array(dtype: str, shape: list[int], flat: list[float]) -> AnyArray:
    kind = np.dtype(dtype)
    if kind.kind != "c":
        return np.array(flat, dtype=kind).reshape(shape)
    real = np.array(flat, dtype=kind.type(0).real.dtype)
    return real.view(kind).reshape(shape).copy()
