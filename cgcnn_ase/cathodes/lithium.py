"""Which lithium leaves: at random, or where the electrostatic energy is lowest."""

from collections import Counter

import numpy as np
import numpy.typing as npt
from ase import Atoms

from cgcnn_ase.cathodes.composition import oxidation_states
from cgcnn_ase.cathodes.lattices import LITHIUM
from cgcnn_ase.core.arrays import Floats

Integers = npt.NDArray[np.intp]

#: descents by exchange, each from another random choice
_STARTS = 20


def random_removal(atoms: Atoms, n_removed: int, rng: np.random.Generator) -> Atoms:
    """Without so many of its Li (tag 1), chosen at random."""
    lithium = np.flatnonzero(atoms.get_tags() == LITHIUM)
    return without(atoms, rng.choice(lithium, n_removed, replace=False))


def ewald_removal(atoms: Atoms, n_removed: int, rng: np.random.Generator) -> Atoms:
    """Without so many of its Li, those whose leaving gives the lowest Ewald energy of formal charges.

    The metals have their mean charges after the removal (:func:`oxidation_states`), so the cell is neutral. From 20
    random choices, the exchange of one removed and one remaining Li that lowers the energy most is made until none
    does; the lowest end is taken. That is a local search, not an enumeration: no exchange of two sites improves it.

    Raises
    ------
    ValueError
        If no oxidation states are neutral.
    """
    from pymatgen.core.ewald import EwaldSummation
    from pymatgen.io.ase import AseAtomsAdaptor

    counts = Counter(atoms.get_chemical_symbols())
    counts["Li"] -= n_removed
    bare = atoms.copy()
    bare.set_tags(None)
    bare.info.clear()
    structure = AseAtomsAdaptor.get_structure(bare)
    structure.add_oxidation_state_by_element(oxidation_states(counts))
    ewald = EwaldSummation(structure)  # type: ignore[no-untyped-call]
    energies = np.asarray(ewald.total_energy_matrix)  # eV; the energy is the sum of its entries
    energies = 0.5 * (energies + energies.T)
    lithium = np.flatnonzero(atoms.get_tags() == LITHIUM)
    ends = [_descend(energies, lithium, rng.choice(lithium, n_removed, replace=False)) for _ in range(_STARTS)]
    _, removed = min(ends, key=lambda end: end[0])
    return without(atoms, removed)


def without(atoms: Atoms, removed: npt.ArrayLike) -> Atoms:
    """A copy without some atoms."""
    keep = np.ones(len(atoms), dtype=bool)
    keep[np.asarray(removed, dtype=np.intp)] = False
    left: Atoms = atoms[keep]
    return left


def _descend(energies: Floats, lithium: Integers, removed: Integers) -> tuple[float, Integers]:
    """Exchange one removed and one remaining Li while that lowers the energy; energy (eV) and what is removed."""
    present = np.ones(len(energies))
    present[removed] = 0.0
    while True:
        field = energies @ present
        staying, gone = lithium[present[lithium] > 0], lithium[present[lithium] == 0]
        if not len(staying) or not len(gone):
            return float(present @ field), gone
        site_energies = np.diag(energies)
        leave, enter = site_energies[staying] - 2 * field[staying], site_energies[gone] + 2 * field[gone]
        change = leave[:, None] + enter[None, :] - 2 * energies[np.ix_(staying, gone)]
        i, j = np.unravel_index(int(change.argmin()), change.shape)
        if change[i, j] > -1e-6:
            return float(present @ field), gone
        present[staying[i]], present[gone[j]] = 0.0, 1.0
