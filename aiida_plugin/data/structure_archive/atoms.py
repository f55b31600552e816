"""One `ase.Atoms` taken apart into arrays and one line of JSON, and put together again with nothing lost.

The JSON has what ASE keeps in ``info`` and ``results``. Plain values are written as they are, NaN and infinities by
their usual names. What JSON does not have (arrays, tuples, ...) is a dict of one key that starts with ``$``. NumPy
scalars become the Python numbers they equal.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cgcnn_ase.core.arrays import AnyArray, Bools, Floats, Ints

if TYPE_CHECKING:
    from ase import Atoms

# kinds of NumPy arrays that have a JSON form, and that a file can hold without pickle: bool, integers, floats, complex,
# text
_KINDS = "biufcU"
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


# properties of ASE's calculators that have one row an atom
SITE_RESULTS = ("forces", "stresses", "charges", "magmoms", "energies", "born_effective_charges")

_ALWAYS = ("numbers", "positions")  # arrays of every `ase.Atoms`


class SiteArray(NamedTuple):
    """An array with one row an atom that some structures have."""

    group: str  # ``arrays`` (initial magnetic moments, charges, tags, masses, ...) or ``results`` (forces, ...)
    name: str  # as in ``atoms.arrays`` or ``atoms.calc.results``
    dtype: str  # NumPy's name of its type, little-endian
    shape: tuple[int, ...]  # of the row of one atom


class AtomsParts(NamedTuple):
    """The arrays and the text that a structure is made of."""

    lattice: Floats  # (3, 3) Å, rows
    pbc: Bools  # (3,)
    numbers: npt.NDArray[np.uint8]  # (n,) atomic numbers, 0 for a dummy
    positions: Floats  # (n, 3) Cartesian, Å
    sites: Mapping[SiteArray, AnyArray]  # further arrays, each with n rows
    rest: str  # a line of JSON: info, results that are not per atom, constraints; empty if there are none


def take_apart(atoms: "Atoms", what: str) -> AtomsParts:
    """The parts of a structure; results of its calculator are kept where they belong to these positions.

    A ValueError names what no file can hold as it is.
    """
    numbers = atoms.numbers
    if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) <= 118:
        raise ValueError(f"{what} has the atomic number {_odd(numbers)}; allowed are 1 to 118, and 0 for a dummy")
    results = _current_results(atoms)
    sites: dict[SiteArray, AnyArray] = {}
    for name, array in atoms.arrays.items():
        if name not in _ALWAYS:
            _add(sites, "arrays", name, array, f"{what}: the array {name!r}")
    for name in SITE_RESULTS:
        if isinstance(results.get(name), np.ndarray) and len(results[name]) == len(numbers):
            _add(sites, "results", name, results.pop(name), f"{what}: the result {name!r}")
    rest: dict[str, object] = {}
    if atoms.info:
        rest["info"] = atoms.info
    if results or any(column.group == "results" for column in sites):
        rest["results"], rest["calculator"] = results, str(getattr(atoms.calc, "name", None) or "unknown")
    if atoms.constraints:
        rest["constraints"] = [constraint.todict() for constraint in atoms.constraints]
    if atoms.get_celldisp().any():
        rest["celldisp"] = atoms.get_celldisp().ravel().tolist()
    return AtomsParts(
        lattice=atoms.cell.array,
        pbc=atoms.pbc,
        numbers=numbers.astype(np.uint8),
        positions=atoms.positions,
        sites=sites,
        rest=dumps(rest, what) if rest else "",
    )


def put_together(parts: AtomsParts) -> "Atoms":
    """The structure of these parts, which shares no memory with them."""
    from ase import Atoms

    rest = loads(parts.rest) if parts.rest else {}
    atoms = Atoms(
        numbers=parts.numbers.astype(np.int64),
        positions=parts.positions,
        cell=parts.lattice,
        pbc=parts.pbc,
        info=rest.get("info"),
        celldisp=rest.get("celldisp"),
    )
    results = rest.get("results", {})
    for column, array in parts.sites.items():
        if column.group == "arrays":
            atoms.arrays[column.name] = array.copy()
        else:
            results[column.name] = array.copy()
    if "constraints" in rest:
        from ase.constraints import dict2constraint

        atoms.set_constraint([dict2constraint(constraint) for constraint in rest["constraints"]])
    if "results" in rest:
        _attach(atoms, results, rest["calculator"])
    return atoms


def _odd(numbers: Ints) -> int:
    return int(numbers[(numbers < 0) | (numbers > 118)][0])


def _add(sites: dict[SiteArray, AnyArray], group: str, name: str, array: AnyArray, what: str) -> None:
    if array.dtype.kind not in _KINDS:
        raise ValueError(f"{what} is of type {array.dtype}; allowed are bool, numbers and text")
    sites[SiteArray(group, name, array.dtype.newbyteorder("<").str, array.shape[1:])] = array


def _current_results(atoms: "Atoms") -> dict[str, AnyArray]:
    """Results of the calculator for the structure as it is now."""
    from ase.calculators.calculator import BaseCalculator

    result = getattr(atoms.calc, "results", None)
    if not result or not isinstance(atoms.calc, BaseCalculator) or atoms.calc.check_state(atoms):
        return {}
    return {name: value for name, value in result.items() if value is not None}


def _attach(atoms: "Atoms", results: dict[str, AnyArray], name: str) -> None:
    from ase.calculators.singlepoint import SinglePointCalculator

    calculator = SinglePointCalculator(atoms)
    calculator.results.update(results)
    calculator.name = name
    atoms.calc = calculator
