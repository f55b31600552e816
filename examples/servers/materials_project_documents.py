"""Documents as the Materials Project's interface gives them, built with its published models (emmet-core)."""

import copy
import json
from functools import cache

from materials_project_crystals import PERIOD, Crystal, bases
from pymatgen.core import Composition, Structure

ROUTES = ("summary", "thermo", "elasticity", "magnetism", "insertion_electrodes")
THERMO_TYPES = ("GGA_GGA+U", "R2SCAN", "GGA_GGA+U_R2SCAN")


@cache
def symmetry(formula: str, n: int) -> dict:
    """The space group of a crystal as documents state it: asked of spglib once, strain does not change it."""
    from emmet.core.symmetry import SymmetryData

    crystal = next(s for s in bases() if (s.composition.reduced_formula, len(s)) == (formula, n))
    return SymmetryData.from_structure(crystal).model_dump()


def about(structure: Structure) -> dict:
    """What each document says of the structure it belongs to."""
    composition = structure.composition
    elements = sorted(element.symbol for element in composition.elements)
    return {
        "structure": structure,
        "nsites": len(structure),
        "elements": elements,
        "nelements": len(elements),
        "composition": composition,
        "composition_reduced": composition.reduced_composition,
        "formula_pretty": composition.reduced_formula,
        "formula_anonymous": composition.anonymized_formula,
        "chemsys": "-".join(elements),
        "volume": structure.volume,
        "density": structure.density,
        "density_atomic": structure.volume / len(structure),
        "symmetry": symmetry(composition.reduced_formula, len(structure)),
        "last_updated": "2026-02-01T00:00:00",
        "deprecated": False,
    }


class Database:
    """Documents of so many materials, each made when it is asked for."""

    def __init__(self, n: int = 120) -> None:
        self.n = n
        numbers = [11 * k + 7 for k in range(n)]
        self.position = {f"mp-{number}": k for k, number in enumerate(numbers)}
        self.ids = sorted(self.position)  # as a database sorts: by letters, so mp-18 comes before mp-7

    def crystal(self, name: str) -> Crystal:
        """Every so many materials the crystals come again, strained by another amount."""
        k = self.position[name]
        turn, which = divmod(k, len(bases()))
        strain = 0.004 * ((turn * 7 + which) % 11 - 5)
        structure = bases()[which].copy()
        structure.scale_lattice(structure.volume * (1 + strain) ** 3)
        return Crystal(int(name.removeprefix("mp-")), structure, strain)

    def documents(self, route: str, name: str) -> list[dict]:
        """What a route has of a material; the thermo route has one document for each thermo type."""
        k = self.position[name]
        number = int(name.removeprefix("mp-"))
        made = _document_sets(route, k % PERIOD, number % 6)
        result = []
        for document in made:
            document = copy.copy(document)
            if route == "insertion_electrodes":
                document |= {"material_ids": [name], "id_discharge": name}
            else:
                document["material_id"] = name
            result.append(document)
        return result


@cache
def _document_sets(route: str, k: int, remainder: int) -> tuple[dict, ...]:
    """Documents of a crystal, without their ids."""
    database = Database(k + 1)
    name = next(name for name, position in database.position.items() if position == k)
    crystal = database.crystal(name)
    crystal = Crystal(remainder, crystal.structure, crystal.strain)
    made = {
        "summary": summary,
        "thermo": thermo,
        "elasticity": elasticity,
        "magnetism": magnetism,
        "insertion_electrodes": insertion_electrodes,
    }[route](crystal)
    return tuple(json.loads(document.model_dump_json()) for document in made)


def r2scan_geometry(structure: Structure) -> Structure:
    """The same crystal, one percent shorter."""
    smaller = structure.copy()
    smaller.scale_lattice(structure.volume * 0.99**3)
    return smaller


