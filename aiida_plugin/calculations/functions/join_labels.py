"""Labels of single structures joined into one set, with formation energies where the elements' energies are known."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from aiida.engine import calcfunction
from aiida.orm import Dict

from aiida_plugin.data.labels import CONVERGED, SCHEME, merge_schemes, only_scheme, scheme_id, scheme_of
from aiida_plugin.data.structures import StructureSetData

if TYPE_CHECKING:
    from ase import Atoms

FORMATION_ENERGY = "formation_energy_per_atom"  # where a structure carries its formation energy, eV/atom
_SAME = 1e-3  # two positions that are one, Å


@calcfunction
def merge_labelled(**sets: StructureSetData) -> StructureSetData:
    """Merge the structures of labelled sets, in the order of the names that the sets are given.

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


@calcfunction
def join_labels(
    structure_set: StructureSetData,
    reference_energies: Dict | None = None,
    settings: Dict | None = None,
    **labels: StructureSetData,
) -> StructureSetData:
    """Join labels into one set, in the order of the original and under its ids, with its info, tags and arrays.

    Parameters
    ----------
    structure_set
        The structures that were to be labelled.
    reference_energies
        ``energies`` (eV/atom by element) and ``scheme`` of the labels of the elements.
    settings
        Of the runs; where they are not ``converged`` each label's scheme says so.
    labels
        From ``row_7`` to the label of row 7, a set of one structure.

    Raises
    ------
    ValueError
        If the labels are of different kinds, or one is of another structure than its row.
    """
    references = None if reference_energies is None else reference_energies.get_dict()
    only_scheme([labelled.atoms(0) for labelled in labels.values()])
    if references is not None:
        merge_schemes([references["scheme"], *(scheme_of(labelled.atoms(0)) for labelled in labels.values())])
    rows = sorted(int(label.removeprefix("row_")) for label in labels)
    joined = [
        _joined(structure_set.atoms(row), labels[f"row_{row}"].atoms(0), references, structure_set.ids[row])
        for row in rows
    ]
    for atoms in joined:
        if SCHEME in atoms.info:
            atoms.info[SCHEME] |= _convergence(settings)
    return StructureSetData.from_ase(joined, [structure_set.ids[row] for row in rows])


@calcfunction
def label_failures(ended: Dict) -> Dict:
    """Report which structures have no label: ``n``, ``n_failed``, ``failed`` and ``references_failed``.

    Parameters
    ----------
    ended
        How the engine's processes ended: ``n``, how many structures were to be labelled, and ``failed``: by id
        ``exit_status`` and ``message``; the same of the elements as ``references_failed``.
    """
    return Dict({**ended.get_dict(), "n_failed": len(ended["failed"])})


@calcfunction
def join_references(known: Dict | None = None, settings: Dict | None = None, **labels: StructureSetData) -> Dict:
    """Join the energies of the elements: ``energies`` (eV/atom by element), their ``scheme`` and its ``scheme_id``.

    Parameters
    ----------
    known
        Energies of other elements, of an earlier run.
    settings
        Of the runs; where they are not ``converged`` the scheme says so.
    labels
        From ``reference_Li`` to the label of lithium, a set of one structure of one element.

    Raises
    ------
    ValueError
        If the labels are of different kinds.
    """
    energies: dict[str, float] = {} if known is None else dict(known["energies"])
    for label, labelled in sorted(labels.items()):
        atoms = labelled.atoms(0)
        energies[label.removeprefix("reference_")] = atoms.get_potential_energy() / len(atoms)
    scheme = only_scheme([labelled.atoms(0) for labelled in labels.values()])
    if scheme is not None and known is not None:
        scheme = merge_schemes([known["scheme"], scheme])
    if scheme is None:
        raise ValueError("the labels of the elements do not say what made them")
    scheme |= _convergence(settings)
    return Dict({"energies": energies, "scheme": scheme, "scheme_id": scheme_id(scheme)})


def _convergence(settings: Dict | None) -> dict[str, object]:
    """The mark of labels whose energies are not converged."""
    return {CONVERGED: False} if settings is not None and settings.get_dict().get(CONVERGED) is False else {}


def formation_energy(atoms: "Atoms", energies: Mapping[str, float]) -> float | None:
    """Return the energy above the elements, eV/atom; None if that of an element is not known."""
    symbols = list(atoms.symbols)
    if not set(symbols) <= set(energies):
        return None
    return float((atoms.get_potential_energy() - sum(energies[symbol] for symbol in symbols)) / len(symbols))


def _joined(original: "Atoms", labelled: "Atoms", references: "Mapping[str, Any] | None", name: str) -> "Atoms":
    """Give the original structure, where the engine left it, its labels."""
    from ase.calculators.singlepoint import SinglePointCalculator

    if not np.array_equal(original.numbers, labelled.numbers):
        raise ValueError(f"the label of {name!r} is of {labelled.symbols!s}, the structure of {original.symbols!s}")
    scheme = scheme_of(labelled)
    if (scheme or {}).get("relaxed"):
        original.positions[:] = labelled.positions
        original.cell[:] = labelled.cell.array
    elif not all(
        np.abs(one - other).max() <= _SAME
        for one, other in ((original.positions, labelled.positions), (original.cell.array, labelled.cell.array))
    ):
        raise ValueError(f"the label of {name!r} is of other positions or another cell than the structure")
    calculator = SinglePointCalculator(original)
    calculator.results.update(labelled.calc.results)
    calculator.name = labelled.calc.name
    original.calc = calculator
    for key in (FORMATION_ENERGY, SCHEME):
        original.info.pop(key, None)
    if scheme is not None:
        original.info[SCHEME] = scheme
    energy = None if references is None else formation_energy(original, references["energies"])
    if energy is not None:
        original.info[FORMATION_ENERGY] = energy
    return original
