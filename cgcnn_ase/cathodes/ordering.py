"""Which metal sits on which site of a mixed cathode: at random, or in a special quasirandom structure."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from ase import Atoms

from cgcnn_ase.cathodes.lattices import METAL, Lattice

#: pairs and triplets whose correlations an SQS makes those of a random alloy, in units of the nearest distance of two
#: metals: pairs to the second neighbour in the layer and to the next layer, triplets of nearest neighbours
_PAIRS, _TRIPLETS = 1.8, 1.1
#: Monte Carlo steps for each metal site; with fewer, annealing ends in a worse order now and then
_STEPS_PER_SITE = 600


def random_ordering(atoms: Atoms, counts: Mapping[str, int], rng: np.random.Generator) -> Atoms:
    """The metals in so many numbers on the sites of tag 2, at random."""
    metals = [metal for metal, n in counts.items() for _ in range(n)]
    ordered = atoms.copy()
    symbols = np.array(ordered.get_chemical_symbols(), dtype=object)
    symbols[ordered.get_tags() == METAL] = rng.permutation(np.array(metals, dtype=object))
    ordered.set_chemical_symbols(symbols.tolist())
    done: Atoms = ordered
    return done


def sqs_ordering(atoms: Atoms, counts: Mapping[str, int], lattice: Lattice, seed: int) -> Atoms:
    """The special quasirandom structure (Zunger et al., Phys. Rev. Lett. 65, 353, 1990) that icet's annealing finds.

    Parameters
    ----------
    atoms
        The supercell, tagged as the lattice's atoms are.
    counts
        How many sites each metal takes.
    lattice
        What the supercell is made of.
    seed
        Of the annealing.

    Raises
    ------
    ImportError
        If icet is not installed.
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
    ordered = atoms.copy()
    ordered.numbers = sqs_cell.numbers
    done: Atoms = ordered
    return done


def n_orderings(counts: Mapping[str, int]) -> int:
    """In how many ways the metals can be put on the sites, symmetry aside."""
    from math import comb

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
