"""Rows of a structure set as AiiDA's own structure nodes, with the link back to the set."""

from aiida.engine import calcfunction
from aiida.orm import List, StructureData

from aiida_plugin.data.structures import StructureSetData


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
