"""What stays when an ion leaves: the framework of an intercalation compound, and how much of the ion it holds."""

from collections import Counter
from math import gcd
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ase import Atoms

Ion = str

#: ions of charge 1, for which one ion is one electron
IONS = ("Li", "Na", "K")


class Framework(NamedTuple):
    """The atoms of a cell other than the ion.

    One unit is the reduced formula with all metals counted together: MO2 for LiCoO2 and for NCM811, MPO4 for LiFePO4,
    MO2 (not M2O4) for LiMn2O4.
    """

    counts: dict[str, int]  #: atoms in the cell, without the ion
    n_ions: int  #: ions in the cell
    n_units: int  #: units in the cell

    @property
    def x(self) -> float:
        """Ions a unit."""
        return self.n_ions / self.n_units

    @property
    def formula(self) -> str:
        """One unit, with the shares of its metals."""
        order = sorted(self.counts, key=lambda symbol: (not _is_metal(symbol), symbol == "O", symbol))
        amounts = {symbol: self.counts[symbol] / self.n_units for symbol in order}
        return "".join(s + ("" if n == 1 else f"{round(n, 3):g}") for s, n in amounts.items())

    def same_as(self, other: "Framework") -> bool:
        """Whether both have the same composition; the cells may differ in size."""
        return {s: n * other.n_units for s, n in self.counts.items()} == {
            s: n * self.n_units for s, n in other.counts.items()
        }


def framework(atoms: "Atoms", ion: Ion) -> Framework:
    """The framework of a cell.

    Raises
    ------
    ValueError
        If the ion has not the charge 1, or there is nothing but the ion.
    """
    if ion not in IONS:
        raise ValueError(f"ion {ion!r}: allowed are {', '.join(IONS)}, which carry one electron each")
    counts = Counter(atoms.get_chemical_symbols())
    n_ions = counts.pop(ion, 0)
    if not counts:
        raise ValueError(f"{atoms.get_chemical_formula()} holds nothing but {ion}: there is no framework")
    metals = sum(n for symbol, n in counts.items() if _is_metal(symbol))
    others = [n for symbol, n in counts.items() if not _is_metal(symbol)]
    return Framework(dict(counts), n_ions, gcd(metals, *others))


def _is_metal(symbol: str) -> bool:
    from pymatgen.core import Element

    return bool(Element(symbol).is_metal)