def summary(crystal: Crystal) -> list:
    from emmet.core.summary import SummaryDoc

    best = r2scan_geometry(crystal.structure) if crystal.has_r2scan else crystal.structure
    units = crystal.composition.get_reduced_composition_and_factor()[1]
    more = (
        {
            "bulk_modulus": dict.fromkeys(("voigt", "reuss", "vrh"), crystal.bulk_modulus),
            "shear_modulus": dict.fromkeys(("voigt", "reuss", "vrh"), 0.6 * crystal.bulk_modulus),
            "homogeneous_poisson": 0.25,
        }
        if crystal.has_elasticity
        else {}
    )
    return [
        SummaryDoc(
            **about(best),
            property_name="summary",
            band_gap=crystal.gap,
            efermi=crystal.gap / 2,
            is_metal=crystal.gap == 0,
            energy_per_atom=crystal.energy - 5,  # of another functional: nobody should take it
            formation_energy_per_atom=crystal.formation_energy - 5,
            total_magnetization=crystal.moment,
            total_magnetization_normalized_formula_units=crystal.moment / units,
            has_props={"elasticity": crystal.has_elasticity, "magnetism": True, "thermo": True},
            **more,
        )
    ]


def thermo(crystal: Crystal) -> list:
    from emmet.core.thermo import ThermoDoc
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    has_u = any(element.symbol in ("Ni", "Co", "Mn", "Fe", "V", "Cr") for element in crystal.composition.elements)
    documents = []
    for kind in THERMO_TYPES:
        if kind == "R2SCAN" and not crystal.has_r2scan:
            continue
        scan = kind != "GGA_GGA+U" and crystal.has_r2scan
        run = "r2SCAN" if scan else "GGA+U" if has_u and "O" in crystal.composition else "GGA"
        structure = r2scan_geometry(crystal.structure) if scan else crystal.structure
        shift = {"GGA_GGA+U": 0.0, "R2SCAN": -9.0, "GGA_GGA+U_R2SCAN": -0.02}[kind]
        energy = crystal.energy + shift
        hull = round(abs(25 * crystal.strain**2), 6)
        entry = ComputedStructureEntry(
            structure, energy * len(structure), parameters={"run_type": run}, entry_id=f"mp-1-{run}"
        )
        documents.append(
            ThermoDoc(
                **about(structure),
                property_name="thermo",
                thermo_type=kind,
                uncorrected_energy_per_atom=energy + 0.1,
                energy_per_atom=energy,
                formation_energy_per_atom=crystal.formation_energy + shift / 10,
                energy_above_hull=hull,
                is_stable=hull == 0,
                energy_type=run,
                entry_types=[run],
                entries={run: entry},
            )
        )
    return documents


def elasticity(crystal: Crystal) -> list:
    from emmet.core.elasticity import ElasticityDoc

    if not crystal.has_elasticity:
        return []
    return [
        ElasticityDoc(
            **about(crystal.structure),
            property_name="elasticity",
            bulk_modulus=dict.fromkeys(("voigt", "reuss", "vrh"), crystal.bulk_modulus),
            shear_modulus=dict.fromkeys(("voigt", "reuss", "vrh"), 0.6 * crystal.bulk_modulus),
            homogeneous_poisson=0.25,
            state="successful",
        )
    ]


def magnetism(crystal: Crystal) -> list:
    from emmet.core.magnetism import MagnetismDoc

    units = crystal.composition.get_reduced_composition_and_factor()[1]
    return [
        MagnetismDoc(
            **about(crystal.structure),
            property_name="magnetism",
            ordering="FM" if crystal.moment else "NM",
            is_magnetic=crystal.moment > 0,
            total_magnetization=crystal.moment,
            total_magnetization_normalized_formula_units=crystal.moment / units,
        )
    ]


def insertion_electrodes(crystal: Crystal) -> list:
    from emmet.core.electrode import InsertionElectrodeDoc

    if "Li" not in crystal.composition or "O" not in crystal.composition or len(crystal.composition) < 3:
        return []
    frame = crystal.composition - Composition({"Li": crystal.composition["Li"]})
    capacity = 26801.4 * crystal.composition["Li"] / crystal.composition.weight  # mAh/g: Faraday's constant / 3.6
    return [
        InsertionElectrodeDoc(
            battery_type="insertion",
            thermo_type="GGA_GGA+U",
            working_ion="Li",
            last_updated="2026-02-01T00:00:00",
            framework=frame,
            framework_formula=frame.reduced_formula,
            elements=sorted(element.symbol for element in frame.elements),
            chemsys=frame.chemical_system,
            average_voltage=round(4.0 + 0.1 * crystal.formation_energy, 4),
            capacity_grav=round(capacity, 3),
        )
    ]
