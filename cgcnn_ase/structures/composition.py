"""Compositions: the key that equal ones share, the formula chemists write, and the formula that a file states."""

import hashlib
import re
from collections.abc import Collection, Mapping
from functools import cache
from math import gcd

import numpy as np

from cgcnn_ase.core.arrays import Ints
from cgcnn_ase.core.elements import symbols
from cgcnn_ase.structures.record import without_reader_warnings

_TERM = re.compile(r"([A-Z][a-z]?)(\d+(?:\.\d*)?|\.\d+)?")
_SIMPLE = re.compile(r"(?:[A-Z][a-z]?(?:\d+(?:\.\d*)?|\.\d+)?\s*)+")
_TOKEN = re.compile(
    r"\s*(?:(?P<symbol>[A-Z][a-z]?)|(?P<part>[,*\u00b7\u2022]|\.\s)\s*(?P<factor>\d+(?:\.\d*)?)?|(?P<open>[(\[{])|(?P<close>[)\]}]))"
    r"(?P<amount>\d+(?:\.\d*)?|\.\d+)?\s*"
)

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


def formula_hash(formula: str) -> str:
    """First 16 hex digits of the sha256 of pymatgen's reduced formula: formulas that are held out without being told.

    >>> formula_hash("Li2Ni2O4") == formula_hash("LiNiO2")
    True
    """
    from pymatgen.core import Composition

    with without_reader_warnings():
        reduced = Composition(formula).reduced_formula
    return hashlib.sha256(reduced.encode()).hexdigest()[:16]


def parse_formula(text: str, elements: Collection[str] = ()) -> dict[str, float] | None:
    """Amounts in a CIF formula, or None where it is not understood (missing, ``x``).

    Brackets and parts with a factor are multiplied out. In a formula of capitals or of small letters only, as some
    programs write it, two letters are one element where that gives the `elements` of the structure.

    >>> parse_formula("Li (Ni0.8 Co0.2) O2"), parse_formula("Mg Cl2 , 6(H2 O)")
    ({'Li': 1.0, 'Ni': 0.8, 'Co': 0.2, 'O': 2.0}, {'Mg': 1.0, 'Cl': 2.0, 'H': 12.0, 'O': 6.0})
    >>> parse_formula("LI NI O2", {"Li", "Ni", "O"})
    {'Li': 1.0, 'Ni': 1.0, 'O': 2.0}
    >>> parse_formula("?") is None
    True
    """
    amounts = _parse(text)
    if elements and amounts is not None and amounts.keys() == elements:
        return amounts
    if text in (text.upper(), text.lower()) and text.upper() != text.lower():
        other = _parse(re.sub("[A-Za-z]+", lambda word: _respelled(word[0], elements), text))
        if other is not None and (amounts is None or set(other) == set(elements) or not set(amounts) <= _known()):
            return other
    return amounts if amounts is None or amounts.keys() <= _known() else None


@cache
def _known() -> frozenset[str]:
    return frozenset((*symbols()[1:], "D", "T"))


def _parse(text: str) -> dict[str, float] | None:
    """Amounts of the symbols in a formula, whether they are elements or not."""
    if _SIMPLE.fullmatch(text):
        simple: dict[str, float] = {}
        for symbol, number in _TERM.findall(text):
            simple[symbol] = simple.get(symbol, 0.0) + (float(number) if number else 1.0)
        return {symbol: amount for symbol, amount in simple.items() if amount} or None
    text = re.sub(r"(?<=[\d.])\(\d+\)|\s+(?=[\d.]+(?:\s|$))", "", text)  # standard uncertainties; "Li 2 O"
    levels: list[dict[str, float]] = [{}]
    factors = [1.0]  # of the part that is read, on each level
    position = 0
    for match in _TOKEN.finditer(text):
        if match.start() != position:
            return None
        position = match.end()
        amount = float(match["amount"]) if match["amount"] else 1.0
        if match["symbol"]:
            levels[-1][match["symbol"]] = levels[-1].get(match["symbol"], 0.0) + amount * factors[-1]
        elif match["part"]:
            factors[-1] = float(match["factor"]) if match["factor"] else 1.0
        elif match["open"]:
            levels.append({})
            factors.append(1.0)
        elif match["close"]:
            if len(levels) == 1:
                return None
            inner = levels.pop()
            factors.pop()
            for symbol, count in inner.items():
                levels[-1][symbol] = levels[-1].get(symbol, 0.0) + count * amount * factors[-1]
    if position != len(text) or len(levels) > 1:
        return None
    return {symbol: amount for symbol, amount in levels[0].items() if amount} or None


