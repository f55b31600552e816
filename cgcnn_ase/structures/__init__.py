"""Reading structures: CIF, POSCAR, extxyz, ASE databases, pymatgen JSON and objects, packed .npz, all as `ase.Atoms`.

The only place of the package that reads structure files.
"""

from .check import OVERLAP, check_atoms
from .cif import read_cif_gemmi
from .collect import UsedNames, collect_paths, from_object, read_structures
from .files import SUFFIXES, iter_file, read_file, structure_id
from .pieces import Piece, count_structures, iter_piece, iter_pieces
from .pymatgen_objects import read_cif_pymatgen
from .record import StructureError, StructureRecord
from .symmetry import DistinctSites, distinct_sites

__all__ = [
    "OVERLAP",
    "SUFFIXES",
    "DistinctSites",
    "Piece",
    "StructureError",
    "StructureRecord",
    "UsedNames",
    "check_atoms",
    "collect_paths",
    "count_structures",
    "distinct_sites",
    "from_object",
    "iter_file",
    "iter_piece",
    "iter_pieces",
    "read_cif_gemmi",
    "read_cif_pymatgen",
    "read_file",
    "read_structures",
    "structure_id",
]
