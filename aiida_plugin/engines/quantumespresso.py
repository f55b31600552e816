"""Quantum ESPRESSO's pw.x through aiida-quantumespresso: `PwBaseWorkChain`, and `PwRelaxWorkChain` for relaxations."""

import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from aiida.engine import calcfunction
from aiida.orm import (
    AbstractCode,
    ArrayData,
    Bool,
    CalcJobNode,
    Data,
    Dict,
    Float,
    FolderData,
    InstalledCode,
    Str,
    StructureData,
)
from ase.units import Bohr, GPa, Hartree, Ry

from aiida_plugin.data.structures import StructureSetData
from aiida_plugin.engines.base import (
    ONE_THREAD,
    Call,
    CodeSpec,
    CommonSettings,
    Engine,
    Inputs,
    Run,
    hubbard_shell,
    is_gamma,
    on_path,
    plain_call,
    plane_waves,
    retrieved_text,
)
from aiida_plugin.engines.checks import Part
from aiida_plugin.engines.labels import check_outputs, labelled_set
from aiida_plugin.engines.pseudopotentials import check_hubbard, cutoffs_of, family_label, family_part, pseudos_of

if TYPE_CHECKING:
    from aiida.engine import ProcessBuilder
    from aiida.orm import ProcessNode
    from aiida_pseudo.data.pseudo import UpfData

_SMALL_MOMENT = 1e-3  # lets a moment appear, as a fraction of the valence electrons: pw.x asks for one above zero
_ROUNDING = 1e-6  # of the ratio of two cutoffs
_SAME_U = 1e-4  # eV; smaller differences of U are rounding
_ERROR = re.compile(r"^ *%{20,} *\n(.*?\S.*?)\n *%{20,}", re.M | re.S)
_VERSION = re.compile(r"\bPWSCF v\.(\d+)\.(\d+)")
_CARD_SINCE = (7, 1)  # versions that read U from the card HUBBARD, and refuse it in the namelist
_PATIENCE = 20  # seconds for pw.x to tell its version; it takes a tenth of one
_XML = "data-file-schema.xml"  # pw.x's record of a run
_FUNCTIONALS = {"SLA PW PBX PBC": "PBE", "SLA PW PBE PBE": "PBE"}  # its names of functionals and ours


class QuantumEspressoSettings(CommonSettings):
    """Settings that ``quantumespresso.yaml`` adds."""

    pseudo_family: str | None
    cutoff_wavefunctions: float | None
    cutoff_density: float | None
    hubbard_input: str | None
    hubbard_projectors: str
    smearing_method: str
    mixing_beta: float
    parameters: dict[str, Any]


