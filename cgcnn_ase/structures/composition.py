"""Compositions: the key that equal ones share, the formula chemists write, and the formula that a file states."""

import re
from collections.abc import Mapping
from math import gcd

import numpy as np

from cgcnn_ase.core.arrays import Ints
from cgcnn_ase.core.elements import symbols
from cgcnn_ase.structures.record import without_reader_warnings

_TERM = re.compile(r"([A-Z][a-z]?)(\d+(?:\.\d*)?|\.\d+)?")

# how far the ratio atoms / formula may differ from element to element where the formula has decimals
_LOOSE = 0.01


def composition_key(atomic_numbers: Ints) -> str:
    """A name that structures share when their compositions are the same: ``3:1-8:2-28:1``, atomic number and amount."""
    numbers, counts = np.unique(atomic_numbers, return_counts=True)
    counts //= np.gcd.reduce(counts)
    return "-".join(f"{z}:{n}" for z, n in zip(numbers, counts, strict=True))


def formula_of(atomic_numbers: Ints) -> str:
    """The reduced formula as chemists write it: ``LiNiO2``."""
    from pymatgen.core import Composition

    numbers, counts = np.unique(atomic_numbers, return_counts=True)
    with without_reader_warnings():
        return Composition({symbols()[z]: int(n) for z, n in zip(numbers, counts, strict=True)}).reduced_formula


def parse_formula(text: str) -> dict[str, float] | None:
    """Amounts in a CIF formula, or None where it is not a plain one (missing, brackets, ``x``).

    >>> parse_formula("Li4 Ni4 O8")
    {'Li': 4.0, 'Ni': 4.0, 'O': 8.0}
    >>> parse_formula("?") is None
    True
    """
    amounts: dict[str, float] = {}
    for term in text.split():
        position = 0
        while position < len(term):
            match = _TERM.match(term, position)
            if match is None:
                return None
            amount = float(match[2]) if match[2] else 1.0
            amounts[match[1]] = amounts.get(match[1], 0.0) + amount
            position = match.end()
    return {symbol: amount for symbol, amount in amounts.items() if amount} or None


def formula_problem(
    counts: Mapping[str, int], formula: str | None, z: float | None, *, symmetric: bool, doubtful: bool = False
) -> str | None:
    """Why the atoms of one cell, counted by element, cannot be what the formula says, or None.

    The cell may hold any whole number of formula units: programs write the formula of the cell or of one unit, and `Z`
    for either. Less than one unit, or other proportions, mean that atoms are missing. `symmetric` atoms were generated
    by symmetry operations; where these are `doubtful`, as they contradict the space group of the file, `z` decides.
    """
    stated = parse_formula(formula) if formula else None
    if stated is None:
        return None
    listed = " ".join(f"{symbol}{count}" for symbol, count in sorted(counts.items()))
    start = f"its atoms ({listed}) do not match its own formula ({formula})"
    missing = sorted(set(stated) - set(counts))
    if missing:
        return f"{start}: no {', '.join(missing)} among the atoms; the list is incomplete or cut off"
    extra = sorted(set(counts) - set(stated))
    if extra:
        return f"{start}: the formula has no {', '.join(extra)}"
    ratios = [counts[symbol] / amount for symbol, amount in stated.items()]
    whole = all(float(amount).is_integer() for amount in stated.values())
    tolerance = 1e-9 if whole else _LOOSE
    if max(ratios) - min(ratios) > tolerance * max(ratios):
        return f"{start}: the list is incomplete or cut off"
    ratio = sum(ratios) / len(ratios)
    if z is not None and abs(ratio - z) <= _LOOSE * z:
        return None
    if doubtful and z is not None and (abs(ratio - 1) > _LOOSE or _reduced(stated)):
        return f"{start} with Z = {z:g}; its symmetry operations contradict its space group, or its origin is another"
    if abs(ratio - 1) <= _LOOSE:
        return None
    if ratio < 1:
        return f"{start}: the cell holds less than one formula unit; the list is incomplete or cut off"
    if abs(ratio - round(ratio)) > _LOOSE:
        return f"{start}: the cell would hold {ratio:.3g} formula units; the list is incomplete or cut off"
    if z is not None and ratio < z and (len(stated) == 1 or not symmetric):
        return f"{start} with Z = {z:g}: the cell holds {ratio:.0f} formula units; the list is incomplete or cut off"
    return None


def _reduced(amounts: Mapping[str, float]) -> bool:
    return all(a.is_integer() for a in amounts.values()) and gcd(*(int(a) for a in amounts.values())) == 1
