"""Meshes of k-points from the largest distance between neighbours."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiida.orm import KpointsData, StructureData


def mesh_of(structure: "StructureData", distance: float) -> "KpointsData":
    """The coarsest mesh around Γ whose neighbours are at most this far apart, not yet stored.

    Parameters
    ----------
    structure
        Its reciprocal cell is cut; one k-point along a direction that is not periodic.
    distance
        1/Å, with the factor 2π.

    Raises
    ------
    ValueError
        If the distance is not positive.
    """
    from aiida.orm import KpointsData

    if not distance > 0:
        raise ValueError(f"kpoints_distance is {distance}; it must be more than 0 (1/Å)")
    kpoints = KpointsData()
    kpoints.set_cell_from_structure(structure)
    kpoints.set_kpoints_mesh_from_density(distance)
    return kpoints
