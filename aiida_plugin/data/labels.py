"""The labels of a set of structures: which number of each is learned, and which have none."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from aiida_plugin.data.structures import StructureSetData

if TYPE_CHECKING:
    from ase import Atoms

#: the total energy divided by the number of atoms, eV/atom; the only label that is computed here
ENERGY_PER_ATOM = "energy_per_atom"
#: units of the labels that this package writes
LABEL_UNITS = {ENERGY_PER_ATOM: "eV/atom", "formation_energy_per_atom": "eV/atom"}
#: ids that a message names
NAMED = 5


def label_of(atoms: "Atoms", target: str) -> float | None:
    """The label of one structure: ``energy_per_atom``, a key of its info, or else one of its results.

    None where it has none.

    Raises
    ------
    ValueError
        If it is there and is no finite number.
    """
    results = {} if atoms.calc is None else atoms.calc.results
    if target == ENERGY_PER_ATOM and target not in atoms.info:
        value = results["energy"] / len(atoms) if "energy" in results else None
    else:
        value = atoms.info.get(target, results.get(target))
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"its {target} is a {type(value).__name__}, not a number") from None
    if not math.isfinite(number):
        raise ValueError(f"its {target} is {number}; allowed are finite numbers")
    return number


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
