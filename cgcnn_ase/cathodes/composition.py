"""Composition of a cathode: from its name, in whole numbers of atoms, and with the charges of its elements."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import floor

from cgcnn_ase.cathodes.lattices import FIXED, LAYERED, Lattice, cathode_names, layered
from cgcnn_ase.structures.composition import parse_formula

_SHORT = {"LNO": "LiNiO2", "LCO": "LiCoO2", "LMO": "LiMn2O4", "LFP": "LiFePO4", "NCA": "LiNi0.8Co0.15Al0.05O2"}

# the metals in the order in which the digits of a family give them
_FAMILIES = {"NCM": ("Ni", "Co", "Mn"), "NMC": ("Ni", "Mn", "Co"), "NCA": ("Ni", "Co", "Al")}
_FAMILY = re.compile(r"(NCM|NMC|NCA)[ -]?(\d{3}|\d{6})", re.IGNORECASE)

# people write 0.33 for a third
_ROUNDED = 0.0101

# fixed charges
_FIXED = {"Li": 1.0, "Al": 3.0, "P": 5.0}

# lowest and highest charge of the others, in the order in which they are oxidised: Mn gives its fourth electron to Ni
# (Ni2+ beside Mn4+), Co3+ is oxidised after nickel, and oxygen when no metal is left
_VARIABLE = {"Mn": (3.0, 4.0), "Ni": (2.0, 4.0), "Fe": (2.0, 3.0), "Co": (3.0, 4.0), "O": (-2.0, -1.0)}


@dataclass(frozen=True)
class Cathode:
    """Cathode that is asked for: name, composition with all Li in place, share of each mixed metal, lattice."""

    name: str
    formula: str
    fractions: Mapping[str, float]  # of the mixed metals, adding up to 1; empty where the structure has one metal
    lattice: Lattice


def parse_cathode(name: str) -> Cathode:
    """Read ``NCM811``, ``NCA``, ``LiNiO2``, ``LiNi0.8Mn0.1Co0.1O2``, ...

    The digits of NCM are those of Ni, Co, Mn; of NMC, those of Ni, Mn, Co; three digits or three pairs of them. An
    unknown name, a negative amount, and metals that do not add up to 1 are a `ValueError`.
    """
    text = name.strip()
    text = _SHORT.get(text.upper(), text)
    if match := _FAMILY.fullmatch(text):
        return _family(name, match[1].upper(), match[2])
    if re.search(r"-\s*\d*\.?\d", text):
        raise ValueError(f"cathode {name!r} has a negative amount; amounts are 0 or more")
    amounts = parse_formula(text)
    if amounts is None or "Li" not in amounts:
        raise ValueError(f"unknown cathode {name!r}; known are {', '.join(cathode_names())}, and formulas such as "
                         "LiNi0.8Mn0.1Co0.1O2")  # fmt: skip
    for formula, lattice in FIXED.items():
        if amounts == parse_formula(formula):
            return Cathode(name, formula, {}, lattice)
    return _layered_formula(name, amounts)


def _family(name: str, family: str, digits: str) -> Cathode:
    size = len(digits) // 3
    parts = [int(digits[k : k + size]) for k in range(0, len(digits), size)]
    total = sum(parts)
    allowed = (3, 9, 10) if size == 1 else (99, 100)
    if total not in allowed:
        raise ValueError(f"cathode {name!r}: its digits add up to {total}; allowed are "
                         f"{', '.join(map(str, allowed))}, as in NCM111, NCM333, NCM811 or NCM900505")  # fmt: skip
    return _layered(name, {m: p / total for m, p in zip(_FAMILIES[family], parts, strict=True) if p})


def _layered_formula(name: str, amounts: Mapping[str, float]) -> Cathode:
    metals = {symbol: amount for symbol, amount in amounts.items() if symbol not in ("Li", "O")}
    if unknown := sorted(set(metals) - set(LAYERED)):
        raise ValueError(
            f"unknown cathode {name!r}: no published layered oxide here has {', '.join(unknown)}; metals that can mix "
            f"are {', '.join(LAYERED)}, and other names are {', '.join(cathode_names())}"
        )
    if abs(amounts["Li"] - 1) > 1e-9 or abs(amounts.get("O", 0.0) - 2) > 1e-9 or not metals:
        raise ValueError(
            f"unknown cathode {name!r}: a layered oxide is written LiMO2 with all its lithium (remove some with "
            f"li_vacancy); other names are {', '.join(cathode_names())}"
        )
    total = sum(metals.values())
    if abs(total - 1) > _ROUNDED:
        raise ValueError(f"cathode {name!r}: its metals add up to {total:g}; they must add up to 1")
    return _layered(name, {symbol: amount / total for symbol, amount in metals.items()})


def _layered(name: str, fractions: dict[str, float]) -> Cathode:
    ordered = {metal: fractions[metal] for metal in LAYERED if metal in fractions}
    formula = "Li" + "".join(m + ("" if f == 1 else f"{f:.4g}") for m, f in ordered.items()) + "O2"
    mixed = ordered if len(ordered) > 1 else {}
    return Cathode(name, formula, mixed, FIXED.get(formula, layered(ordered)))


def whole_numbers(fractions: Mapping[str, float], n_sites: int) -> dict[str, int]:
    """Number of n sites that each metal takes: nearest to its share, adding up to n (largest remainders)."""
    exact = {metal: share * n_sites for metal, share in fractions.items()}
    counts = {metal: floor(amount + 1e-9) for metal, amount in exact.items()}
    rest = sorted(exact, key=lambda metal: counts[metal] - exact[metal])
    for metal in rest[: n_sites - sum(counts.values())]:
        counts[metal] += 1
    return counts


def deviation(fractions: Mapping[str, float], li_vacancy: float, n_metals: int, n_lithium: int) -> float:
    """The largest difference between an asked and a realised share; infinite where something would be lost."""
    counts = whole_numbers(fractions, n_metals)
    vacancies = round(li_vacancy * n_lithium)
    if any(fractions[metal] > 0 and not count for metal, count in counts.items()) or (li_vacancy > 0 and not vacancies):
        return float("inf")
    differences = [abs(count / n_metals - fractions[metal]) for metal, count in counts.items()]
    return max([*differences, abs(vacancies / n_lithium - li_vacancy)])


def oxidation_states(counts: Mapping[str, int]) -> dict[str, float]:
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


def _formula(counts: Mapping[str, int]) -> str:
    return "".join(f"{symbol}{n}" for symbol, n in counts.items() if n)
