"""What a run of Quantum ESPRESSO's pw.x found, as a labelled set of one structure."""

from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from aiida.engine import calcfunction
from aiida.orm import ArrayData, Dict, Float, FolderData, Str, StructureData
from ase.units import Hartree, Ry

from aiida_plugin.data.label_scheme import SCHEME
from aiida_plugin.data.structures import StructureSetData

if TYPE_CHECKING:
    from ase import Atoms

#: eV; smaller differences of U are rounding
_SAME_U = 1e-4
#: pw.x's record of a run
_XML = "data-file-schema.xml"
#: its names of functionals and ours
_FUNCTIONALS = {"SLA PW PBX PBC": "PBE", "SLA PW PBE PBE": "PBE"}


@calcfunction
def labels_of_quantumespresso(
    structure: StructureData,
    given: StructureData,
    output_parameters: Dict,
    output_trajectory: ArrayData,
    retrieved: FolderData,
    parameters: Dict,
    kpoints_distance: Float,
    structure_id: Str,
    **pseudos: Any,
) -> StructureSetData:
    """Energy, forces, stress and magnetic moments of the last step, with what made them.

    Parameters
    ----------
    structure
        Where the last step was made: the one that was given, or the relaxed one.
    given
        What the run was given, with its Hubbard U: a relaxed structure comes back without it.
    output_parameters, output_trajectory, retrieved
        Of the run.
    parameters
        The namelists that it was given.
    kpoints_distance
        1/Å
    structure_id
        The id in the set.
    pseudos
        The pseudopotential of each kind.

    Raises
    ------
    ValueError
        If there is no energy among the outputs, or pw.x left a Hubbard U out that it was given.
    """
    found = output_parameters.get_dict()
    if "energy" not in found:
        raise ValueError("the outputs of pw.x hold no energy")
    atoms = structure.get_ase()
    _attach(atoms, float(found["energy"]), output_trajectory)
    namelists = parameters.get_dict()
    hubbard = _given_hubbard(given, namelists)
    if hubbard:
        with retrieved.base.repository.open(_XML, "rb") as stream:
            _check_hubbard(hubbard, ElementTree.parse(stream).getroot())
    symbols = {kind.name: kind.symbol for kind in structure.kinds}
    atoms.info[SCHEME] = {
        "engine": "quantumespresso",
        "engine_version": str(found["creator_version"]),
        "functional": _functional(str(found["dft_exchange_correlation"])),
        "hubbard_u": {symbols[kind]: value for kind, value in hubbard.items()},
        "pseudopotentials": {each.element: f"{each.filename} md5:{each.md5}" for each in pseudos.values()},
        "cutoffs": {"wavefunctions": round(found["wfc_cutoff"], 3), "density": round(found["rho_cutoff"], 3)},
        "kpoints_distance": kpoints_distance.value,
        "smearing": [namelists["SYSTEM"]["smearing"], round(found["degauss"], 6)],
        "spin": bool(found["lsda"]),
        "relaxed": namelists["CONTROL"]["calculation"] == "relax",
    }
    return StructureSetData.from_ase([atoms], [structure_id.value])


def _attach(atoms: "Atoms", energy: float, trajectory: ArrayData) -> None:
    """The results of the last step, in ASE's units, order and signs."""
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.stress import full_3x3_to_voigt_6_stress
    from ase.units import GPa

    calculator = SinglePointCalculator(atoms, energy=energy, free_energy=energy)
    calculator.name = "quantumespresso"
    names = trajectory.get_arraynames()
    if "forces" in names:
        calculator.results["forces"] = trajectory.get_array("forces")[-1]
    if "stress" in names:  # pw.x counts compression as positive, ASE tension
        calculator.results["stress"] = -full_3x3_to_voigt_6_stress(trajectory.get_array("stress")[-1]) * GPa
    if "atomic_magnetic_moments" in names:
        calculator.results["magmoms"] = trajectory.get_array("atomic_magnetic_moments")[-1]
    atoms.calc = calculator


def _functional(name: str) -> str:
    return _FUNCTIONALS.get(" ".join(name.split()), name)


def _given_hubbard(structure: StructureData, parameters: dict[str, Any]) -> dict[str, float]:
    """U in eV by kind name, as the run was given it: in the namelist, or with the structure for the card."""
    card = getattr(structure, "hubbard", None)
    if card is not None and card.parameters:
        return {structure.sites[each.atom_index].kind_name: each.value for each in card.parameters}
    return dict(parameters["SYSTEM"].get("hubbard_u", {}))


def _check_hubbard(given: dict[str, float], root: ElementTree.Element) -> None:
    """Whether pw.x used the U that it was given; older versions leave out a card that they do not know.

    Its record is in rydberg, hartree or eV, depending on the version.
    """
    used = {each.get("specie"): float(each.text or 0) for each in root.iterfind("./output/dft/dftU/Hubbard_U")}
    for kind, value in given.items():
        if not any(abs(used.get(kind, 0.0) * unit - value) < _SAME_U for unit in (Ry, Hartree, 1.0)):
            raise ValueError(
                f"pw.x left out the Hubbard U of {kind} that it was given, as versions before 7.1 do with the card; "
                "set hubbard_input: namelist"
            )
