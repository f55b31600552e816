"""Formal oxidation states that make a cathode neutral."""

from collections.abc import Mapping

#: fixed charges
_FIXED = {"Li": 1.0, "Al": 3.0, "P": 5.0}
#: lowest and highest charge of the others, in the order in which they are oxidised: Mn gives its fourth electron to Ni
#: (Ni2+ beside Mn4+), Co3+ is oxidised after nickel, and oxygen when no metal is left
_VARIABLE = {"Mn": (3.0, 4.0), "Ni": (2.0, 4.0), "Fe": (2.0, 3.0), "Co": (3.0, 4.0), "O": (-2.0, -1.0)}


def oxidation_states(counts: Mapping[str, int]) -> dict[str, float]:
    """The mean formal charge of each element, e, in a neutral cell.

    All metals start in their lowest state and are oxidised one element after the other: Mn to 4+, Ni to 4+, Fe to 3+,
    Co to 4+, at last oxygen.

    Parameters
    ----------
    counts
        Atoms of each element in the cell.

    Raises
    ------
    ValueError
        If an element is none of a cathode's here, or no such states are neutral.
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


def in_words(states: Mapping[str, float]) -> str:
    """As it is written: ``Li1+ Ni2.88+ O2-``."""
    return " ".join(f"{symbol}{abs(round(q, 3)):g}{'-' if q < 0 else '+'}" for symbol, q in states.items())


def _formula(counts: Mapping[str, int]) -> str:
    return "".join(f"{symbol}{n}" for symbol, n in counts.items() if n)
