"""The elements as they are found, whose energies turn total energies into formation energies."""

from typing import TYPE_CHECKING

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
