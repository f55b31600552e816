"""Labels: structures to label as nodes of AiiDA's own kind, the elements as they are found, and the labels joined.

Every plugin takes AiiDA's own nodes; for DFT engines the kinds of atoms are split where their initial magnetic moments
differ. The elements' energies turn total energies into formation energies, where they are known.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from aiida.engine import calcfunction
from aiida.orm import Dict, List, StructureData

from aiida_plugin.data.labels import CONVERGED, SCHEME, merge_schemes, only_scheme, scheme_id, scheme_of
from aiida_plugin.data.structures import StructureSetData

if TYPE_CHECKING:
    from ase import Atoms

_FERROMAGNETS = {"Fe": 2.2, "Co": 1.6, "Ni": 0.6}  # moments of the ferromagnets, μB an atom
_CHROMIUM = 0.6  # of chromium, antiferromagnetic in the bcc cell of two atoms
#: Manganese: the face-centred tetragonal, antiferromagnetic γ phase (a = 3.78 Å, c/a = 0.945, two atoms in the
#: body-centred cell), not the α phase of 58 atoms, which is lower by less than 0.1 eV an atom.
_MANGANESE = (3.78, 0.945, 2.3)
_TRIPLET = {"O": 1.0}  # unpaired electrons of a molecule, on each of its two atoms
_BOX = 8.0  # side of a molecule's box, Å


def reference_structure(element: str) -> "Atoms":
    """The structure of an element at its published lattice constants (of `ase.data.reference_states`).

    Metals and semiconductors as crystals, with the moments they have; O2 and the other gases as a molecule in a box
    that is not periodic. An element whose structure is none of the simple ones is a ValueError.
    """
    from ase import Atoms
    from ase.build import bulk
    from ase.data import atomic_numbers, reference_states

    if element not in atomic_numbers or element == "X":
        raise ValueError(f"{element!r} is no element")
    if element == "Mn":
        return _manganese()
    if element == "Cr":
        atoms = bulk("Cr", cubic=True)
        atoms.set_initial_magnetic_moments([_CHROMIUM, -_CHROMIUM])
        return atoms
    state = reference_states[atomic_numbers[element]]
    if state is not None and state["symmetry"] == "diatom":
        # off the centre, so that no symmetry is there that the spins would have to break
        atoms = Atoms(2 * element, positions=[(0, 0, 0), (0, 0, state["d"])], cell=3 * [_BOX], pbc=False)
        atoms.center()
        atoms.set_initial_magnetic_moments(2 * [_TRIPLET.get(element, 0.0)])
        return atoms
    try:
        atoms = bulk(element)
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise ValueError(
            f"no simple reference structure of {element} is known ({error}); give reference_energies instead"
        ) from error
    atoms.set_initial_magnetic_moments(len(atoms) * [_FERROMAGNETS.get(element, 0.0)])
    return atoms


def reference_error(element: str) -> str | None:
    """Find why an element has no reference structure; None if it has one."""
    try:
        reference_structure(element)
    except ValueError as error:
        return str(error)
    return None


def _manganese() -> "Atoms":
    from ase import Atoms

    a, ratio, moment = _MANGANESE
    side = a / 2**0.5
    atoms = Atoms("Mn2", scaled_positions=[(0, 0, 0), (0.5, 0.5, 0.5)], cell=(side, side, a * ratio), pbc=True)
    atoms.set_initial_magnetic_moments([moment, -moment])
    return atoms


_SAME_MOMENT = 1e-3  # moments that are nearer than this are of one kind, μB


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
        k = next((k for k, other in enumerate(known) if abs(other - moment) < _SAME_MOMENT), len(known))
        if k == len(known):
            known.append(moment)
        node.append_atom(symbols=symbol, position=position, name=_kind(symbol, k))
    if not moments.any():
        return node, {}
    return node, {_kind(symbol, k): moment for symbol, known in by_symbol.items() for k, moment in enumerate(known)}


def _kind(symbol: str, k: int) -> str:
    return symbol if k == 0 else f"{symbol}{k}"


_SAME_POSITION = 1e-3  # two positions that are one, Å
FORMATION_ENERGY = "formation_energy_per_atom"  # where a structure carries its formation energy, eV/atom


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
        np.abs(one - other).max() <= _SAME_POSITION
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
