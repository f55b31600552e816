"""Reading structures: CIF, POSCAR, extxyz, ASE databases, pymatgen JSON and objects, packed .npz, all as `ase.Atoms`.

The only place of the package that reads structure files.
"""

from cgcnn_ase.structures.inputs import (
    UniqueIds,
    WorkItem,
    as_atoms,
    collect_paths,
    count_structures,
    from_object,
    iter_piece,
    iter_pieces,
    read_structures,
    to_structure,
)
from cgcnn_ase.structures.readers import iter_file, read_file
from cgcnn_ase.structures.record import SUFFIXES, StructureError, StructureRecord, structure_id
from cgcnn_ase.structures.space_groups import DistinctSites, distinct_sites
from cgcnn_ase.structures.validation import OVERLAP, check_atoms

__all__ = [
    "OVERLAP",
    "SUFFIXES",
    "DistinctSites",
    "StructureError",
    "StructureRecord",
    "UniqueIds",
    "WorkItem",
    "as_atoms",
    "check_atoms",
    "collect_paths",
    "count_structures",
    "distinct_sites",
    "from_object",
    "iter_file",
    "iter_piece",
    "iter_pieces",
    "read_file",
    "read_structures",
    "structure_id",
    "to_structure",
]
