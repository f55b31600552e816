"""VASP through aiida-vasp's `VaspWorkChain`; its licence and its potentials are the user's own."""

from collections.abc import Mapping
from math import pi
from typing import TYPE_CHECKING, Any

import numpy as np
from aiida.engine import calcfunction
from aiida.orm import Dict, Float, Str, StructureData
from ase.units import GPa

from aiida_plugin.data.label_scheme import SCHEME
from aiida_plugin.data.structures import StructureSetData
from aiida_plugin.engines import hubbard
from aiida_plugin.engines.base import Call, Engine, plain_call
from aiida_plugin.engines.jobs import job_options
from aiida_plugin.engines.kpoints import mesh_of

if TYPE_CHECKING:
    from aiida.engine import ProcessBuilder
    from aiida.orm import AbstractCode, ProcessNode, Str, StructureData
    from ase import Atoms

    from aiida_plugin.data.structures import StructureSetData


#: VASP writes stress in kilobar
_KBAR = 0.1 * GPa

#: eV, extrapolated to no smearing, of the last electronic step: that of the ionic step has p V in it under PSTRESS
_ENERGY = "energy_extrapolated_electronic"

#: digits of a hash that tell potentials apart
_HASH = 16


@calcfunction
def labels_of_vasp(
    structure: StructureData,
    misc: Dict,
    parameters: Dict,
    kpoints_spacing: Float,
    structure_id: Str,
    **potentials: Any,
) -> StructureSetData:
    """Energy, forces, stress and magnetic moments of the last step, with what made them.

    Parameters
    ----------
    structure
        Where the last step was made: the one that was given, or the relaxed one.
    misc
        Of the run.
    parameters
        The tags of its last job.
    kpoints_spacing
        1/Å, without the factor 2π.
    structure_id
        The id in the set.
    potentials
        Of each kind.

    Raises
    ------
    ValueError
        If there is no energy among the outputs.
    """
    result, tags = misc.get_dict(), parameters.get_dict()
    if _ENERGY not in result.get("total_energies", {}):
        raise ValueError("the outputs of VASP hold no energy")
    atoms = structure.get_ase()
    _attach(atoms, result)
    atoms.info[SCHEME] = {
        "engine": "vasp",
        "engine_version": str(result["version"]).strip(),
        "functional": _functional(tags),
        "hubbard_u": _hubbard(structure, tags),
        "pseudopotentials": {
            each.element: f"{each.full_name} sha512:{each.sha512[:_HASH]}" for each in potentials.values()
        },
        "cutoffs": {"wavefunctions": float(tags["encut"])},
        "kpoints_distance": round(kpoints_spacing.value * 2 * pi, 9),
        "smearing": [int(tags["ismear"]), float(tags["sigma"])],
        "spin": tags["ispin"] == 2,
        "relaxed": tags.get("nsw", 0) > 0,
    }
    return StructureSetData.from_ase([atoms], [structure_id.value])


def _attach(atoms: "Atoms", result: dict[str, Any]) -> None:
    """The results of the last step, in ASE's units, order and signs."""
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.stress import full_3x3_to_voigt_6_stress

    calculator = SinglePointCalculator(atoms, energy=float(result["total_energies"][_ENERGY]))
    calculator.name = "vasp"
    if result.get("forces") is not None:
        calculator.results["forces"] = np.array(result["forces"], dtype=float)
    if result.get("stress") is not None:  # VASP counts compression as positive, ASE tension
        calculator.results["stress"] = -full_3x3_to_voigt_6_stress(np.array(result["stress"], dtype=float)) * _KBAR
    sites = ((result.get("site_magnetization") or {}).get("sphere", {}).get("x") or {}).get("site_moment") or {}
    if sites:
        calculator.results["magmoms"] = np.array([sites[key]["tot"] for key in sorted(sites, key=int)], dtype=float)
    atoms.calc = calculator


def _functional(tags: dict[str, Any]) -> str:

    gga = str(tags.get("gga", "")).lower()
    return next((name for name, tag in FUNCTIONALS.items() if tag == gga), gga)


def _hubbard(structure: StructureData, tags: dict[str, Any]) -> dict[str, float]:
    """U in eV by element; VASP's tag lists it for each run of atoms of one kind."""
    if not tags.get("ldau"):
        return {}
    from aiida_vasp.parsers.content_parsers.potcar import MultiPotcarIo

    symbols = {kind.name: kind.symbol for kind in structure.kinds}
    listed = zip(MultiPotcarIo.potentials_order(structure), tags["ldauu"], strict=True)
    return {symbols[kind]: float(value) for kind, value in listed if value}


#: VASP's numbers for methods of smearing
SMEARING = {"gaussian": 0, "fermi-dirac": -1, "methfessel-paxton": 1}

#: VASP's names of functionals
FUNCTIONALS = {"PBE": "pe", "PBEsol": "ps"}


