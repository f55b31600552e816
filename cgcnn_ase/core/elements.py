"""Data of the elements: the CGCNN descriptor, the Materials Project PBE reference energies and scales, and radii.

The descriptor is the one of Xie and Grossman (Phys. Rev. Lett. 120, 145301, Table S2): nine properties, each
put into one of a few categories and one-hot encoded, 92 bits in all. It covers elements 1 to 100.
"""

import csv
from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from cgcnn_ase.core.arrays import Floats, Floats32, Ints

# number of categories of each property, in the order of the 92-bit descriptor
CATEGORIES: dict[str, int] = {
    "group": 19,
    "period": 7,
    "electronegativity": 10,
    "covalent_radius": 10,
    "valence_electrons": 12,
    "ionization_energy": 10,
    "electron_affinity": 10,
    "block": 4,
    "atomic_volume": 10,
}

# metals whose d electrons have a U in the Materials Project's oxides and fluorides, and none in the metal itself
HUBBARD_METALS = ("Co", "Cr", "Fe", "Mn", "Mo", "Ni", "V", "W")

# scales of energies with these corrections, in the words of ``cgcnn-ase fetch``
_SCALES = {"MP2020": "mp2020", "none": "uncorrected"}

MAX_NUMBER = 100
DESCRIPTOR_SIZE = sum(CATEGORIES.values())


class UnknownElementError(ValueError):
    """An element that the table does not know."""


@cache
def _table() -> tuple[dict[str, str], ...]:
    text = files("cgcnn_ase.core").joinpath("elements.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


@cache
def symbols() -> tuple[str, ...]:
    """Symbols by atomic number; entry 0 is the placeholder ``X``."""
    return ("X", *(row["symbol"] for row in _table()))


def check_numbers(numbers: npt.ArrayLike) -> Ints:
    """Return the atomic numbers as an array; :class:`UnknownElementError` if one lies outside 1 to 100."""
    checked = np.asarray(numbers, dtype=np.int64)
    wrong = np.unique(checked[(checked < 1) | (checked > MAX_NUMBER)])
    if wrong.size:
        raise UnknownElementError(
            f"unknown element: atomic number {', '.join(map(str, wrong))}; known are 1 (H) to {MAX_NUMBER} (Fm)"
        )
    return checked


@cache
def descriptor_table() -> Floats32:
    """The 92-bit descriptors, shape (101, 92); row Z belongs to atomic number Z, row 0 is zero."""
    table = np.zeros((MAX_NUMBER + 1, DESCRIPTOR_SIZE), dtype=np.float32)
    starts = np.cumsum([0, *CATEGORIES.values()])
    for row in _table():
        for name, start in zip(CATEGORIES, starts, strict=False):
            if row[name]:
                table[int(row["number"]), start + int(row[name])] = 1.0
    return table


@cache
def electronegativity_scale() -> Floats:
    """The electronegativity category of each element scaled to [-1, 1], shape (101,); 0 where it has none."""
    bins = [row["electronegativity"] for row in _table()]
    return np.array([0.0, *((int(b) - 4.5) / 4.5 if b else 0.0 for b in bins)])


@cache
def reference_energies() -> dict[str, float]:
    """Lowest PBE energy of each element, eV/atom, on the Materials Project scale (MatCALC, BSD-3-Clause).

    Yb and some actinides have none.
    """
    return {row["symbol"]: float(row["pbe_energy_per_atom"]) for row in _table() if row["pbe_energy_per_atom"]}


def fetched_scale(corrections: str, *, functional: str = "", column: str = "formation_energy_per_atom") -> str | None:
    """Name the scale of energies that ``cgcnn-ase fetch`` wrote, or that a label scheme describes in its words.

    Parameters
    ----------
    corrections, functional
        What stands beside the energies, such as ``MP2020`` and ``PBE and PBE+U``; empty where nothing does.
    column
        Name of the energies' column.

    Returns
    -------
    str or None
        As of :mod:`cgcnn_ase.energies.scales`; None where the words tell none, and of other columns.
    """
    if not column.endswith("energy_per_atom"):
        return None
    if "r2scan" in functional.lower():
        return f"other:{functional}"
    scale = _SCALES.get(corrections)
    return "uncorrected" if scale is not None and column.startswith("uncorrected") else scale


@cache
def atomic_radii() -> Floats:
    """Calculated atomic radii, Å, shape (101,); NaN where there is none (At, Fr and Cm to Fm).

    Radii of maximum charge density of self-consistent-field functions (Clementi, Raimondi and Reinhardt, J. Chem. Phys.
    47, 1300, 1967). For the eleven elements that they left out (La, Ce, Ho, Ra, Ac to Am) the empirical radius (Slater,
    J. Chem. Phys. 41, 3199, 1964), as the reference code of CGNN has it.
    """
    return np.array([np.nan, *(float(row["atomic_radius"] or "nan") for row in _table())])


def hubbard_shell(element: str) -> str:
    """Name the shell that U acts on: the open d or f shell (``3d``, ``4f``), else the valence p or s shell."""
    from pymatgen.core import Element

    if not Element.is_valid_symbol(element):
        raise ValueError(f"hubbard_u names {element!r}, which is no element")
    entry = Element(element)
    return f"{entry.row - {'d': 1, 'f': 2}.get(entry.block, 0)}{entry.block}"