def _respelled(word: str, elements: Collection[str]) -> str:
    """A run of letters of one case as symbols, those of the structure if they fit: ``LINIO`` as ``LiNiO``."""
    known = {*elements} or set(symbols()[1:])

    def split(rest: str) -> list[str] | None:
        if not rest:
            return []
        for n in (2, 1):
            symbol = rest[:n].capitalize()
            if len(symbol) == n and symbol in known and (tail := split(rest[n:])) is not None:
                return [symbol, *tail]
        return None

    return "".join(split(word) or [word.capitalize()])


def formula_problem(
    counts: Mapping[str, int],
    formula: str | None,
    z: float | None,
    *,
    symmetric: bool,
    doubtful: bool = False,
    primitive: bool = False,
) -> str | None:
    """Why the atoms of one cell, counted by element, cannot be what the formula says, or None.

    The cell may hold any whole number of formula units: programs write the formula of the cell or of one unit, and `Z`
    for either, or that of the centred cell where theirs is `primitive`. Less than one unit, or other proportions, mean
    that atoms are missing. `symmetric` atoms were generated by symmetry operations; where these are `doubtful`, as they
    contradict the space group of the file, `z` decides.
    """
    stated = parse_formula(formula, counts.keys()) if formula else None
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
    if z is not None and abs(z - round(z)) > 1e-6:
        z = None  # what is no whole number does not count formula units
    if doubtful and z is not None and (abs(ratio - 1) > _LOOSE or _reduced(stated)):
        return f"{start} with Z = {z:g}; its symmetry operations contradict its space group, or its origin is another"
    if abs(ratio - 1) <= _LOOSE:
        return None
    if ratio < 1:
        return f"{start}: the cell holds less than one formula unit; the list is incomplete or cut off"
    if abs(ratio - round(ratio)) > _LOOSE:
        return f"{start}: the cell would hold {ratio:.3g} formula units; the list is incomplete or cut off"
    if z is not None and not _z_may_be(ratio, z, primitive=primitive, symmetric=symmetric and len(stated) > 1):
        return f"{start} with Z = {z:g}: the cell holds {ratio:.0f} formula units; the list is incomplete or cut off"
    return None


def _z_may_be(ratio: float, z: float, *, primitive: bool, symmetric: bool) -> bool:
    """Say whether Z, which is not the ratio of atoms to formula, may count one unit, or those of another cell."""
    if ratio > z:
        return z == 1 or any(abs(ratio / z - n) < _LOOSE for n in (2, 3, 4))
    return symmetric and primitive and any(abs(z / ratio - n) < _LOOSE for n in (2, 3, 4))


def is_confirmed(counts: Mapping[str, int], formula: str | None, z: float | None) -> bool:
    """Say whether the formula and Z, or the formula of the whole cell, give these very atoms of one cell."""
    stated = parse_formula(formula, counts.keys()) if formula else None
    if stated is None or set(stated) != set(counts):
        return False
    units = [z] if z is not None else [] if _reduced(stated) and len(stated) > 1 else [1.0]
    if z is not None and not _reduced(stated):
        units.append(1.0)
    return any(
        all(abs(counts[symbol] - amount * unit) <= _LOOSE * counts[symbol] for symbol, amount in stated.items())
        for unit in units
    )


def _reduced(amounts: Mapping[str, float]) -> bool:
    return all(a.is_integer() for a in amounts.values()) and gcd(*(int(a) for a in amounts.values())) == 1
