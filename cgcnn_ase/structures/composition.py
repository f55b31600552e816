"""Compositions: the key that equal ones share, formulas as chemists write and files state them, formal charges."""

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from itertools import product
from math import gcd
from typing import NamedTuple

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


# charges that do not change in a cathode; most of them are those of dopants
_FIXED = {
    "Li": 1.0, "Na": 1.0, "K": 1.0, "Mg": 2.0, "Ca": 2.0, "Sr": 2.0, "Ba": 2.0, "Zn": 2.0, "Cu": 2.0, "B": 3.0,
    "Al": 3.0, "Ga": 3.0, "Y": 3.0, "La": 3.0, "Cr": 3.0, "Si": 4.0, "Ge": 4.0, "Ti": 4.0, "Zr": 4.0, "Sn": 4.0,
    "P": 5.0, "Nb": 5.0, "Ta": 5.0, "Sb": 5.0, "V": 5.0, "Mo": 6.0, "W": 6.0, "F": -1.0,
}  # fmt: skip

# lowest and highest charge of the others, in the order in which they are oxidised: Mn gives its fourth electron to Ni
# (Ni2+ beside Mn4+), Co3+ is oxidised after nickel, and oxygen when no metal is left
_VARIABLE = {"Mn": (3.0, 4.0), "Ni": (2.0, 4.0), "Fe": (2.0, 3.0), "Co": (3.0, 4.0), "O": (-2.0, -1.0)}

# combinations of charges that a guess compares at most
_MOST_COMBINATIONS = 20_000
# elements at least this electronegative (Pauling) are anions first
_ANION = 2.5
# a cell whose charge is less than this, e an atom, counts as neutral
NEUTRAL = 0.02


class Charges(NamedTuple):
    """Charge of each element, e, and where they come from, in words."""

    states: dict[str, float]
    source: str
    neutral: bool = False  # whether they follow the composition, so that any is neutral


def oxidation_states(counts: Mapping[str, float]) -> dict[str, float]:
    """The mean formal charge of each element, e, in a neutral cell, from the atoms of each element in it.

    All metals start in their lowest state and are oxidised one element after the other: Mn to 4+, Ni to 4+, Fe to 3+,
    Co to 4+, at last oxygen. A `ValueError` is raised where no such states are neutral, or an element is not known.
    """
    if unknown := sorted(set(counts) - set(_FIXED) - set(_VARIABLE)):
        raise ValueError(f"no oxidation states are known for {', '.join(unknown)}")
    states = {symbol: _FIXED.get(symbol, _VARIABLE.get(symbol, (0.0,))[0]) for symbol in counts}
    missing = -sum(states[symbol] * n for symbol, n in counts.items())
    if missing < -1e-9:
        raise ValueError(f"no oxidation states make {_formula(counts)} neutral: it has too few anions")
    for symbol, (low, high) in _VARIABLE.items():
        if n := counts.get(symbol, 0):
            taken = min(missing, (high - low) * n)
            states[symbol] += taken / n
            missing -= taken
    if missing > 1e-9:
        raise ValueError(f"no oxidation states make {_formula(counts)} neutral: it has too few cations")
    return states


def format_oxidation_states(states: Mapping[str, float]) -> str:
    """Oxidation states as they are written: ``Li1+ Ni2.88+ O2-``."""
    return " ".join(f"{symbol}{abs(round(q, 3)):g}{'-' if q < 0 else '+'}" for symbol, q in states.items())


def likely_charges(counts: Mapping[str, float]) -> Charges | None:
    """Charges of the elements of any composition, in bounded time: those of `oxidation_states`, or a guess.

    The guess takes one of each element's common oxidation states, so that the cell is as nearly neutral as possible;
    the most electronegative element is an anion. None for what holds no anion, such as an alloy.
    """
    try:
        return Charges(oxidation_states(counts), "mean formal charges of a battery oxide", neutral=True)
    except ValueError:  # it is none: other elements, too few oxygens
        return _guess(counts)


def _guess(counts: Mapping[str, float]) -> Charges | None:
    choices = _choices(list(counts))
    if choices is None:
        return None
    total = sum(counts.values())
    amounts = list(counts.values())

    def score(chosen: Sequence[tuple[int, float]]) -> tuple[float, float]:
        net = abs(sum(n * charge for n, (_, charge) in zip(amounts, chosen, strict=True))) / total
        return (0.0 if net < NEUTRAL else round(net, 6)), sum(rank for rank, _ in chosen)

    best = min(product(*choices), key=score)
    states = {symbol: charge for symbol, (_, charge) in zip(counts, best, strict=True)}
    net = sum(n * states[symbol] for symbol, n in counts.items()) / total
    if abs(net) < NEUTRAL:
        return Charges(states, "guessed from common oxidation states")
    return Charges(states, f"common oxidation states, which leave {net:+.2f} e an atom")


def _choices(elements: Sequence[str]) -> list[list[tuple[int, float]]] | None:
    """Common charges of each element with their rank, few enough to try all; None where there is no anion."""
    from pymatgen.core import Element

    most = max(elements, key=_electronegativity)
    if Element(most).is_metal or not _negative(most):
        return None
    choices = []
    for symbol in elements:
        element = Element(symbol)
        known = [float(q) for q in element.common_oxidation_states or element.oxidation_states if q] or [0.0]
        if symbol == most:
            known = _negative(symbol)
        elif element.is_metal:
            known = [q for q in known if q > 0] or known
        elif _electronegativity(symbol) >= _ANION:
            known.sort(key=lambda q: q > 0)  # anions first
        else:
            known.sort(reverse=True)
        choices.append(list(enumerate(known)))
    size = max(len(choice) for choice in choices)
    while size > 1 and _n_combinations(choices) > _MOST_COMBINATIONS:
        size -= 1
        choices = [choice[:size] for choice in choices]
    return choices if _n_combinations(choices) <= _MOST_COMBINATIONS else [choice[:1] for choice in choices]


def _n_combinations(choices: Sequence[Sequence[object]]) -> int:
    n = 1
    for choice in choices:
        n *= len(choice)
    return n


def _negative(symbol: str) -> list[float]:
    from pymatgen.core import Element

    element = Element(symbol)
    states = element.common_oxidation_states or element.oxidation_states
    return [float(q) for q in states if q < 0][:1] or [float(q) for q in element.oxidation_states if q < 0][:1]


def _electronegativity(symbol: str) -> float:
    from pymatgen.core import Element

    value = float(Element(symbol).X)
    return value if value == value else 0.0  # no value for helium, neon and argon


def _formula(counts: Mapping[str, float]) -> str:
    return "".join(f"{symbol}{n:g}" for symbol, n in counts.items() if n)
