"""Formal charges of the elements of a composition: mean charges of battery oxides, or a bounded guess for others."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

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
