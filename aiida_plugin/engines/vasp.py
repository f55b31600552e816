"""VASP through aiida-vasp's `VaspWorkChain`."""

from collections.abc import Iterable, Mapping
from math import pi
from typing import TYPE_CHECKING, Any

import numpy as np
from aiida.engine import calcfunction
from aiida.orm import CalcJobNode, Data, Dict, Float, Str, StructureData
from ase.units import GPa

from aiida_plugin.data.labels import is_converged
from aiida_plugin.data.structures import StructureSetData
from aiida_plugin.engines.base import Call, CommonSettings, Engine, Inputs, Run, hubbard_shell, plain_call, plane_waves
from aiida_plugin.engines.labels import check_outputs, labelled_set

if TYPE_CHECKING:
    from aiida.engine import ProcessBuilder
    from aiida.orm import ProcessNode

    from aiida_plugin.data.labels import Scheme

SMEARING = {"gaussian": 0, "fermi-dirac": -1, "methfessel-paxton": 1}  # VASP's numbers for methods of smearing
FUNCTIONALS = {"PBE": "pe", "PBEsol": "ps"}  # VASP's names of functionals

_KBAR = 0.1 * GPa  # VASP writes stress in kilobar
# eV, extrapolated to no smearing, of the last electronic step: that of the ionic step has p V in it under PSTRESS
_ENERGY = "energy_extrapolated_electronic"
_PROJECT_KPOINTS = 0.25  # distance of k-points of the Materials Project, 1/Å with the factor 2π
_HASH = 16  # digits of a hash that tell potentials apart


class VASPSettings(CommonSettings):
    """Settings that ``vasp.yaml`` adds."""

    potential_family: str
    potentials: dict[str, str]
    cutoff_wavefunctions: float
    smearing_method: str
    incar: dict[str, Any]


class VASPEngine(Engine[VASPSettings]):
    """VASP with the potentials of a family that the user has uploaded.

    The energy is that extrapolated to no smearing (``energy(sigma->0)``).
    """

    name = "vasp"
    title = "VASP"
    code_plugin = "vasp.vasp"

    def builder(self, run: Run[VASPSettings]) -> "ProcessBuilder":
        """See :meth:`Engine.builder`."""
        from aiida_vasp.workchains.v2.vasp import VaspWorkChain

        settings, kinds = run.settings, run.structure.kinds
        _ = run.mesh  # raises where there is none of that distance
        potentials = _potentials(run.structure, settings)
        builder: ProcessBuilder = VaspWorkChain.get_builder()
        builder.code = run.code
        builder.structure = run.structure
        builder.parameters = Dict({"incar": _incar(len(run.structure.sites), settings) | settings["incar"]})
        builder.potential_family = Str(settings["potential_family"])
        builder.potential_mapping = Dict(potentials)
        builder.kpoints_spacing = Float(settings["kpoints_distance"] / (2 * pi))
        if run.mesh_structure is not None:
            builder.kpoints = run.mesh  # goes before the spacing
        builder._update({"calc": {"metadata": {"options": run.job_options}}})
        if u := run.hubbard_u:
            shells = {kind.name: hubbard_shell(kind.symbol)[-1] for kind in kinds}
            builder.ldau_mapping = Dict({"mapping": {kind: [shells[kind], value] for kind, value in u.items()}})
        if settings["spin"]:
            starts = {kind.name: float(run.moments.get(kind.name, 0.0)) for kind in kinds}
            builder.magmom_mapping = Dict(starts | {"default": 0.0})
        return builder

    def labelled(self, run: "ProcessNode", structure_id: Str, call: Call = plain_call) -> StructureSetData:
        """See :meth:`Engine.labelled`."""
        check_outputs(run, "misc")
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

    def has_project_settings(self, scheme: "Scheme", symbols: Iterable[str]) -> bool:
        """See :meth:`Engine.has_project_settings`: functional, U, potentials by name, spin, and nothing coarser."""
        from pymatgen.core import Element
        from pymatgen.io.vasp.sets import MPRelaxSet

        elements = sorted(set(symbols), key=lambda symbol: Element(symbol).X)
        u = MPRelaxSet.CONFIG["INCAR"]["LDAUU"].get(elements[-1], {})
        potentials, cutoffs = scheme.get("pseudopotentials"), scheme.get("cutoffs")
        if not isinstance(potentials, Mapping) or not isinstance(cutoffs, Mapping):
            return False
        return (
            scheme["functional"] == "PBE"
            and scheme.get("spin") is True
            and is_converged(scheme)
            and scheme.get("hubbard_u") == {symbol: u[symbol] for symbol in elements if symbol in u}
            and cutoffs.get("wavefunctions", 0.0) >= MPRelaxSet.CONFIG["INCAR"]["ENCUT"]
            and float(str(scheme.get("kpoints_distance", "inf"))) <= _PROJECT_KPOINTS
            and all(
                str(potentials.get(symbol, "")).split(" ")[0] == MPRelaxSet.CONFIG["POTCAR"].get(symbol)
                for symbol in elements
            )
        )

    def basis(self, settings: VASPSettings) -> str:
        """See :meth:`Engine.basis`."""
        return plane_waves(settings["cutoff_wavefunctions"])


