"""Crystals with published lattice parameters, and made-up values by simple rules, for `materials_project_server`."""

from dataclasses import dataclass
from functools import cache
from math import asin, degrees, sqrt

from pymatgen.core import Composition, Lattice, Structure


def fcc(a: float) -> Lattice:
    """The primitive cell of a face-centred cube of edge `a`, Å."""
    return Lattice([[0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]])


def rhombohedral(a: float, c: float) -> Lattice:
    """The primitive cell of a rhombohedral crystal, from the edges of its hexagonal cell, Å."""
    return Lattice.rhombohedral(sqrt(a**2 / 3 + c**2 / 9), 2 * degrees(asin(1.5 / sqrt(3 + (c / a) ** 2))))


def bcc(a: float) -> Lattice:
    return Lattice([[-a / 2, a / 2, a / 2], [a / 2, -a / 2, a / 2], [a / 2, a / 2, -a / 2]])


#: fractional positions in the primitive cells; z of layered and u of spinel oxides is that of LiNiO2 and LiMn2O4
LAYERED = [[0.5] * 3, [0] * 3, [0.2419] * 3, [-0.2419] * 3]
U, V = 0.2625, 0.5 - 3 * 0.2625
SPINEL = [
    *([0.125] * 3, [0.875] * 3),
    *([0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]),
    *([sign * x for x in o] for o in ([U, U, U], [U, U, V], [U, V, U], [V, U, U]) for sign in (1, -1)),
]
FLUORITE = [[0] * 3, [0.25] * 3, [0.75] * 3]
PEROVSKITE = [[0.5] * 3, [0] * 3, [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]

#: cell, element of each position, positions: lattice parameters at room temperature as published
CRYSTALS: list[tuple[Lattice, list[str], list]] = [
    *(
        (fcc(a), [cation, anion], [[0] * 3, [0.5] * 3])
        for cation, anion, a in (
            *(("Ni", "O", 4.177), ("Co", "O", 4.261), ("Mn", "O", 4.446), ("Mg", "O", 4.212), ("Ca", "O", 4.811)),
            *(("Fe", "O", 4.326), ("Li", "F", 4.026), ("Na", "Cl", 5.640), ("Ti", "N", 4.242), ("V", "O", 4.073)),
            *(("Sr", "O", 5.160), ("Ba", "O", 5.539), ("Cd", "O", 4.695), ("Na", "F", 4.620), ("K", "Cl", 6.293)),
        )
    ),
    *(
        (rhombohedral(a, c), ["Li", metal, "O", "O"], LAYERED)
        for metal, a, c in (
            *(("Ni", 2.878, 14.19), ("Co", 2.815, 14.05), ("Al", 2.800, 14.22), ("Cr", 2.900, 14.43)),
            *(("V", 2.838, 14.82), ("Fe", 2.955, 14.57), ("Mn", 2.860, 14.34)),
        )
    ),
    *(
        (fcc(a), [one, two, two], FLUORITE)
        for one, two, a in (("O", "Li", 4.619), ("O", "Na", 5.550), ("Ca", "F", 5.463), ("Ce", "O", 5.411))
    ),
    *(
        (Lattice.cubic(a), [a_site, b_site, "O", "O", "O"], PEROVSKITE)
        for a_site, b_site, a in (("Sr", "Ti", 3.905), ("Ba", "Ti", 4.006), ("La", "Al", 3.790), ("K", "Ta", 3.989))
    ),
    *((fcc(a), ["Li"] * 2 + [metal] * 4 + ["O"] * 8, SPINEL) for metal, a in (("Mn", 8.247), ("Ti", 8.370))),
    *(
        (fcc(a), [cation, anion], [[0] * 3, [0.25] * 3])
        for cation, anion, a in (("Zn", "S", 5.409), ("Ga", "As", 5.653), ("Cu", "Cl", 5.416))
    ),
    *((fcc(a), [symbol], [[0] * 3]) for symbol, a in (("Ni", 3.524), ("Cu", 3.615), ("Al", 4.050))),
    *((bcc(a), [symbol], [[0] * 3]) for symbol, a in (("Li", 3.510), ("Fe", 2.866))),
]


#: after so many materials the same structures come again: each at eleven strains
PERIOD = 11 * len(CRYSTALS)


@dataclass(frozen=True)
class Crystal:
    """One material: a structure, and values that are made up from its elements and its strain."""

    number: int  #: in its id
    structure: Structure
    strain: float

    @property
    def composition(self) -> Composition:
        return self.structure.composition

    @property
    def formation_energy(self) -> float:
        """eV/atom: attraction grows with the difference of electronegativities, strain costs energy."""
        x = [(element.X, self.composition.get_atomic_fraction(element)) for element in self.composition.elements]
        return -1.1 * sum(p * q * (a - b) ** 2 for a, p in x for b, q in x) / 2 + 25 * self.strain**2

    @property
    def energy(self) -> float:
        """eV/atom, PBE with corrections."""
        return -3.0 + self.formation_energy

    @property
    def gap(self) -> float:
        """eV."""
        return round(max(0.0, -2.5 * self.formation_energy - 1.0), 4)

    @property
    def bulk_modulus(self) -> float:
        """GPa."""
        return round(900 / self.structure.volume * len(self.structure), 3)

    @property
    def moment(self) -> float:
        """mu_B of the cell."""
        return float(
            sum({"Fe": 4.0, "Mn": 5.0, "Co": 3.0, "Ni": 2.0}.get(site.specie.symbol, 0) for site in self.structure)
        )

    @property
    def has_elasticity(self) -> bool:
        return self.number % 3 == 0

    @property
    def has_r2scan(self) -> bool:
        return self.number % 2 == 0


@cache
def bases() -> tuple[Structure, ...]:
    """The crystals, primitive and at their published size."""
    return tuple(Structure(cell, elements, positions) for cell, elements, positions in CRYSTALS)