class VASPEngine(Engine):
    """VASP with the potentials of a family that the user has uploaded.

    The energy is that extrapolated to no smearing (``energy(sigma->0)``).
    """

    name = "vasp"
    code_plugin = "vasp.vasp"

    def builder(
        self,
        structure: "StructureData",
        code: "AbstractCode",
        settings: Mapping[str, Any],
        *,
        moments: Mapping[str, float],
        options: Mapping[str, Any],
    ) -> "ProcessBuilder":
        """All inputs of one run; see :meth:`Engine.builder`."""
        from aiida.orm import Dict, Float, Str
        from aiida_vasp.workchains.v2.vasp import VaspWorkChain

        mesh_of(structure, settings["kpoints_distance"])
        potentials = _potentials(structure, settings)
        builder: ProcessBuilder = VaspWorkChain.get_builder()
        builder.code = code
        builder.structure = structure
        builder.parameters = Dict({"incar": _incar(len(structure.sites), settings) | dict(settings["incar"])})
        builder.potential_family = Str(settings["potential_family"])
        builder.potential_mapping = Dict(potentials)
        builder.kpoints_spacing = Float(settings["kpoints_distance"] / (2 * pi))
        builder._update({"calc": {"metadata": {"options": job_options(code, options)}}})
        if values := hubbard.values(structure, settings):
            shells = {kind.name: hubbard.shell(kind.symbol)[-1] for kind in structure.kinds}
            builder.ldau_mapping = Dict({"mapping": {kind: [shells[kind], value] for kind, value in values.items()}})
        if settings["spin"]:
            starts = {kind.name: float(moments.get(kind.name, 0.0)) for kind in structure.kinds}
            builder.magmom_mapping = Dict(starts | {"default": 0.0})
        return builder

    def labelled(self, run: "ProcessNode", structure_id: "Str", call: Call = plain_call) -> "StructureSetData":
        """The labels of a finished run; see :meth:`Engine.labelled`."""
        from aiida.orm import CalcJobNode

        if "misc" not in run.outputs:
            raise ValueError(f"the run {run.pk} has no misc, so no energy; exit code: {run.exit_status}")
        job = [each for each in run.called_descendants if isinstance(each, CalcJobNode)][-1]
        labels: StructureSetData = call(
            labels_of_vasp,
            structure=run.outputs.structure if "structure" in run.outputs else run.inputs.structure,
            misc=run.outputs.misc,
            parameters=job.inputs.parameters,
            kpoints_spacing=run.inputs.kpoints_spacing,
            structure_id=structure_id,
            **{f"potential_{kind}": potential for kind, potential in job.inputs.potential.items()},
        )
        return labels


def _potentials(structure: "StructureData", settings: Mapping[str, Any]) -> dict[str, str]:
    """The name of each kind's potential in the family."""
    from aiida.common.exceptions import NotExistent
    from aiida_vasp.data.potcar import PotcarData
    from pymatgen.io.vasp.sets import MPRelaxSet

    family = settings["potential_family"]
    if PotcarData.get_potcar_group(family) is None:
        raise ValueError(
            f"there is no family {family!r} of VASP potentials; upload yours: aiida-vasp potcar uploadfamily "
            f"--path FOLDER --name {family} --description TEXT"
        )
    usual = MPRelaxSet.CONFIG["POTCAR"]
    names = {kind.symbol: settings["potentials"].get(kind.symbol, usual.get(kind.symbol)) for kind in structure.kinds}
    for element, name in names.items():
        if name is None:
            raise ValueError(f"no potential is known for {element}; name one as potentials: {{{element}: ...}}")
        try:
            PotcarData.get_potcars_dict([element], family, {element: name})
        except NotExistent as error:
            result = ", ".join(sorted(PotcarData.get_full_names(family, element))) or "none"
            raise ValueError(
                f"the family {family!r} has no potential {name}; of {element} it has: {result}; name one as "
                f"potentials: {{{element}: ...}}"
            ) from error
    return {kind.name: names[kind.symbol] for kind in structure.kinds}


def _incar(n_atoms: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """VASP's tags, in lower case as aiida-vasp has them."""
    for name, known in (("functional", FUNCTIONALS), ("smearing_method", SMEARING)):
        if settings[name] not in known:
            raise ValueError(f"{name} is {settings[name]!r}; allowed with VASP: {', '.join(known)}")
    tags = {
        "encut": settings["cutoff_wavefunctions"],
        "gga": FUNCTIONALS[settings["functional"]],
        "ediff": settings["energy_tolerance"] * n_atoms,
        "nelm": settings["max_scf_steps"],
        "ismear": SMEARING[settings["smearing_method"]],
        "sigma": settings["smearing"],
        "ispin": 2 if settings["spin"] else 1,
        "lorbit": 11,  # the moments of the atoms
        "prec": "accurate",
        "lreal": False,
        "lasph": True,
        "isif": 2,  # the cell stays; the stress is computed
        "ibrion": -1,
        "nsw": 0,
    }
    if settings["relax"]:
        tags |= {"ibrion": 2, "nsw": settings["max_relax_steps"], "ediffg": -settings["fmax"]}
    return tags
