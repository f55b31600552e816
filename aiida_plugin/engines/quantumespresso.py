"""Quantum ESPRESSO's pw.x through aiida-quantumespresso: `PwBaseWorkChain`, and `PwRelaxWorkChain` for relaxations."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from aiida.engine import calcfunction
from aiida.orm import ArrayData, Dict, Float, FolderData, Str, StructureData
from ase.units import Bohr, Hartree, Ry

from aiida_plugin.data.label_scheme import SCHEME
from aiida_plugin.data.structures import StructureSetData
from aiida_plugin.engines import hubbard
from aiida_plugin.engines.base import Call, Engine, plain_call
from aiida_plugin.engines.jobs import job_options
from aiida_plugin.engines.kpoints import mesh_of
from aiida_plugin.engines.pseudopotentials import check_hubbard, cutoffs_of, pseudos_of

if TYPE_CHECKING:
    from aiida.engine import ProcessBuilder
    from aiida.orm import AbstractCode, ProcessNode, Str, StructureData
    from ase import Atoms

    from aiida_plugin.data.structures import StructureSetData


#: eV; smaller differences of U are rounding
_SAME_U = 1e-4

#: pw.x's record of a run
_XML = "data-file-schema.xml"

#: its names of functionals and ours
_FUNCTIONALS = {"SLA PW PBX PBC": "PBE", "SLA PW PBE PBE": "PBE"}


@calcfunction
def labels_of_quantumespresso(
    structure: StructureData,
    input_structure: StructureData,
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
    input_structure
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
    result = output_parameters.get_dict()
    if "energy" not in result:
        raise ValueError("the outputs of pw.x hold no energy")
    atoms = structure.get_ase()
    _attach(atoms, float(result["energy"]), output_trajectory)
    namelists = parameters.get_dict()
    hubbard = _given_hubbard(input_structure, namelists)
    if hubbard:
        with retrieved.base.repository.open(_XML, "rb") as stream:
            _check_hubbard(hubbard, ElementTree.parse(stream).getroot())
    symbols = {kind.name: kind.symbol for kind in structure.kinds}
    atoms.info[SCHEME] = {
        "engine": "quantumespresso",
        "engine_version": str(result["creator_version"]),
        "functional": _functional(str(result["dft_exchange_correlation"])),
        "hubbard_u": {symbols[kind]: value for kind, value in hubbard.items()},
        "pseudopotentials": {each.element: f"{each.filename} md5:{each.md5}" for each in pseudos.values()},
        "cutoffs": {"wavefunctions": round(result["wfc_cutoff"], 3), "density": round(result["rho_cutoff"], 3)},
        "kpoints_distance": kpoints_distance.value,
        "smearing": [namelists["SYSTEM"]["smearing"], round(result["degauss"], 6)],
        "spin": bool(result["lsda"]),
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


def _check_hubbard(requested: dict[str, float], root: ElementTree.Element) -> None:
    """Whether pw.x used the U that it was given; older versions leave out a card that they do not know.

    Its record is in rydberg, hartree or eV, depending on the version.
    """
    used = {each.get("specie"): float(each.text or 0) for each in root.iterfind("./output/dft/dftU/Hubbard_U")}
    for kind, value in requested.items():
        if not any(abs(used.get(kind, 0.0) * unit - value) < _SAME_U for unit in (Ry, Hartree, 1.0)):
            raise ValueError(
                f"pw.x left out the Hubbard U of {kind} that it was given, as versions before 7.1 do with the card; "
                "set hubbard_input: namelist"
            )


#: what pw.x needs above zero to let a moment appear, as a fraction of the valence electrons
_SMALL_MOMENT = 1e-3


class QuantumEspressoEngine(Engine):
    """Quantum ESPRESSO with pseudopotentials of a family of aiida-pseudo.

    The energy is that of the electrons at the smearing's temperature (pw.x's "total energy", the free energy); with
    cold smearing it is within third order of that at 0 K.
    """

    name = "quantumespresso"
    code_plugin = "quantumespresso.pw"

    def builder(
        self,
        structure: "StructureData",
        code: "AbstractCode",
        settings: Mapping[str, Any],
        *,
        moments: Mapping[str, float],
        options: Mapping[str, Any],
    ) -> "ProcessBuilder":
        """All inputs of one run; see :meth:`Engine.builder`.

        A Hubbard U goes into the namelist (``hubbard_input: namelist``, pw.x before 7.1), or as a card that a
        structure of aiida-quantumespresso carries; that is made of the given one by a calcfunction.
        """
        from aiida.orm import Bool, Dict, Float
        from aiida_quantumespresso.workflows.pw.base import PwBaseWorkChain
        from aiida_quantumespresso.workflows.pw.relax import PwRelaxWorkChain

        pseudos = pseudos_of(structure, settings["pseudo_family"], settings["functional"])
        z_valences = {kind: float(pseudo.z_valence) for kind, pseudo in pseudos.items()}
        cutoffs = _cutoffs(structure, settings)
        parameters = _merge_namelists(
            _parameters(structure, settings, cutoffs, moments, z_valences), settings["parameters"]
        )
        values = hubbard.values(structure, settings)
        shells = {kind.name: hubbard.shell(kind.symbol) for kind in structure.kinds if kind.name in values}
        check_hubbard(pseudos, values)
        if values and settings["hubbard_input"] == "card":
            structure = _with_card(structure, values, shells, settings["hubbard_projectors"])
        inputs: dict[str, Any] = {
            "pw": {
                "code": code,
                "pseudos": pseudos,
                "parameters": Dict(parameters),
                "metadata": {"options": job_options(code, options)},
            },
            "kpoints_distance": Float(settings["kpoints_distance"]),
        }
        gamma = mesh_of(structure, settings["kpoints_distance"]).get_kpoints_mesh()[0] == [1, 1, 1]
        if gamma and not values:  # half the work; pw.x has no orthogonalised projectors for a U there
            inputs["pw"]["settings"] = Dict({"gamma_only": True})
        if settings["relax"]:
            builder: ProcessBuilder = PwRelaxWorkChain.get_builder()
            builder._update({"structure": structure, "base_relax": inputs, "meta_convergence": Bool(False)})
        else:
            inputs["pw"]["structure"] = structure
            builder = PwBaseWorkChain.get_builder()
            builder._update(inputs)
        return builder

    def labelled(self, run: "ProcessNode", structure_id: "Str", call: Call = plain_call) -> "StructureSetData":
        """The labels of a finished run; see :meth:`Engine.labelled`."""
        for name in ("output_parameters", "output_trajectory"):
            if name not in run.outputs:
                raise ValueError(f"the run {run.pk} has no {name}, so no energy; its exit code: {run.exit_status}")
        base = run.inputs.base_relax if "base_relax" in run.inputs else run.inputs
        relaxed = "output_structure" in run.outputs
        structure = run.inputs.structure if "base_relax" in run.inputs else base.pw.structure
        labels: StructureSetData = call(
            labels_of_quantumespresso,
            structure=run.outputs.output_structure if relaxed else structure,
            input_structure=structure,
            output_parameters=run.outputs.output_parameters,
            output_trajectory=run.outputs.output_trajectory,
            retrieved=run.outputs.retrieved,
            parameters=base.pw.parameters,
            kpoints_distance=base.kpoints_distance,
            structure_id=structure_id,
            **{f"pseudo_{kind}": pseudo for kind, pseudo in base.pw.pseudos.items()},
        )
        return labels


def _cutoffs(structure: "StructureData", settings: Mapping[str, Any]) -> tuple[float, float]:
    """Of the wave functions and of the density, eV."""
    cutoffs = (settings["cutoff_wavefunctions"], settings["cutoff_density"])
    if None not in cutoffs:
        return float(cutoffs[0]), float(cutoffs[1])
    if cutoffs != (None, None):
        raise ValueError("of cutoff_wavefunctions and cutoff_density only one is set; set both (eV) or none")
    return cutoffs_of(structure, settings["pseudo_family"])


def _parameters(
    structure: "StructureData",
    settings: Mapping[str, Any],
    cutoffs: tuple[float, float],
    moments: Mapping[str, float],
    z_valences: Mapping[str, float],
) -> dict[str, dict[str, Any]]:
    """The namelists of pw.x."""
    n_atoms = len(structure.sites)
    tolerance = settings["energy_tolerance"] / Ry
    parameters: dict[str, dict[str, Any]] = {
        "CONTROL": {"calculation": "scf", "tprnfor": True, "tstress": True},
        "SYSTEM": {
            "ecutwfc": cutoffs[0] / Ry,
            "ecutrho": cutoffs[1] / Ry,
            "occupations": "smearing",
            "smearing": settings["smearing_method"],
            "degauss": settings["smearing"] / Ry,
        },
        "ELECTRONS": {
            "conv_thr": tolerance * n_atoms,
            "electron_maxstep": settings["max_scf_steps"],
            "mixing_beta": settings["mixing_beta"],
        },
    }
    if settings["spin"]:
        start = {kind: moments.get(kind, 0.0) / z_valences[kind] for kind in z_valences}
        if not any(start.values()):  # pw.x asks for one; where there is no moment it goes away
            start = dict.fromkeys(start, _SMALL_MOMENT)
        parameters["SYSTEM"] |= {"nspin": 2, "starting_magnetization": start}
    values = hubbard.values(structure, settings)
    if settings["hubbard_input"] not in ("card", "namelist"):
        raise ValueError(f"hubbard_input is {settings['hubbard_input']!r}; allowed: card (pw.x from 7.1 on), namelist")
    if values and settings["hubbard_input"] == "namelist":
        parameters["SYSTEM"] |= {
            "lda_plus_u": True,
            "u_projection_type": settings["hubbard_projectors"],
            "hubbard_u": values,
        }
    if settings["relax"]:
        parameters["CONTROL"] |= {
            "calculation": "relax",
            "nstep": settings["max_relax_steps"],
            "forc_conv_thr": settings["fmax"] / (Ry / Bohr),
            "etot_conv_thr": 10 * tolerance * n_atoms,
        }
    return parameters


def _with_card(
    structure: "StructureData", values: Mapping[str, float], shells: Mapping[str, str], projectors: str
) -> "StructureData":
    from aiida.orm import Dict

    from aiida_plugin.engines.hubbard import with_hubbard

    wanted = {"projectors": projectors, "values": dict(values), "shells": dict(shells)}
    made: StructureData = with_hubbard(structure, Dict(wanted))
    return made


def _merge_namelists(parameters: dict[str, dict[str, Any]], overrides: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The user's own namelists over those made of the settings."""
    merged = {name: dict(block) for name, block in parameters.items()}
    for name, block in overrides.items():
        if not isinstance(block, Mapping):
            raise ValueError(f"parameters holds namelists, such as {{SYSTEM: {{nbnd: 40}}}}; {name} is {block!r}")
        merged.setdefault(name.upper(), {}).update({key.lower(): value for key, value in block.items()})
    return merged
