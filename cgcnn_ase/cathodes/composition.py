"""Composition and lattice of a cathode, from its name."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cgcnn_ase.cathodes.lattices import (
    FIXED,
    IONS,
    LAYERED,
    LAYERED_NA,
    OLIVINE,
    P2_NA,
    SPINEL,
    Lattice,
    cathode_names,
    layered,
    mixture,
)
from cgcnn_ase.structures.composition import parse_formula

if TYPE_CHECKING:
    from cgcnn_ase.structures.ordering import DisorderedCrystal

_SHORT = {
    "LNO": "LiNiO2", "LCO": "LiCoO2", "LMO": "LiMn2O4", "LFP": "LiFePO4", "LMP": "LiMnPO4", "LNMO": "LiNi0.5Mn1.5O4",
    "NCA": "LiNi0.8Co0.15Al0.05O2",
}  # fmt: skip

# the metals in the order in which the digits of a family give them
_FAMILIES = {"NCM": ("Ni", "Co", "Mn"), "NMC": ("Ni", "Mn", "Co"), "NCA": ("Ni", "Co", "Al")}
_FAMILY = re.compile(r"(NCM|NMC|NCA)[ -]?(\d{3}|\d{6})", re.IGNORECASE)

# people write 0.33 for a third
_ROUNDED = 0.0101

# metals without a published lattice here count as dopants, up to this share of the sites where metals mix
_MOST_DOPANT = 0.2
_DOPANTS = (
    "Mg", "Ca", "Sr", "Ba", "Zn", "Cu", "B", "Al", "Ga", "Y", "La", "Cr", "Fe", "Co", "Mn", "Ni", "Si", "Ge", "Ti",
    "Zr", "Sn", "Nb", "Ta", "Sb", "V", "Mo", "W",
)  # fmt: skip
_SODIUM = re.compile(r"(O3|P2)-(Na.*)")


@dataclass(frozen=True)
class Cathode:
    """Cathode that is asked for: name, composition with all Li in place, share of each mixed metal, lattice."""

    name: str
    formula: str
    fractions: Mapping[str, float]  # of the mixed metals, adding up to 1; empty where the structure has one metal
    lattice: Lattice
    ions: float = 1.0  # part of the Li or Na of the lattice that is there

    def crystal(self, *, primitive: bool) -> "DisorderedCrystal":
        """The sites of the conventional or primitive cell with what may sit on them."""
        from cgcnn_ase.structures.arrangement import Occupant
        from cgcnn_ase.structures.ordering import DisorderedCrystal, Orbit

        atoms, kinds = self.lattice.atoms_and_orbits(primitive=primitive)
        filling = iter(self.lattice.filling)
        orbits = []
        for k, (symbol, _) in enumerate(self.lattice.sites):
            if symbol in IONS:
                label, shares = symbol, {Occupant(symbol): self.ions * next(filling, 1.0)}
            elif symbol == self.lattice.mixed and self.fractions:
                label, shares = "metal", {Occupant(metal): share for metal, share in self.fractions.items()}
            else:
                label, shares = symbol, {Occupant(symbol): 1.0}
            orbits.append(Orbit(label, shares, atoms[kinds == k].get_scaled_positions()))
        return DisorderedCrystal(np.asarray(atoms.cell), tuple(orbits))


def parse_cathode(name: str) -> Cathode:
    """Read ``NCM811``, ``NCA``, ``LiNiO2``, ``LiNi0.8Mn0.1Co0.1O2``, ...

    The digits of NCM are those of Ni, Co, Mn; of NMC, those of Ni, Mn, Co; three digits or three pairs of them. An
    unknown name, a negative amount, and metals that do not add up to 1 are a `ValueError`.
    """
    text = name.strip()
    text = _SHORT.get(text.upper(), text)
    if match := _SODIUM.fullmatch(text):
        return _sodium(name, match[1], match[2])
    if match := _FAMILY.fullmatch(text):
        return _family(name, match[1].upper(), match[2])
    if re.search(r"-\s*\d*\.?\d", text):
        raise ValueError(f"cathode {name!r} has a negative amount; amounts are 0 or more")
    amounts = parse_formula(text)
    if amounts is not None and amounts.get("Na") == 1:
        return _sodium(name, "O3", text)
    if amounts is None or "Li" not in amounts:
        raise ValueError(f"unknown cathode {name!r}; known are {', '.join(cathode_names())}, and formulas such as "
                         "LiNi0.8Mn0.1Co0.1O2")  # fmt: skip
    for formula, lattice in FIXED.items():
        if amounts == parse_formula(formula):
            return Cathode(name, formula, {}, lattice)
    if amounts.get("P") == 1 and amounts.get("O") == 4 and amounts["Li"] == 1:
        return _mixed(name, OLIVINE, amounts, 1, "O4", after="P")
    if amounts.get("O") == 4 and amounts["Li"] == 1:
        return _mixed(name, SPINEL, amounts, 2, "O4")
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


def _mixed(
    name: str, members: Mapping[str, Lattice], amounts: Mapping[str, float], n_metals: int, end: str, *, after: str = ""
) -> Cathode:
    """A spinel or an olivine of several metals."""
    metals = {symbol: amount for symbol, amount in amounts.items() if symbol not in ("Li", "O", after)}
    total = sum(metals.values())
    if abs(total - n_metals) > _ROUNDED * n_metals:
        raise ValueError(f"cathode {name!r}: its metals add up to {total:g}; they must add up to {n_metals}")
    fractions = {symbol: amount / total for symbol, amount in metals.items() if amount}
    _check_dopants(name, fractions, members)
    ordered = {metal: fractions[metal] for metal in sorted(fractions, key=lambda m: (m == "Mn", m))}
    formula = "Li" + "".join(_term(m, f * n_metals) for m, f in ordered.items()) + after + end
    return Cathode(name, formula, ordered if len(ordered) > 1 else {}, mixture(members, ordered))


def _sodium(name: str, kind: str, text: str) -> Cathode:
    """``O3-NaNi0.5Mn0.5O2``, ``P2-Na0.67MnO2``."""
    amounts = parse_formula(text)
    members = LAYERED_NA if kind == "O3" else P2_NA
    if amounts is None or amounts.get("O") != 2 or not 0 < amounts["Na"] <= 1 or len(amounts) < 3:
        raise ValueError(f"unknown cathode {name!r}: a layered sodium oxide is written O3-NaMO2 or P2-Na0.67MO2")
    if kind == "O3" and amounts["Na"] != 1:
        raise ValueError(f"unknown cathode {name!r}: O3 is written with all its sodium (remove some with li_vacancy)")
    metals = {symbol: amount for symbol, amount in amounts.items() if symbol not in ("Na", "O")}
    total = sum(metals.values())
    if abs(total - 1) > _ROUNDED:
        raise ValueError(f"cathode {name!r}: its metals add up to {total:g}; they must add up to 1")
    fractions = {symbol: amount / total for symbol, amount in metals.items() if amount}
    _check_dopants(name, fractions, members)
    ordered = {metal: fractions[metal] for metal in [*members, *sorted(set(fractions) - set(members))]
               if metal in fractions}  # fmt: skip
    formula = _term("Na", amounts["Na"]) + "".join(_term(m, f) for m, f in ordered.items()) + "O2"
    if kind == "O3" and formula in FIXED:
        return Cathode(name, formula, {}, FIXED[formula])
    mixed = ordered if len(ordered) > 1 else {}
    return Cathode(name, formula, mixed, mixture(members, ordered), amounts["Na"])


def _check_dopants(name: str, fractions: Mapping[str, float], members: Mapping[str, Lattice]) -> None:
    """Metals without a lattice of their own must be known, and few."""
    others = {metal: share for metal, share in fractions.items() if metal not in members}
    if any(metal not in _DOPANTS for metal in others) or sum(others.values()) > _MOST_DOPANT:
        raise ValueError(
            f"unknown cathode {name!r}: no published structure of this kind here has {', '.join(sorted(others))}; "
            f"metals that can mix are {', '.join(members)}, others as dopants up to {_MOST_DOPANT:g} in all"
        )


def _term(symbol: str, amount: float) -> str:
    return symbol if abs(amount - 1) < 1e-9 else f"{symbol}{amount:.4g}"


def _layered_formula(name: str, amounts: Mapping[str, float]) -> Cathode:
    metals = {symbol: amount for symbol, amount in amounts.items() if symbol not in ("Li", "O")}
    unknown = sorted(set(metals) - set(LAYERED))
    if set(unknown) - set(_DOPANTS) or sum(metals[metal] for metal in unknown) > _MOST_DOPANT:
        raise ValueError(
            f"unknown cathode {name!r}: no published layered oxide here has {', '.join(unknown)}; metals that can mix "
            f"are {', '.join(LAYERED)}, others as dopants up to {_MOST_DOPANT:g} in all, and other names are "
            f"{', '.join(cathode_names())}"
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
    ordered = {metal: fractions[metal] for metal in [*LAYERED, *sorted(set(fractions) - set(LAYERED))]
               if metal in fractions}  # fmt: skip
    formula = "Li" + "".join(m + ("" if f == 1 else f"{f:.4g}") for m, f in ordered.items()) + "O2"
    mixed = ordered if len(ordered) > 1 else {}
    return Cathode(name, formula, mixed, FIXED.get(formula, layered(ordered)))
