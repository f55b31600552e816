"""The labels of a set of structures: which number of each is learned, and which have none."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from aiida_plugin.data.structures import StructureSetData
from cgcnn_ase.structures.labels import ENERGY_PER_ATOM, label_of

if TYPE_CHECKING:
    from ase import Atoms

#: units of the labels that this package writes
LABEL_UNITS = {ENERGY_PER_ATOM: "eV/atom", "formation_energy_per_atom": "eV/atom"}
#: ids that a message names
NAMED = 5


def named_label(atoms: "Atoms", target: str, what: str) -> float | None:
    """As `label_of`, with the name of the structure in the error."""
    try:
        return label_of(atoms, target)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error


def labels_of(structures: StructureSetData, target: str) -> Iterator[float | None]:
    """The label of each structure in order, None where it has none; raises as `label_of`, naming the structure."""
    for name, atoms in zip(structures.ids, structures.iter_atoms(), strict=True):
        yield named_label(atoms, target, f"structure {name!r}")


def listed(names: list[str]) -> str:
    """The first few names."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
