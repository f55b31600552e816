"""Labelled sets of several rounds as one."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from aiida.engine import calcfunction

from aiida_plugin.data.label_scheme import merge_schemes, scheme_of
from aiida_plugin.data.structures import StructureSetData

if TYPE_CHECKING:
    from ase import Atoms


@calcfunction
def merge_labelled(**sets: StructureSetData) -> StructureSetData:
    """All structures of labelled sets, in the order of the names that the sets are given.

    Raises
    ------
    ValueError
        If two structures have the same id, or labels are of different kinds; the message says in what.
    """
    parts = [sets[name] for name in sorted(sets)]
    merge_schemes(scheme_of(atoms) for atoms in _atoms(parts))
    return StructureSetData.from_ase(_atoms(parts), [name for part in parts for name in part.ids])


def _atoms(parts: list[StructureSetData]) -> "Iterator[Atoms]":
    return (atoms for part in parts for atoms in part.iter_atoms())