class QuantumEspressoEngine(Engine[QuantumEspressoSettings]):
    """Quantum ESPRESSO with pseudopotentials of a family of aiida-pseudo.

    The energy is that of the electrons at the smearing's temperature (pw.x's "total energy", the free energy); with
    cold smearing it is within third order of that at 0 K.
    """

    name = "quantumespresso"
    title = "Quantum ESPRESSO"
    code_plugin = "quantumespresso.pw"

    def builder(self, run: Run[QuantumEspressoSettings]) -> "ProcessBuilder":
        """See :meth:`Engine.builder`.

        A Hubbard U goes into the namelist (pw.x before 7.1), or as a card that a structure of aiida-quantumespresso
        carries; that is made of the given one by a calcfunction.
        """
        from aiida_quantumespresso.workflows.pw.base import PwBaseWorkChain
        from aiida_quantumespresso.workflows.pw.relax import PwRelaxWorkChain

        settings, structure, u = run.settings, run.structure, run.hubbard_u
        pseudos, parameters = _checked(run)
        gamma_only = is_gamma(run.mesh) and not u  # half the work; pw.x has no orthogonalised projectors for a U there
        special = {"gamma_only": True} if gamma_only else {}
        if run.is_in_container:  # a restart there copies what it goes on from
            special["parent_folder_symlink"] = False
        if u and _hubbard_input(run) == "card":
            shells = {kind.name: hubbard_shell(kind.symbol) for kind in structure.kinds if kind.name in u}
            card = {"projectors": settings["hubbard_projectors"], "values": u, "shells": shells}
            structure = with_hubbard(structure, Dict(card))
        job = {
            "code": run.code,
            "pseudos": pseudos,
            "parameters": Dict(parameters),
            "metadata": {"options": run.job_options},
            **({"settings": Dict(special)} if special else {}),
        }
        base: Inputs = {"pw": job, "kpoints_distance": Float(settings["kpoints_distance"])}
        if run.mesh_structure is not None:
            base["kpoints"] = run.mesh  # goes before the distance
        chain = PwRelaxWorkChain if settings["relax"] else PwBaseWorkChain
        builder: ProcessBuilder = chain.get_builder()
        if settings["relax"]:
            builder._update({"structure": structure, "base_relax": base, "meta_convergence": Bool(False)})
        else:
            builder._update(base | {"pw": job | {"structure": structure}})
        return builder

    def conflict(self, run: Run[QuantumEspressoSettings]) -> str | None:
        """See :meth:`Engine.conflict`; to build a run may store a structure with its Hubbard U."""
        try:
            _ = run.mesh
            _checked(run)
        except ValueError as error:
            return str(error)
        return None

    def pseudopotentials(self, run: Run[QuantumEspressoSettings]) -> dict[str, str]:
        """See :meth:`Engine.pseudopotentials`."""
        pseudos, _ = _checked(run)
        return {pseudo.element: str(pseudo.filename) for pseudo in pseudos.values()}

    def labelled(self, run: "ProcessNode", structure_id: Str, call: Call = plain_call) -> StructureSetData:
        """See :meth:`Engine.labelled`."""
        check_outputs(run, "output_parameters", "output_trajectory")
        base = run.inputs.base_relax if "base_relax" in run.inputs else run.inputs
        structure = run.inputs.structure if "base_relax" in run.inputs else base.pw.structure
        labels: StructureSetData = call(
            labels_of_quantumespresso,
            structure=run.outputs.output_structure if "output_structure" in run.outputs else structure,
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

    def error_message(self, job: CalcJobNode) -> str | None:
        """See :meth:`Engine.error_message`; pw.x writes it between two lines of per cent signs."""
        names = (job.get_option("output_filename") or "aiida.out", "CRASH")
        blocks = [block for name in names for block in _ERROR.findall(retrieved_text(job, name))]
        return " ".join(blocks[0].split()) if blocks else super().error_message(job)

    def setup_code(self) -> CodeSpec:
        """See :meth:`Engine.setup_code`."""
        return CodeSpec(
            "pw",
            self.code_plugin,
            on_path("pw.x"),
            "Quantum ESPRESSO's pw.x, one process",
            needs="aiida_quantumespresso",
            install="sudo apt-get install quantum-espresso",
            prepend=ONE_THREAD,
        )

    def setup_parts(self) -> Iterator[Part]:
        """Yield the pseudopotentials."""
        yield family_part()

    def basis(self, settings: QuantumEspressoSettings) -> str:
        """See :meth:`Engine.basis`."""
        return plane_waves(settings["cutoff_wavefunctions"])


def _checked(run: Run[QuantumEspressoSettings]) -> "tuple[dict[str, UpfData], dict[str, Inputs]]":
    """Pseudopotentials by kind, and namelists, after the checks of all that may not go together."""
    settings = run.settings
    pseudos = pseudos_of(run.structure, family_label(settings["pseudo_family"]), settings["functional"])
    z_valences = {kind: float(pseudo.z_valence) for kind, pseudo in pseudos.items()}
    parameters = _merge_namelists(_parameters(run, _cutoffs(run), z_valences), settings["parameters"])
    check_hubbard(pseudos, run.hubbard_u)
    return pseudos, parameters


def _cutoffs(run: Run[QuantumEspressoSettings]) -> tuple[float, float]:
    """Cutoffs of the wave functions and of the density, eV."""
    wavefunctions, density = run.settings["cutoff_wavefunctions"], run.settings["cutoff_density"]
    if wavefunctions is not None and density is not None:
        if not 0 < 4 * wavefunctions <= density * (1 + _ROUNDING):
            raise ValueError(
                f"cutoff_density is {density:g} eV and cutoff_wavefunctions {wavefunctions:g} eV; the density needs at "
                "least four times the cutoff of the wave functions"
            )
        return float(wavefunctions), float(density)
    if wavefunctions is not None or density is not None:
        raise ValueError("of cutoff_wavefunctions and cutoff_density only one is set; set both (eV) or none")
    return cutoffs_of(run.structure, family_label(run.settings["pseudo_family"]))


def _parameters(
    run: Run[QuantumEspressoSettings], cutoffs: tuple[float, float], z_valences: Mapping[str, float]
) -> dict[str, Inputs]:
    """Namelists of pw.x."""
    settings, u, n_atoms = run.settings, run.hubbard_u, len(run.structure.sites)
    tolerance = settings["energy_tolerance"] / Ry
    control: Inputs = {"calculation": "scf", "tprnfor": True, "tstress": True}
    system: Inputs = {
        "ecutwfc": cutoffs[0] / Ry,
        "ecutrho": cutoffs[1] / Ry,
        "occupations": "smearing",
        "smearing": settings["smearing_method"],
        "degauss": settings["smearing"] / Ry,
    }
    electrons: Inputs = {
        "conv_thr": tolerance * n_atoms,
        "electron_maxstep": settings["max_scf_steps"],
        "mixing_beta": settings["mixing_beta"],
    }
    if settings["spin"]:
        start = {kind: run.moments.get(kind, 0.0) / z_valences[kind] for kind in z_valences}
        if not any(start.values()):  # where there is no moment it goes away
            start = dict.fromkeys(start, _SMALL_MOMENT)
        system |= {"nspin": 2, "starting_magnetization": start}
    if _hubbard_input(run) == "namelist" and u:
        system |= {"lda_plus_u": True, "u_projection_type": settings["hubbard_projectors"], "hubbard_u": u}
    if settings["relax"]:
        control |= {
            "calculation": "relax",
            "nstep": settings["max_relax_steps"],
            "forc_conv_thr": settings["fmax"] / (Ry / Bohr),
            "etot_conv_thr": 10 * tolerance * n_atoms,
        }
    return {"CONTROL": control, "SYSTEM": system, "ELECTRONS": electrons}


def _hubbard_input(run: Run[QuantumEspressoSettings]) -> str:
    """``card`` or ``namelist``, whichever the settings ask for or pw.x reads; refuses what it is known not to read."""
    asked = run.settings["hubbard_input"]
    if asked not in (None, "card", "namelist"):
        raise ValueError(
            f"hubbard_input is {asked!r}; allowed: card (pw.x from 7.1 on), namelist (older ones), null (by version)"
        )
    version = _version_of(run.code) if run.hubbard_u else None
    if version is None:  # on another computer: as today's versions have it
        return asked or "card"
    reads = "card" if version >= _CARD_SINCE else "namelist"
    if asked not in (None, reads):
        raise ValueError(
            f"hubbard_input is {asked!r}, and pw.x {version[0]}.{version[1]} reads a Hubbard U from the {reads}; set "
            f"hubbard_input: {reads}, or null"
        )
    return reads


def _version_of(code: AbstractCode) -> tuple[int, int] | None:
    """Return the version of a pw.x on this machine as it tells it; None elsewhere, and where it does not start."""
    if not isinstance(code, InstalledCode) or code.computer.transport_type != "core.local":
        return None
    path = Path(code.filepath_executable)
    return _ask_version(path, path.stat().st_mtime) if path.is_file() else None


@lru_cache(maxsize=8)
def _ask_version(path: Path, _changed: float) -> tuple[int, int] | None:
    """Start it without an input: it tells its version, and stops."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run([path], cwd=folder, input=b"", capture_output=True, timeout=_PATIENCE, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
    match = _VERSION.search(done.stdout.decode(errors="replace"))
    return (int(match[1]), int(match[2])) if match else None


def _merge_namelists(parameters: dict[str, Inputs], overrides: Mapping[str, Any]) -> dict[str, Inputs]:
    """Put the user's own namelists over those made of the settings."""
    for name, block in overrides.items():
        if not isinstance(block, Mapping):
            raise ValueError(f"parameters holds namelists, such as {{SYSTEM: {{nbnd: 40}}}}; {name} is {block!r}")
        parameters.setdefault(name.upper(), {}).update({key.lower(): value for key, value in block.items()})
    return parameters


@calcfunction
def with_hubbard(structure: StructureData, hubbard: Dict) -> StructureData:
    """Put U on the kinds of a structure, which becomes a `HubbardStructureData` with the same kinds.

    `hubbard` holds ``values`` (eV by kind name), ``shells`` (``3d``, ... by kind name), ``projectors``
    (``ortho-atomic``, ...).
    """
    from aiida_quantumespresso.common.hubbard import Hubbard
    from aiida_quantumespresso.data.hubbard_structure import HubbardStructureData

    empty = Hubbard(parameters=[], projectors=hubbard["projectors"])
    result: StructureData = HubbardStructureData.from_structure(structure, empty)
    for kind, value in sorted(hubbard["values"].items()):
        result.initialize_onsites_hubbard(kind, hubbard["shells"][kind], value, "U", use_kinds=True)
    return result


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
    **pseudos: Data,
) -> StructureSetData:
    """Read energy, forces, stress and magnetic moments of the last step, and what made them.

    `structure` is the one that was given, or the relaxed one; the inputs of the run are its structure with the Hubbard
    U (a relaxed one comes back without it), namelists, `kpoints_distance` (1/Å) and the pseudopotential of each kind. A
    ValueError is raised if there is no energy among the outputs, or pw.x left a Hubbard U out that it was given.
    """
    outputs, namelists = output_parameters.get_dict(), parameters.get_dict()
    if "energy" not in outputs:
        raise ValueError("the outputs of pw.x hold no energy")
    u = _given_hubbard(input_structure, namelists)
    if u:
        with retrieved.base.repository.open(_XML, "rb") as stream:
            _check_used(u, ElementTree.parse(stream).getroot())
    symbols = {kind.name: kind.symbol for kind in structure.kinds}
    functional = str(outputs["dft_exchange_correlation"])
    scheme = {
        "engine": "quantumespresso",
        "engine_version": str(outputs["creator_version"]),
        "functional": _FUNCTIONALS.get(" ".join(functional.split()), functional),
        "hubbard_u": {symbols[kind]: value for kind, value in u.items()},
        "pseudopotentials": {each.element: f"{each.filename} md5:{each.md5}" for each in pseudos.values()},
        "cutoffs": {"wavefunctions": round(outputs["wfc_cutoff"], 3), "density": round(outputs["rho_cutoff"], 3)},
        "kpoints_distance": kpoints_distance.value,
        "smearing": [namelists["SYSTEM"]["smearing"], round(outputs["degauss"], 6)],
        "spin": bool(outputs["lsda"]),
        "relaxed": namelists["CONTROL"]["calculation"] == "relax",
    }
    names = {"forces", "stress", "atomic_magnetic_moments"} & set(output_trajectory.get_arraynames())
    last = {name: output_trajectory.get_array(name)[-1] for name in names}
    return labelled_set(
        structure,
        structure_id,
        scheme,
        float(outputs["energy"]),
        forces=last.get("forces"),
        pressure=last["stress"] * GPa if "stress" in last else None,
        magmoms=last.get("atomic_magnetic_moments"),
        is_free_energy=True,
    )


def _given_hubbard(structure: StructureData, namelists: Inputs) -> dict[str, float]:
    """U in eV by kind name, as the run was given it: in the namelist, or with the structure for the card."""
    card = getattr(structure, "hubbard", None)
    if card is not None and card.parameters:
        return {structure.sites[each.atom_index].kind_name: each.value for each in card.parameters}
    return dict(namelists["SYSTEM"].get("hubbard_u", {}))


def _check_used(u: Mapping[str, float], root: ElementTree.Element) -> None:
    """Refuse a run that did not use the U that it was given; older versions leave out a card that they do not know.

    The record of pw.x is in rydberg, hartree or eV, depending on the version.
    """
    used = {each.get("specie"): float(each.text or 0) for each in root.iterfind("./output/dft/dftU/Hubbard_U")}
    for kind, value in u.items():
        if not any(abs(used.get(kind, 0.0) * unit - value) < _SAME_U for unit in (Ry, Hartree, 1.0)):
            raise ValueError(
                f"pw.x left out the Hubbard U of {kind} that it was given, as versions before 7.1 do with the card; "
                "set hubbard_input: namelist"
            )
