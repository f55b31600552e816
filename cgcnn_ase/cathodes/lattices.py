"""Published structures of the cathode materials, and Vegard's law between those that mix."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cgcnn_ase.core.arrays import Ints

if TYPE_CHECKING:
    from ase import Atoms

CellParameters = tuple[float, float, float, float, float, float]
Site = tuple[str, tuple[float, float, float]]

# tags of the sites in the atoms that :meth:`Lattice.atoms` makes: the ion (Li or Na), and where metals mix
LITHIUM, METAL = 1, 2
IONS = ("Li", "Na")


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
    filling: tuple[
        float, ...
    ] = ()  # part of the sites of each orbit of the ion that is filled; all where none is given

    def atoms(self, *, primitive: bool) -> "Atoms":
        """The conventional or the primitive cell; sites of Li or Na have the tag 1, those where metals mix 2."""
        atoms, _ = self.atoms_and_orbits(primitive=primitive)
        return atoms

    def atoms_and_orbits(self, *, primitive: bool) -> "tuple[Atoms, Ints]":
        """As `atoms`, and for each atom the index of its site in `sites`."""
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
        orbits: Ints = atoms.arrays.pop("spacegroup_kinds")
        kinds = {**dict.fromkeys(IONS, LITHIUM), self.mixed: METAL}
        atoms.set_tags([kinds.get(symbol, 0) for symbol in atoms.get_chemical_symbols()])
        return atoms, orbits


def _layered(formula: str, metal: str, a: float, c: float, z: float, reference: str, *, ion: str = "Li") -> Lattice:
    """The α-NaFeO2 structure, R-3m on hexagonal axes: Li in 3a, metal in 3b, oxygen at height z in 6c."""
    sites = ((ion, (0.0, 0.0, 0.0)), (metal, (0.0, 0.0, 0.5)), ("O", (0.0, 0.0, z)))
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
        mixed="Fe",
    ),
    "LiMn2O4": Lattice(
        "LiMn2O4", 227, (8.2483, 8.2483, 8.2483, 90.0, 90.0, 90.0),
        (("Li", (0.125, 0.125, 0.125)), ("Mn", (0.5, 0.5, 0.5)), ("O", (0.2632, 0.2632, 0.2632))),
        "spinel; Akimoto, Takahashi, Gotoh and Mizuta, Chem. Mater. 12, 3246 (2000)",
        setting=2,
        mixed="Mn",
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
    "NaNiO2": Lattice(
        "NaNiO2", 12, (5.3222, 2.8458, 5.5832, 90.0, 110.470, 90.0),
        (("Ni", (0.0, 0.0, 0.0)), ("Na", (0.0, 0.5, 0.5)), ("O", (0.2832, 0.0, 0.8050))),
        "O3, monoclinic (C2/m) by the Jahn-Teller effect of Ni3+; Dick, Mueller, Preissinger and Zeiske, Powder Diffr. "
        "12, 239 (1997)",
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
    formula = "Li" + "".join(f"{metal}{share:.3g}" for metal, share in present.items()) + "O2"
    if len(present) == 1:
        return LAYERED[next(iter(present))]
    return replace(mixture(LAYERED, present), formula=formula)


# O3 sodium oxides by their metal. NaNiO2 is monoclinic: beside other metals the hexagonal cell of the same volume
# stands for it, and what NaNi0.5Mn0.5O2 leaves when half of that is taken away for Mn4+
_NA_NI = _layered("NaNiO2", "Ni", 2.957, 15.69, 0.234, f"hexagonal cell of {FIXED['NaNiO2'].reference}", ion="Na")
_NA_NIMN = "Komaba et al., Inorg. Chem. 51, 6211 (2012): NaNi0.5Mn0.5O2, a = 2.96, c = 15.93"
LAYERED_NA: dict[str, Lattice] = {
    "Ni": _NA_NI,
    "Co": _layered("NaCoO2", "Co", 2.889, 15.61, 0.2305,
                   "Takahashi, Gotoh and Akimoto, J. Solid State Chem. 172, 22 (2003)", ion="Na"),
    "Mn": _layered("NaMnO2", "Mn", 2.963, 16.17, 0.234, f"hypothetical end member with Mn4+ from {_NA_NIMN}", ion="Na"),
    "Fe": _layered("NaFeO2", "Fe", 3.025, 16.09, 0.234, "Takeda et al., Mater. Res. Bull. 29, 659 (1994)", ion="Na"),
    "Cr": _layered("NaCrO2", "Cr", 2.975, 15.97, 0.234,
                   "Braconnier, Delmas and Hagenmuller, Mater. Res. Bull. 17, 993 (1982)", ion="Na"),
}  # fmt: skip


def _p2(metal: str, a: float, c: float, z: float, reference: str) -> Lattice:
    """P2 (P6_3/mmc): metal in 2a, sodium shared by 2b, below metals, and 2d in the ratio 0.25 : 0.42."""
    sites = (
        ("Na", (0.0, 0.0, 0.25)), ("Na", (1 / 3, 2 / 3, 0.75)), (metal, (0.0, 0.0, 0.0)), ("O", (1 / 3, 2 / 3, z)),
    )  # fmt: skip
    return Lattice(f"Na0.67{metal}O2", 194, (a, a, c, 90.0, 90.0, 120.0), sites, reference, mixed=metal,
                   filling=(0.25 / 0.67, 0.42 / 0.67))  # fmt: skip


# P2 sodium oxides by their metal; cells of 0.67 to 0.74 Na
P2_NA: dict[str, Lattice] = {
    "Mn": _p2("Mn", 2.88, 11.18, 0.0915, "Paulsen and Dahn, Solid State Ionics 126, 3 (1999)"),
    "Ni": _p2("Ni", 2.895, 11.09, 0.0915, "extrapolated from Na0.67Ni0.33Mn0.67O2 (a = 2.885, c = 11.15): Lu and Dahn, "
              "J. Electrochem. Soc. 148, A1225 (2001)"),
    "Co": _p2("Co", 2.840, 10.811, 0.0913, "Na0.74CoO2: Balsys and Davis, Solid State Ionics 93, 279 (1996)"),
    "Fe": _p2("Fe", 2.98, 11.26, 0.0915, "extrapolated from Na0.67Fe0.5Mn0.5O2 (a = 2.93, c = 11.22): Yabuuchi et al., "
              "Nature Mater. 11, 512 (2012)"),
}  # fmt: skip

# spinels LiM2O4: LiNi0.5Mn1.5O4 (a = 8.172) stands for a quarter of nickel
_SPINEL_NI = replace(
    FIXED["LiMn2O4"], formula="LiNi2O4", cell=(*(8.2483 - 4 * (8.2483 - 8.172),) * 3, 90.0, 90.0, 90.0),
    reference="extrapolated from LiNi0.5Mn1.5O4 (a = 8.172): Kim, Myung, Park, Kang and Sun, Chem. Mater. 16, 906 "
    "(2004)",
)  # fmt: skip
SPINEL: dict[str, Lattice] = {"Mn": FIXED["LiMn2O4"], "Ni": _SPINEL_NI}
OLIVINE: dict[str, Lattice] = {
    "Fe": FIXED["LiFePO4"],
    "Mn": replace(
        FIXED["LiFePO4"], formula="LiMnPO4", cell=(10.460, 6.100, 4.744, 90.0, 90.0, 90.0),
        reference="LiMnPO4 with the positions of LiFePO4; cell: Geller and Durand, Acta Cryst. 13, 325 (1960)",
    ),
}  # fmt: skip


def mixture(members: Mapping[str, Lattice], fractions: Mapping[str, float]) -> Lattice:
    """The lattice of a mixture by Vegard's law between end members; metals that have none leave it unchanged."""
    known = {metal: share for metal, share in fractions.items() if share > 0 and metal in members}
    total = sum(known.values())
    shares = {metal: share / total for metal, share in known.items()}
    most = max(shares, key=lambda metal: shares[metal])
    first = members[most]
    a, b, c, alpha, beta, gamma = (
        sum(share * members[metal].cell[k] for metal, share in shares.items()) for k in range(6)
    )
    sites = tuple(
        (symbol, _mean_place([(members[metal].sites[k][1], share) for metal, share in shares.items()]))
        for k, (symbol, _) in enumerate(first.sites)
    )
    dopants = [metal for metal, share in fractions.items() if share > 0 and metal not in members]
    reference = "; ".join(f"{members[metal].formula}: {members[metal].reference}" for metal in shares)
    if len(shares) > 1:
        reference = f"Vegard's law between {reference}"
    if dopants:
        reference += f"; {', '.join(dopants)} taken to leave it unchanged"
    return replace(first, cell=(a, b, c, alpha, beta, gamma), sites=sites, reference=reference)


def _mean_place(places: Sequence[tuple[tuple[float, float, float], float]]) -> tuple[float, float, float]:
    x, y, z = (sum(share * position[k] for position, share in places) for k in range(3))
    return x, y, z


def cathode_names() -> tuple[str, ...]:
    """Names that :func:`build_cathode` knows; NCM and NMC take other digits too."""
    names = (
        "LiNiO2", "LiCoO2", "LiAlO2", "NCM111", "NCM523", "NCM622", "NCM811", "NCA", "LiNi0.5Mn1.5O4", "LiMnPO4",
        "O3-NaCoO2", "O3-NaCrO2", "O3-NaFeO2", "O3-NaNi0.5Mn0.5O2", "P2-Na0.67MnO2", "P2-Na0.67Ni0.33Mn0.67O2", *FIXED,
    )  # fmt: skip
    return tuple(sorted(names, key=lambda name: name.upper()))