def _potentials(structure: StructureData, settings: VASPSettings) -> dict[str, str]:
    """Names of the kinds' potentials in the family."""
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
            available = ", ".join(sorted(PotcarData.get_full_names(family, element))) or "none"
            raise ValueError(
                f"the family {family!r} has no potential {name}; of {element} it has: {available}; name one as "
                f"potentials: {{{element}: ...}}"
            ) from error
    return {kind.name: names[kind.symbol] for kind in structure.kinds}


def _incar(n_atoms: int, settings: VASPSettings) -> Inputs:
    """VASP's tags, in lower case as aiida-vasp has them."""
    functional, smearing = settings["functional"], settings["smearing_method"]
    if functional not in FUNCTIONALS:
        raise ValueError(f"functional is {functional!r}; allowed with VASP: {', '.join(FUNCTIONALS)}")
    if smearing not in SMEARING:
        raise ValueError(f"smearing_method is {smearing!r}; allowed with VASP: {', '.join(SMEARING)}")
    tags = {
        "encut": settings["cutoff_wavefunctions"],
        "gga": FUNCTIONALS[functional],
        "ediff": settings["energy_tolerance"] * n_atoms,
        "nelm": settings["max_scf_steps"],
        "ismear": SMEARING[smearing],
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


@calcfunction
def labels_of_vasp(
    structure: StructureData,
    misc: Dict,
    parameters: Dict,
    kpoints_spacing: Float,
    structure_id: Str,
    **potentials: Data,
) -> StructureSetData:
    """Read energy, forces, stress and magnetic moments of the last step, and what made them.

    `structure` is the one that was given, or the relaxed one; `parameters` and `potentials` are tags and potentials (of
    each kind) of the run's last job; `kpoints_spacing` is in 1/Å, without the factor 2π. Without an energy among the
    outputs a ValueError is raised.
    """
    results, tags = misc.get_dict(), parameters.get_dict()
    if _ENERGY not in results.get("total_energies", {}):
        raise ValueError("the outputs of VASP hold no energy")
    functional = str(tags.get("gga", "")).lower()
    scheme = {
        "engine": "vasp",
        "engine_version": str(results["version"]).strip(),
        "functional": next((name for name, tag in FUNCTIONALS.items() if tag == functional), functional),
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
    sites = ((results.get("site_magnetization") or {}).get("sphere", {}).get("x") or {}).get("site_moment") or {}
    stress = results.get("stress")
    return labelled_set(
        structure,
        structure_id,
        scheme,
        float(results["total_energies"][_ENERGY]),
        forces=results.get("forces"),
        pressure=None if stress is None else np.array(stress, dtype=float) * _KBAR,
        magmoms=[sites[key]["tot"] for key in sorted(sites, key=int)] if sites else None,
    )


def _hubbard(structure: StructureData, tags: Inputs) -> dict[str, float]:
    """U in eV by element; VASP's tag lists it for each run of atoms of one kind."""
    if not tags.get("ldau"):
        return {}
    from aiida_vasp.parsers.content_parsers.potcar import MultiPotcarIo

    symbols = {kind.name: kind.symbol for kind in structure.kinds}
    listed = zip(MultiPotcarIo.potentials_order(structure), tags["ldauu"], strict=True)
    return {symbols[kind]: float(value) for kind, value in listed if value}
