"""Structures as DFT engines take them: kinds of atoms split where their initial magnetic moments differ."""

from typing import TYPE_CHECKING

from aiida.engine import calcfunction
from aiida.orm import Dict, List, StructureData

from aiida_plugin.data.structures import StructureSetData
from aiida_plugin.engines.references import reference_structure

if TYPE_CHECKING:
    from ase import Atoms

#: moments that are nearer than this are of one kind, μB
_SAME = 1e-3


@calcfunction
def structures_to_label(structure_set: StructureSetData, indices: List) -> dict[str, StructureData | Dict]:
    """Promote rows of a set, and say what moments their kinds start from.

    Parameters
    ----------
    structure_set
        The set.
    indices
        Rows or ids, each once.

    Returns
    -------
    dict
        From ``row_7`` to the structure of row 7, and ``moments``: by row and kind, μB; of rows that carry no initial
        moments nothing is said.

    Raises
    ------
    ValueError
        If no row is named, one is named twice, there is no such structure, or it has dummy atoms.
    """
    made: dict[str, StructureData | Dict] = {}
    moments: dict[str, dict[str, float]] = {}
    for row in structure_set.rows_of(indices):
        label = f"row_{row}"
        atoms = structure_set.atoms(row)
        if not atoms.numbers.all():
            raise ValueError(f"structure {structure_set.ids[row]!r} has dummy atoms (X); no engine takes them")
        made[label], kind_moments = _with_kinds(atoms)
        if kind_moments:
            moments[label] = kind_moments
    return {**made, "moments": Dict(moments)}


@calcfunction
def reference_structures(elements: List) -> dict[str, StructureData | Dict]:
    """The reference structure of each element as ``reference_Li``, ..., and their ``moments`` as above.

    Raises
    ------
    ValueError
        If an element has no simple one.
    """
    made: dict[str, StructureData | Dict] = {}
    moments = {}
    for element in elements:
        made[f"reference_{element}"], moments[f"reference_{element}"] = _with_kinds(reference_structure(element))
    return {**made, "moments": Dict({label: result for label, result in moments.items() if result})}


def _with_kinds(atoms: "Atoms") -> tuple[StructureData, dict[str, float]]:
    """AiiDA's node, and the moment of each kind; no moments where the structure carries none."""
    moments = atoms.get_initial_magnetic_moments()
    if moments.ndim != 1:
        raise ValueError("magnetic moments with a direction are not supported; give one number an atom")
    node = StructureData(cell=atoms.cell.array, pbc=atoms.pbc)
    carried = bool(moments.any())
    result: dict[str, list[float]] = {}
    for symbol, position, moment in zip(atoms.symbols, atoms.positions, moments.tolist(), strict=True):
        known = result.setdefault(symbol, [])
        k = next((k for k, other in enumerate(known) if abs(other - moment) < _SAME), len(known))
        if k == len(known):
            known.append(moment)
        node.append_atom(symbols=symbol, position=position, name=_kind(symbol, k))
    named = {_kind(symbol, k): moment for symbol, known in result.items() for k, moment in enumerate(known)}
    return node, named if carried else {}


def _kind(symbol: str, k: int) -> str:
    return symbol if k == 0 else f"{symbol}{k}"
