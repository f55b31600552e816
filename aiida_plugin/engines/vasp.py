"""VASP through aiida-vasp's `VaspWorkChain`; its licence and its potentials are the user's own."""

from collections.abc import Mapping
from math import pi
from typing import TYPE_CHECKING, Any

from aiida_plugin.engines import hubbard
from aiida_plugin.engines.base import Call, Engine, plain_call
from aiida_plugin.engines.jobs import job_options
from aiida_plugin.engines.kpoints import mesh_of

if TYPE_CHECKING:
    from aiida.engine import ProcessBuilder
    from aiida.orm import AbstractCode, ProcessNode, Str, StructureData

    from aiida_plugin.data.structures import StructureSetData

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

        from aiida_plugin.calculations.labels_of_vasp import labels_of_vasp

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
            found = ", ".join(sorted(PotcarData.get_full_names(family, element))) or "none"
            raise ValueError(
                f"the family {family!r} has no potential {name}; of {element} it has: {found}; name one as "
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
