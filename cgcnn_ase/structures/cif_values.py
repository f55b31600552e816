"""Single values of a CIF, and what can be wrong with a block."""

import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from cgcnn_ase.core.elements import symbols
from cgcnn_ase.structures.record import RefusedError

if TYPE_CHECKING:
    from gemmi import cif as gemmi_cif

_SYMBOL = re.compile(r"([A-Za-z]{1,2})(?:\d*\.?\d*[+-]?|[+-]\d*\.?\d*)(?:,spin=.*)?")

# by electronegativity, then symbol: the order in which pymatgen sorts the atoms of a CIF
_SORTED = (
    "Fr Cs K Rb Ba Ra Na Sr Li Ca Ac La Tb Yb Ce Pm Pr Nd Sm Eu Gd Dy Y Ho Er Tm Lu Pu Am Bk Cf Cm Es Fm Hf Th "
    "Mg Zr Np Sc U Pa Ta Ti Mn Be Nb Al Tl V Zn Cr Cd In Ga Fe Co Cu Re Si Tc Ni Ag Sn Hg Po Ge Bi B Sb Te Mo "
    "As P At H Ir Os Pd Rn Ru Pt Rh Pb W Au C Se S Xe I Br Kr N Cl O F Ar He Ne "
)


@cache
def numbers_by_symbol() -> dict[str, int]:
    """Atomic number of each known element."""
    return {symbol: number for number, symbol in enumerate(symbols()) if number}


@cache
def rank_by_number() -> tuple[int, ...]:
    """Place of each element in pymatgen's order, by atomic number."""
    ranks = {symbol: rank for rank, symbol in enumerate(_SORTED.split())}
    return tuple(ranks.get(symbol, -1) for symbol in symbols())


def without_charge(symbol: str) -> str:
    """The element of a type symbol: ``Ni`` of ``Ni2+``."""
    return re.sub(r"[\d+-].*$", "", symbol) or symbol


@cache
def element_of_symbol(symbol: str) -> int:
    """Atomic number of a type symbol such as ``Ni2+``."""
    match = _SYMBOL.fullmatch(symbol)
    number = numbers_by_symbol().get(match[1].capitalize()) if match else None
    if number is not None:
        return number
    if " + " in symbol or "," in symbol:
        raise UncertainError("the element of a site is a mixture")
    raise RefusedError(element_words(symbol))


@cache
def element_of_label(label: str) -> int:
    """Atomic number that a label such as ``Ni1`` or ``O2A`` starts with."""
    table = numbers_by_symbol()
    letters = re.match(r"[A-Za-z]*", label)
    word = letters[0] if letters else ""
    if word in table:
        return table[word]
    if len(word) >= 2 and word[:2] in table:
        return table[word[:2]]
    if len(word) >= 2 and word[:2].isupper() and word[:2].capitalize() in table:
        raise UncertainError("the element of a label is ambiguous")
    if word[:1] in table and (len(word) < 2 or word[1].isupper()):
        return table[word[:1]]
    raise RefusedError(element_words(word or label))


def element_words(symbol: str) -> str:
    """The message about an element that is none."""
    bare = without_charge(symbol)
    if bare in ("D", "T"):
        return f"unknown element {bare!r}: {'deuterium' if bare == 'D' else 'tritium'} is not told apart; write H"
    return f"unknown element {symbol!r}; elements 1 (H) to 100 (Fm) are known"


class UncertainError(Exception):
    """gemmi cannot be certain of what the CIF means."""


class ContradictedError(UncertainError):
    """The symmetry operations of the CIF are not those of the space group that it names."""


class PartialOccupancyError(RefusedError):
    """Sites that are not fully occupied by one element."""


BRACKET = re.compile(r"\([\d.]*\)?$")


def plain(value: str) -> str:
    """A CIF value without its quotes."""
    if value[:1] in "'\"" and len(value) > 1 and value[-1] == value[0]:
        return value[1:-1].strip()
    if value[:1] == ";":
        return value.strip(";\n\r ").strip()
    return value


def number(value: str, what: str) -> float:
    """A CIF number; quotes and a standard uncertainty in brackets are taken off.

    >>> number("'1.234(5)'", "a")
    1.234
    """
    try:
        return float(value)
    except ValueError:
        text = BRACKET.sub("", plain(value))
        try:
            return float(text)
        except ValueError:
            raise RefusedError(f"{what} is {plain(value)!r}, not a number") from None


def value_of(block: "gemmi_cif.Block", tag: str) -> str | None:
    """The value of a tag that stands alone as it is written, None where there is none."""
    return block.find_value(tag)


def first_value(block: "gemmi_cif.Block", tags: Sequence[str]) -> str | None:
    """The value of the first of these tags that states one, without quotes."""
    for tag in tags:
        value = value_of(block, tag)
        if value is not None and plain(value) not in ("?", ".", ""):
            return plain(value)
    return None
