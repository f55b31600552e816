"""Properties as all reference databases have them: our names, their units, and exact conversions from other units."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from scipy import constants

from cgcnn_ase.core.errors import unknown_name

# our names of properties and their units ("" for a pure number)
UNITS: Mapping[str, str] = {
    "formation_energy_per_atom": "eV/atom",
    "energy_above_hull": "eV/atom",
    "energy_per_atom": "eV/atom",
    "uncorrected_energy_per_atom": "eV/atom",
    "is_stable": "",
    "band_gap": "eV",
    "efermi": "eV",
    "is_metal": "",
    "total_magnetization": "mu_B",
    "magnetization_per_formula_unit": "mu_B",
    "K_VRH": "GPa",
    "G_VRH": "GPa",
    "poisson": "",
    "volume": "Å^3",
    "density": "g/cm^3",
    "average_voltage": "V",
    "capacity_grav": "mAh/g",
}

# what depends on the functional and on the scheme of corrections: never mixed
ENERGIES = (
    "formation_energy_per_atom",
    "energy_above_hull",
    "energy_per_atom",
    "uncorrected_energy_per_atom",
    "is_stable",
    "average_voltage",
)

# properties of the whole cell; those whose unit ends in ``/atom`` are of an atom, all others of neither
OF_CELL = ("total_magnetization", "volume")

_RYDBERG = constants.value("Rydberg constant times hc in eV")

# what one of each unit is in ours (CODATA values as SciPy has them)
FACTORS: dict[str, dict[str, float]] = {
    "eV": {
        "eV": 1.0,
        "meV": 1e-3,
        "Ry": _RYDBERG,
        "Ha": 2 * _RYDBERG,
        "J": 1 / constants.e,
        "kJ/mol": 1e3 / (constants.e * constants.N_A),
        "kcal/mol": constants.calorie * 1e3 / (constants.e * constants.N_A),
    },
    "GPa": {"GPa": 1.0, "MPa": 1e-3, "Pa": 1e-9, "kbar": 0.1, "Mbar": 100.0, "eV/Å^3": constants.e * 1e21},
    "Å^3": {"Å^3": 1.0, "nm^3": 1e3, "bohr^3": (constants.value("Bohr radius") * 1e10) ** 3},
    "g/cm^3": {"g/cm^3": 1.0, "kg/m^3": 1e-3},
    "mu_B": {"mu_B": 1.0},
    "V": {"V": 1.0, "mV": 1e-3},
    "mAh/g": {"mAh/g": 1.0},
    "": {"": 1.0},
}

# other ways to write a unit
_SPELLINGS = {"Angstrom^3": "Å^3", "angstrom^3": "Å^3", "A^3": "Å^3", "Å³": "Å^3", "g/cm³": "g/cm^3", "1": "",
              "dimensionless": "", "μB": "mu_B", "µB": "mu_B", "uB": "mu_B", "bohr_magneton": "mu_B",
              "Hartree": "Ha", "hartree": "Ha", "Rydberg": "Ry", "rydberg": "Ry"}  # fmt: skip


@dataclass(frozen=True)
class Conversion:
    """ours = theirs * factor * n_atoms**power."""

    factor: float
    power: int

    def __call__(self, value: float, n_atoms: int) -> float:
        """Our value of a cell of so many atoms."""
        return value * self.factor * float(n_atoms) ** self.power


def check_fields(names: Iterable[str], allowed: Iterable[str], what: str = "field") -> tuple[str, ...]:
    """The names, each once, or a `ValueError` with the nearest and all of the allowed ones.

    >>> check_fields(["band_gab"], ["band_gap", "efermi"])
    Traceback (most recent call last):
        ...
    ValueError: unknown field 'band_gab'; did you mean band_gap? allowed: band_gap, efermi
    """
    once, known = tuple(dict.fromkeys(names)), list(allowed)
    for name in once:
        if name not in known:
            raise unknown_name(what, name, known)
    return once


def conversion(name: str, unit: str) -> Conversion:
    """Conversion of a provider's values of a property to ours.

    The unit says of what an energy is: ``eV/atom`` or ``eV/cell``; magnetization and volume are those of the cell
    unless ``/atom`` says otherwise. A `ValueError` lists what is allowed where no exact conversion exists.

    >>> conversion("formation_energy_per_atom", "meV/atom")(-250.0, 8)
    -0.25
    >>> conversion("energy_per_atom", "eV/cell")(-40.0, 8)
    -5.0
    """
    check_fields([name], UNITS, "property")
    base, extent = _ours(name)
    theirs, theirs_extent = _parsed(unit)
    if name in OF_CELL and not theirs_extent:
        theirs_extent = "cell"
    if theirs not in FACTORS[base] or bool(theirs_extent) != bool(extent):
        raise ValueError(f"{name}: the unit {unit!r} cannot be converted exactly; allowed are {', '.join(units(name))}")
    power = {("cell", "atom"): -1, ("atom", "cell"): 1}.get((theirs_extent, extent), 0)
    return Conversion(FACTORS[base][theirs], power)


def units(name: str) -> list[str]:
    """The units that are converted to ours of a property."""
    base, extent = _ours(name)
    known = FACTORS[base]
    return [f"{unit}/{of}" for unit in known for of in ("atom", "cell")] if extent else [unit or "1" for unit in known]


def same_unit(first: str, second: str) -> bool:
    """True where two ways of writing may mean one unit; ``/atom`` and ``/cell`` may be left out."""
    (one, of_one), (other, of_other) = _parsed(first), _parsed(second)
    return one == other and (not of_one or not of_other or of_one == of_other)


def _ours(name: str) -> tuple[str, str]:
    """Our unit of a property, and of what it is: an atom, the cell, or neither."""
    base, _, extent = UNITS[name].partition("/")
    if extent == "atom":
        return base, extent
    return UNITS[name], "cell" if name in OF_CELL else ""


def _parsed(unit: str) -> tuple[str, str]:
    """The unit in our spelling, and of what: an atom, the cell, or not said."""
    text = unit.strip()
    for of in ("atom", "cell"):
        if text.endswith(f"/{of}"):
            text = text.removesuffix(f"/{of}")
            return _SPELLINGS.get(text, text), of
    return _SPELLINGS.get(text, text), ""
