"""Quantum ESPRESSO's pw.x through aiida-quantumespresso: `PwBaseWorkChain`, and `PwRelaxWorkChain` for relaxations."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ase.units import Bohr, Ry

from aiida_plugin.engines import hubbard
from aiida_plugin.engines.base import Call, Engine, plain_call
from aiida_plugin.engines.jobs import job_options
from aiida_plugin.engines.kpoints import mesh_of
from aiida_plugin.engines.pseudopotentials import check_hubbard, cutoffs_of, pseudos_of

if TYPE_CHECKING:
    from aiida.engine import ProcessBuilder
    from aiida.orm import AbstractCode, ProcessNode, Str, StructureData

    from aiida_plugin.data.structures import StructureSetData

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
        parameters = _over(_parameters(structure, settings, cutoffs, moments, z_valences), settings["parameters"])
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
        from aiida_plugin.calculations.labels_of_quantumespresso import labels_of_quantumespresso

        for name in ("output_parameters", "output_trajectory"):
            if name not in run.outputs:
                raise ValueError(f"the run {run.pk} has no {name}, so no energy; its exit code: {run.exit_status}")
        base = run.inputs.base_relax if "base_relax" in run.inputs else run.inputs
        relaxed = "output_structure" in run.outputs
        given = run.inputs.structure if "base_relax" in run.inputs else base.pw.structure
        labels: StructureSetData = call(
            labels_of_quantumespresso,
            structure=run.outputs.output_structure if relaxed else given,
            given=given,
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
    given = (settings["cutoff_wavefunctions"], settings["cutoff_density"])
    if None not in given:
        return float(given[0]), float(given[1])
    if given != (None, None):
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

    from aiida_plugin.calculations.with_hubbard import with_hubbard

    wanted = {"projectors": projectors, "values": dict(values), "shells": dict(shells)}
    made: StructureData = with_hubbard(structure, Dict(wanted))
    return made


def _over(parameters: dict[str, dict[str, Any]], given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The user's own namelists over those made of the settings."""
    merged = {name: dict(block) for name, block in parameters.items()}
    for name, block in given.items():
        if not isinstance(block, Mapping):
            raise ValueError(f"parameters holds namelists, such as {{SYSTEM: {{nbnd: 40}}}}; {name} is {block!r}")
        merged.setdefault(name.upper(), {}).update({key.lower(): value for key, value in block.items()})
    return merged
