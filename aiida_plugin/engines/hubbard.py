"""The Hubbard U: the electrons it acts on, and structures that carry it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aiida.engine import calcfunction
from aiida.orm import Dict, StructureData

if TYPE_CHECKING:
    from aiida_quantumespresso.data.hubbard_structure import HubbardStructureData


def shell(element: str) -> str:
    """The shell of an element that U acts on: the open d or f shell (``3d``, ``4f``), else the valence p or s shell.

    Raises
    ------
    ValueError
        If there is no such element.
    """
    from pymatgen.core import Element

    if not Element.is_valid_symbol(element):
        raise ValueError(f"hubbard_u names {element!r}, which is no element")
    result = Element(element)
    return f"{result.row - {'d': 1, 'f': 2}.get(result.block, 0)}{result.block}"


def values(structure: "StructureData", settings: Mapping[str, Any]) -> dict[str, float]:
    """U in eV by kind name, for the elements that have one; empty where the settings want none."""
    if not settings["hubbard"]:
        return {}
    u_values = {kind.name: float(settings["hubbard_u"].get(kind.symbol, 0.0)) for kind in structure.kinds}
    return {name: value for name, value in u_values.items() if value}


@calcfunction
def with_hubbard(structure: StructureData, hubbard: Dict) -> "HubbardStructureData":
    """The structure with U on its kinds.

    Parameters
    ----------
    structure
        It keeps its kinds and their names.
    hubbard
        ``values`` (eV by kind name), ``shells`` (``3d``, ... by kind name), ``projectors`` (``ortho-atomic``, ...).
    """
    from aiida_quantumespresso.common.hubbard import Hubbard
    from aiida_quantumespresso.data.hubbard_structure import HubbardStructureData

    wanted = hubbard.get_dict()
    made = HubbardStructureData.from_structure(structure, Hubbard(parameters=[], projectors=wanted["projectors"]))
    for kind, value in sorted(wanted["values"].items()):
        made.initialize_onsites_hubbard(kind, wanted["shells"][kind], value, "U", use_kinds=True)
    return made
