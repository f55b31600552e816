"""Published structures of the cathode materials, and Vegard's law between those of the layered oxides."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ase import Atoms

CellParameters = tuple[float, float, float, float, float, float]
Site = tuple[str, tuple[float, float, float]]

# tags of the sites in the atoms that :meth:`Lattice.atoms` makes
LITHIUM, METAL = 1, 2


@dataclass(frozen=True)
class Lattice:
    """A structure by its space group: cell (Å, degrees) and one site of each orbit, in fractional coordinates."""

    formula: str
    space_group: int
    cell: CellParameters
    sites: tuple[Site, ...]
    reference: str
    setting: int = 1
    mixed: str = ""  # the element on whose sites metals may mix

    def atoms(self, *, primitive: bool) -> "Atoms":
        """The conventional or the primitive cell; sites of Li have the tag 1, those where metals mix 2."""
        from ase.spacegroup import crystal

        atoms: Atoms = crystal(
            [symbol for symbol, _ in self.sites],
            [position for _, position in self.sites],
            spacegroup=self.space_group,
            setting=self.setting,
            cellpar=list(self.cell),
            primitive_cell=primitive,
        )
        atoms.info.clear()
        del atoms.arrays["spacegroup_kinds"]
        kinds = {"Li": LITHIUM, self.mixed: METAL}
        atoms.set_tags([kinds.get(symbol, 0) for symbol in atoms.get_chemical_symbols()])
        return atoms


def _layered(formula: str, metal: str, a: float, c: float, z: float, reference: str) -> Lattice:
    """The α-NaFeO2 structure, R-3m on hexagonal axes: Li in 3a, metal in 3b, oxygen at height z in 6c."""
    sites = (("Li", (0.0, 0.0, 0.0)), (metal, (0.0, 0.0, 0.5)), ("O", (0.0, 0.0, z)))
    return Lattice(formula, 166, (a, a, c, 90.0, 90.0, 120.0), sites, reference, mixed=metal)


_LINIO2 = _layered(
    "LiNiO2", "Ni", 2.878, 14.19, 0.2418,
    "cell: Dyer, Borie and Smith, J. Am. Chem. Soc. 76, 1499 (1954); oxygen: Rougier, Gravereau and Delmas, "
    "J. Electrochem. Soc. 143, 1168 (1996)",
)  # fmt: skip
_LICOO2 = _layered(
    "LiCoO2", "Co", 2.8161, 14.0536, 0.23968,
    "Akimoto, Gotoh and Oosawa, J. Solid State Chem. 141, 298 (1998)",
)  # fmt: skip
_LIALO2 = _layered(
    "LiAlO2", "Al", 2.8003, 14.216, 0.238,
    "alpha-LiAlO2: Marezio and Remeika, J. Chem. Phys. 44, 3143 (1966)",
)  # fmt: skip
# the layered oxide of Mn4+ beside Ni2+; used for the end member below only
_LINI05MN05O2 = _layered(
    "LiNi0.5Mn0.5O2", "Mn", 2.892, 14.301, 0.242,
    "cell: Makimura and Ohzuku, J. Power Sources 119-121, 156 (2003); oxygen: Kobayashi et al., J. Mater. Chem. 13, "
    "590 (2003)",
)  # fmt: skip

# structures that hold for one composition only
FIXED: dict[str, Lattice] = {
    "LiMnO2": Lattice(
        "LiMnO2", 12, (5.4387, 2.80857, 5.3878, 90.0, 116.006, 90.0),
        (("Mn", (0.0, 0.0, 0.0)), ("Li", (0.0, 0.5, 0.5)), ("O", (0.2725, 0.0, 0.7714))),
        "layered, monoclinic (C2/m) by the Jahn-Teller effect of Mn3+; cell: Armstrong and Bruce, Nature 381, 499 "
        "(1996); oxygen set so that Mn-O is 1.92 (4) and 2.31 (2) Å",
    ),
    "LiFePO4": Lattice(
        "LiFePO4", 62, (10.332, 6.010, 4.692, 90.0, 90.0, 90.0),
        (
            ("Li", (0.0, 0.0, 0.0)), ("Fe", (0.28222, 0.25, 0.97472)), ("P", (0.09486, 0.25, 0.41820)),
            ("O", (0.09678, 0.25, 0.74279)), ("O", (0.45710, 0.25, 0.20602)), ("O", (0.16558, 0.04646, 0.28478)),
        ),
        "olivine; Streltsov, Belokoneva, Tsirelson and Hansen, Acta Cryst. B 49, 147 (1993)",
    ),
    "LiMn2O4": Lattice(
        "LiMn2O4", 227, (8.2483, 8.2483, 8.2483, 90.0, 90.0, 90.0),
        (("Li", (0.125, 0.125, 0.125)), ("Mn", (0.5, 0.5, 0.5)), ("O", (0.2632, 0.2632, 0.2632))),
        "spinel; Akimoto, Takahashi, Gotoh and Mizuta, Chem. Mater. 12, 3246 (2000)",
        setting=2,
    ),
    "Li2MnO3": Lattice(
        "Li2MnO3", 12, (4.937, 8.532, 5.030, 90.0, 109.46, 90.0),
        (
            ("Mn", (0.0, 0.16708, 0.0)),
            ("Li", (0.0, 0.5, 0.0)), ("Li", (0.0, 0.0, 0.5)), ("Li", (0.0, 0.6606, 0.5)),
            ("O", (0.2189, 0.0, 0.2273)), ("O", (0.2540, 0.32119, 0.2233)),
        ),
        "lithium-rich; Strobel and Lambert-Andron, J. Solid State Chem. 75, 90 (1988)",
    ),
}  # fmt: skip


def _hypothetical_limno2() -> Lattice:
    """R-3m LiMnO2 with Mn4+, which no compound is: what LiNi0.5Mn0.5O2 leaves when half a LiNiO2 is taken away."""
    a, c, z = (2 * _parameters(_LINI05MN05O2)[k] - _parameters(_LINIO2)[k] for k in range(3))
    reference = f"hypothetical R-3m end member, extrapolated from LiNi0.5Mn0.5O2 ({_LINI05MN05O2.reference})"
    return _layered("LiMnO2", "Mn", a, c, z, reference)


def _parameters(lattice: Lattice) -> tuple[float, float, float]:
    """The a and c (Å) of a layered oxide, and the height of its oxygen."""
    return lattice.cell[0], lattice.cell[2], lattice.sites[2][1][2]


# end members of the layered oxides by their metal
LAYERED: dict[str, Lattice] = {"Ni": _LINIO2, "Co": _LICOO2, "Mn": _hypothetical_limno2(), "Al": _LIALO2}


def layered(fractions: Mapping[str, float]) -> Lattice:
    """The layered oxide of several metals (Ni, Co, Mn, Al) by their shares: cell and oxygen height by Vegard's law."""
    present = {metal: share for metal, share in fractions.items() if share > 0}
    if len(present) == 1:
        return LAYERED[next(iter(present))]
    a, c, z = (sum(share * _parameters(LAYERED[metal])[k] for metal, share in present.items()) for k in range(3))
    references = "; ".join(f"{LAYERED[metal].formula}: {LAYERED[metal].reference}" for metal in present)
    formula = "Li" + "".join(f"{metal}{share:.3g}" for metal, share in present.items()) + "O2"
    most = max(present, key=lambda metal: present[metal])
    return replace(_layered(formula, most, a, c, z, ""), reference=f"Vegard's law between {references}")


def cathode_names() -> tuple[str, ...]:
    """Names that :func:`build_cathode` knows; NCM and NMC take other digits too."""
    names = ("LiNiO2", "LiCoO2", "LiAlO2", "NCM111", "NCM523", "NCM622", "NCM811", "NCA", *FIXED)
    return tuple(sorted(names, key=lambda name: name.upper()))
