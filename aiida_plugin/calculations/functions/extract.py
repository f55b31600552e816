"""Structures as nodes of AiiDA's own kind, which every plugin takes: rows of a set, and the elements as they are found.

For DFT engines the kinds of atoms are split where their initial magnetic moments differ.
"""

from typing import TYPE_CHECKING

from aiida.engine import calcfunction
from aiida.orm import Dict, List, StructureData

from aiida_plugin.data.structures import StructureSetData
from aiida_plugin.engines.references import reference_error, reference_structure

if TYPE_CHECKING:
    from ase import Atoms

_SAME = 1e-3  # moments that are nearer than this are of one kind, μB


@calcfunction
def extract(structure_set: StructureSetData, indices: List) -> dict[str, StructureData]:
    """Promote some rows of a set to nodes that every AiiDA plugin takes.

    Magnetic moments, charges, info and results are lost there; see `StructureSetData.to_structure_data`.

    Parameters
    ----------
    structure_set
        The set.
    indices
        Rows or ids, each once.

    Returns
    -------
    dict
        From ``row_7`` to the structure of row 7; its label is the id.

    Raises
    ------
    ValueError
        If no row is named, one is named twice, or there is no such structure.
    """
    return {f"row_{row}": structure_set.to_structure_data(row) for row in structure_set.rows_of(indices)}


@calcfunction
def structures_to_label(structure_set: StructureSetData, indices: List) -> dict[str, StructureData | Dict]:
    """Promote rows of a set, and say what moments their kinds start from.

    Parameters and errors as of `extract`; structures with dummy atoms are refused, too.

    Returns
    -------
    dict
        From ``row_7`` to the structure of row 7, and ``moments``: by row and kind, μB; of rows that carry no initial
        moments nothing is said.
    """
    rows = structure_set.rows_of(indices)
    for row in rows:
        if not structure_set.atoms(row).numbers.all():
            raise ValueError(f"structure {structure_set.ids[row]!r} has dummy atoms (X); no engine takes them")
    return _with_moments({f"row_{row}": structure_set.atoms(row) for row in rows})


@calcfunction
def elements_to_label(structure_set: StructureSetData, indices: List, known: Dict | None = None) -> List:
    """List the elements of some structures that have a simple reference structure, in alphabetical order.

    Parameters
    ----------
    structure_set, indices
        As of `extract`.
    known
        ``energies`` by element, of an earlier run: these elements are left out.
    """
    energies = {} if known is None else known["energies"]
    symbols = {symbol for row in structure_set.rows_of(indices) for symbol in structure_set.atoms(row).symbols}
    return List([symbol for symbol in sorted(symbols - set(energies)) if reference_error(symbol) is None])


@calcfunction
def reference_structures(elements: List) -> dict[str, StructureData | Dict]:
    """Make the reference structure of each element as ``reference_Li``, ..., and their ``moments`` as above.

    Raises
    ------
    ValueError
        If an element has no simple one.
    """
    return _with_moments({f"reference_{element}": reference_structure(element) for element in elements})


def _with_moments(structures: "dict[str, Atoms]") -> dict[str, StructureData | Dict]:
    nodes, moments = {}, {}
    for label, atoms in structures.items():
        nodes[label], of_kinds = structure_with_kinds(atoms)
        if of_kinds:
            moments[label] = of_kinds
    return {**nodes, "moments": Dict(moments)}


def structure_with_kinds(atoms: "Atoms") -> tuple[StructureData, dict[str, float]]:
    """AiiDA's node, not stored, and the moment (μB) of each kind; no moments where the structure carries none."""
    moments = atoms.get_initial_magnetic_moments()
    if moments.ndim != 1:
        raise ValueError("magnetic moments with a direction are not supported; give one number an atom")
    node = StructureData(cell=atoms.cell.array, pbc=atoms.pbc)
    by_symbol: dict[str, list[float]] = {}
    for symbol, position, moment in zip(atoms.symbols, atoms.positions, moments.tolist(), strict=True):
        known = by_symbol.setdefault(symbol, [])
        k = next((k for k, other in enumerate(known) if abs(other - moment) < _SAME), len(known))
        if k == len(known):
            known.append(moment)
        node.append_atom(symbols=symbol, position=position, name=_kind(symbol, k))
    if not moments.any():
        return node, {}
    return node, {_kind(symbol, k): moment for symbol, known in by_symbol.items() for k, moment in enumerate(known)}


def _kind(symbol: str, k: int) -> str:
    return symbol if k == 0 else f"{symbol}{k}"
