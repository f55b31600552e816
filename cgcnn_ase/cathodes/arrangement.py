"""Arrangement of a cathode: the metal on each site, at random or quasirandom, and the lithium that is removed."""

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import comb

import numpy as np
import numpy.typing as npt
from ase import Atoms

from cgcnn_ase.cathodes.composition import oxidation_states
from cgcnn_ase.cathodes.lattices import LITHIUM, METAL, Lattice
from cgcnn_ase.core.arrays import Floats

# pairs and triplets whose correlations an SQS makes those of a random alloy, in units of the nearest distance of two
# metals: pairs to the second neighbour in the layer and to the next layer, triplets of nearest neighbours
_PAIRS, _TRIPLETS = 1.8, 1.1

# Monte Carlo steps for each metal site; with fewer, annealing ends in a worse order now and then
_STEPS_PER_SITE = 600
Integers = npt.NDArray[np.intp]

# descents by exchange of lithium, each from another random choice
_STARTS = 20


def random_ordering(atoms: Atoms, counts: Mapping[str, int], rng: np.random.Generator) -> Atoms:
    """The metals in so many numbers on the sites of tag 2, at random."""
    metals = [metal for metal, n in counts.items() for _ in range(n)]
    ordered: Atoms = atoms.copy()
    symbols = np.array(ordered.get_chemical_symbols(), dtype=object)
    symbols[ordered.get_tags() == METAL] = rng.permutation(np.array(metals, dtype=object))
    ordered.set_chemical_symbols(symbols.tolist())
    return ordered


def sqs_ordering(atoms: Atoms, counts: Mapping[str, int], lattice: Lattice, seed: int) -> Atoms:
    """The special quasirandom structure (Zunger et al., Phys. Rev. Lett. 65, 353, 1990) that icet's annealing finds.

    The supercell is tagged as the lattice's atoms are, `counts` says how many sites each metal takes. Without icet an
    `ImportError` is raised.
    """
    try:
        from icet import ClusterSpace
        from icet.tools.structure_generation import generate_sqs_from_supercells
    except ImportError as error:
        raise ImportError('an SQS is made by icet: pip install "cgcnn-ase[defects]"') from error

    primitive = lattice.atoms(primitive=True)
    nearest = _nearest_metals(lattice)
    species = [
        list(counts) if tag == METAL else [symbol]
        for symbol, tag in zip(primitive.get_chemical_symbols(), primitive.get_tags(), strict=True)
    ]
    space = ClusterSpace(primitive, cutoffs=[_PAIRS * nearest, _TRIPLETS * nearest], chemical_symbols=species)
    n_sites = sum(counts.values())
    start = random_ordering(atoms, counts, np.random.default_rng(seed))
    start.set_tags(None)
    (sublattice,) = space.get_sublattices(start).active_sublattices
    with _random_state_kept():
        sqs_cell: Atoms = generate_sqs_from_supercells(
            space,
            [start],
            {sublattice.symbol: {metal: n / n_sites for metal, n in counts.items()}},
            n_steps=_STEPS_PER_SITE * n_sites,
            random_seed=seed,
            random_start=False,
        )
    ordered: Atoms = atoms.copy()
    ordered.numbers = sqs_cell.numbers
    return ordered


def n_orderings(counts: Mapping[str, int]) -> int:
    """Number of ways to put the metals on the sites, symmetry aside."""
    ways, left = 1, sum(counts.values())
    for n in counts.values():
        ways *= comb(left, n)
        left -= n
    return ways


def fingerprint(atoms: Atoms) -> bytes:
    """The same for structures that differ by symmetry only: all shortest distances of pairs of atoms, by element.

    Two structures of one lattice whose fingerprints differ are different; in rare cases two different ones share one.
    """
    distances = atoms.get_all_distances(mic=True)
    first, second = np.triu_indices(len(atoms), 1)
    low = np.minimum(atoms.numbers[first], atoms.numbers[second])
    high = np.maximum(atoms.numbers[first], atoms.numbers[second])
    rows = np.stack([low, high, np.rint(distances[first, second] * 100)], axis=1).astype(np.int64)
    kinds, number = np.unique(rows, axis=0, return_counts=True)
    return kinds.tobytes() + number.tobytes()


def _nearest_metals(lattice: Lattice) -> float:
    """Distance of two neighbouring mixed sites, Å."""
    atoms = lattice.atoms(primitive=False)
    metals = atoms[atoms.get_tags() == METAL].repeat((2, 2, 2))
    distances = metals.get_all_distances(mic=True)
    return float(distances[distances > 0.1].min())


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """The annealing seeds Python's own generator; others go on with theirs."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


def random_removal(atoms: Atoms, n_removed: int, rng: np.random.Generator) -> Atoms:
    """Without so many of its Li (tag 1), chosen at random."""
    lithium = np.flatnonzero(atoms.get_tags() == LITHIUM)
    return without(atoms, rng.choice(lithium, n_removed, replace=False))


def ewald_removal(atoms: Atoms, n_removed: int, rng: np.random.Generator) -> Atoms:
    """Without so many of its Li, those whose leaving gives the lowest Ewald energy of formal charges.

    The metals have their mean charges after the removal (`oxidation_states`), so the cell is neutral; if none are, a
    `ValueError` is raised. From 20 random choices, the exchange of one removed and one remaining Li that lowers the
    energy most is made until none does; the lowest end is taken. That is a local search, not an enumeration: no
    exchange of two sites improves it.
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
        leave = site_energies[staying] - 2 * field[staying]
        enter = site_energies[gone] + 2 * field[gone]
        change = leave[:, None] + enter[None, :] - 2 * energies[np.ix_(staying, gone)]
        i, j = np.unravel_index(int(change.argmin()), change.shape)
        if change[i, j] > -1e-6:
            return float(present @ field), gone
        present[staying[i]], present[gone[j]] = 0.0, 1.0
