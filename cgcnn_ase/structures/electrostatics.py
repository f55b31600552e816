r"""Arrangements of occupants on given sites that have a low electrostatic energy.

The energy is a quadratic form of what each site holds, :math:`E = q^T A q`, with the matrix of Ewald's sums computed
once. An exchange of two occupants then costs O(1) to weigh and O(n) to make, so many copies are annealed side by side.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cgcnn_ase.core.arrays import Floats, Ints

# Coulomb's constant, eV Å / e^2
_COULOMB = 14.399645
# real-space cutoff of the Ewald sum, Å, and how many standard widths it and its partner in reciprocal space reach
_EWALD_CUTOFF, _EWALD_REACH = 8.0, 4.5
# reciprocal vectors taken at once, to bound memory
_CHUNK = 1500
# eV for two atoms on top of each other; it falls to zero where they touch (see `contact_matrix`)
_CONTACT = 200.0

# copies annealed side by side, steps for each exchangeable site, and the temperatures between which they cool, eV
_COPIES, _STEPS_PER_SITE, _HOT, _COLD = 24, 150, 1.0, 0.02
_MIN_STEPS, _MAX_STEPS = 1_000, 40_000
# where fewer copies than this end at the lowest energy, all are annealed again, so many times as slowly, up to a limit
_AGREEING, _SLOWER, _MOST_STEPS = 3, 4, 100_000
# an exchange must lower the energy by this much, eV
_LOWER = 1e-6
# energies that differ by less are the same, eV
_SAME = 1e-3


class Form(NamedTuple):
    """One part of the energy: a quadratic form of a number that each occupant has."""

    matrix: Floats  # (n, n), eV, symmetric
    field: Floats  # (n,), eV: what the sites that do not change do to each site; counted twice, as the matrix is
    values: Floats  # (n,) of the occupant of each slot: its charge, or 1 for an atom and 0 for a vacancy


class Arrangement(NamedTuple):
    """Who sits where."""

    energy: float  # eV, up to a constant
    site_of_slot: Ints  # (n,) the site on which each occupant sits


@dataclass(frozen=True)
class Search:
    """Arrangements by `lowest_arrangements`, lowest first, and whether the search came to its end."""

    arrangements: tuple[Arrangement, ...]
    complete: bool


def ewald_matrix(cell: Floats, positions: Floats, sites: Ints) -> Floats:
    r"""Matrix :math:`A`, eV/e², with :math:`E = \sum_{ij} q_i A_{ij} q_j`; (n, N) of some sites with all N.

    Point charges in a periodic cell, on a uniform background where it is charged (Ewald, Ann. Phys. 369, 253, 1921).
    """
    from scipy.special import erfc

    width = _EWALD_REACH / _EWALD_CUTOFF  # square root of Ewald's eta, 1/Å
    volume = abs(float(np.linalg.det(cell)))
    delta = positions[sites][:, None] - positions[None]  # (n, N, 3)
    inverse = np.linalg.inv(cell)
    delta -= np.rint(delta @ inverse) @ cell
    total = np.full(delta.shape[:2], -np.pi / (volume * width**2))
    reach = _EWALD_CUTOFF + 0.5 * float(np.linalg.norm(np.abs(cell).sum(axis=0)))
    for translation in _lattice_vectors(cell, reach):
        distances = np.linalg.norm(delta + translation, axis=2)
        near = (distances < _EWALD_CUTOFF) & (distances > 1e-6)
        total[near] += erfc(width * distances[near]) / distances[near]
    total[np.arange(len(sites)), sites] -= 2 * width / np.sqrt(np.pi)
    waves = _lattice_vectors(np.asarray(2 * np.pi * inverse.T, dtype=np.float64), 2 * width * _EWALD_REACH)
    waves = waves[(waves @ (1.0, np.pi, np.e**2)) > 1e-9]  # one of each pair of opposites
    for start in range(0, len(waves), _CHUNK):
        chunk = waves[start : start + _CHUNK]
        square = (chunk**2).sum(axis=1)
        weights = 8 * np.pi / volume * np.exp(-square / (4 * width**2)) / square
        phases = positions @ chunk.T
        cosines, sines = np.cos(phases), np.sin(phases)
        total += (cosines[sites] * weights) @ cosines.T + (sines[sites] * weights) @ sines.T
    return 0.5 * _COULOMB * total


def contact_matrix(cell: Floats, positions: Floats, sites: Ints, radii: Floats) -> Floats:
    """The (n, N) energies, eV, that keep atoms apart that are nearer than the sum of their radii (N,), Å.

    Split sites that are too near for two atoms are the reason: electrostatics alone may pull unlike charges together.
    """
    delta = positions[sites][:, None] - positions[None]
    delta -= np.rint(delta @ np.linalg.inv(cell)) @ cell
    result = np.zeros(delta.shape[:2])
    touching = radii[sites][:, None] + radii[None]
    reach = float(touching.max()) + 0.5 * float(np.linalg.norm(np.abs(cell).sum(axis=0)))
    for translation in _lattice_vectors(cell, reach):
        distances = np.linalg.norm(delta + translation, axis=2)
        result += _CONTACT * np.clip(1 - distances / touching, 0.0, None)
    result[np.arange(len(sites)), sites] = 0.0
    return 0.5 * result


def _lattice_vectors(cell: Floats, reach: float) -> Floats:
    """Lattice vectors no longer than `reach`, with 0."""
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    grids = [np.arange(-k, k + 1) for k in np.floor(reach / heights).astype(int)]
    points = np.stack(np.meshgrid(*grids, indexing="ij"), axis=-1).reshape(-1, 3) @ cell
    near: Floats = points[np.linalg.norm(points, axis=1) <= reach]
    return near


def lowest_arrangements(
    forms: Sequence[Form], groups: Ints, rng: np.random.Generator, *, deadline: float, anneal: bool = True
) -> Search:
    """Arrangements of low energy: annealed copies of random starts, each then improved until no exchange lowers it.

    Where few copies agree on the lowest, they are annealed again, more slowly.

    Parameters
    ----------
    forms
        The energy is their sum.
    groups
        (n,) the group of each site, and of the slot of the same index: occupants change places within their group.
    deadline
        On `time.monotonic`; what is found until then is taken.
    anneal
        False starts the descents from random arrangements: the nearest minimum, for arrangements that shall be random.
    """
    pairs = _exchangeable(forms, groups)
    copies = _COPIES if anneal else 1
    steps = int(np.clip(_STEPS_PER_SITE * len(np.unique(pairs)), _MIN_STEPS, _MAX_STEPS))
    result = _search(forms, groups, pairs, rng, copies=copies, steps=steps if anneal else 0, deadline=deadline)
    last = result
    while anneal and len(pairs) and last.complete and not _agree(last) and _SLOWER * steps <= _MOST_STEPS:
        steps *= _SLOWER
        last = _search(forms, groups, pairs, rng, copies=copies, steps=steps, deadline=deadline)
        result = Search(_sorted([*result.arrangements, *last.arrangements]), last.complete)
    return result


def _search(
    forms: Sequence[Form],
    groups: Ints,
    pairs: Ints,
    rng: np.random.Generator,
    *,
    copies: int,
    steps: int,
    deadline: float,
) -> Search:
    """So many copies of random starts, annealed in so many steps, and improved."""
    sites = np.tile(np.arange(len(groups)), (copies, 1))
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        for copy in sites:
            copy[members[rng.permutation(len(members))]] = members
    state = _State(forms, sites)
    complete = _anneal(state, pairs, steps, rng, deadline) if steps and len(pairs) else True
    ends = []
    for copy in range(copies):
        complete = _descend(state, copy, pairs, deadline) and complete
        ends.append(Arrangement(state.energy(copy), sites[copy].copy()))
    return Search(_sorted(ends), complete)


def _agree(search: "Search") -> bool:
    """Tell whether several copies ended at the lowest energy."""
    lowest = search.arrangements[0].energy
    return sum(end.energy < lowest + _SAME for end in search.arrangements) >= _AGREEING


def _sorted(ends: "Sequence[Arrangement]") -> "tuple[Arrangement, ...]":
    return tuple(sorted(ends, key=lambda end: round(end.energy, 6)))


def _exchangeable(forms: Sequence[Form], groups: Ints) -> Ints:
    """(P, 2) slots of one group whose occupants differ in what the energy depends on."""
    first, second = np.triu_indices(len(groups), 1)
    differ = np.zeros(len(first), dtype=bool)
    for form in forms:
        differ |= np.abs(form.values[first] - form.values[second]) > 1e-9
    differ &= groups[first] == groups[second]
    return np.stack([first[differ], second[differ]], axis=1)


class _State:
    """Copies of an arrangement with the potential at each site, kept up to date."""

    def __init__(self, forms: Sequence[Form], sites: Ints) -> None:
        self.forms, self.sites = forms, sites
        self.potentials = []
        for form in forms:
            on_sites = np.empty(sites.shape)
            np.put_along_axis(on_sites, sites, np.broadcast_to(form.values, sites.shape), axis=1)
            self.potentials.append(on_sites @ form.matrix + form.field)

    def change(self, copies: Ints, a: int, b: int) -> Floats:
        """The energy that it costs each of these copies to exchange the occupants of two slots, eV."""
        i, j = self.sites[copies, a], self.sites[copies, b]
        total = np.zeros(len(copies))
        for form, potential in zip(self.forms, self.potentials, strict=True):
            d = form.values[b] - form.values[a]
            self_energy = form.matrix[i, i] + form.matrix[j, j] - 2 * form.matrix[i, j]
            total += 2 * d * (potential[copies, i] - potential[copies, j]) + d * d * self_energy
        return total

    def exchange(self, copies: Ints, a: int, b: int) -> None:
        """Exchange the occupants of two slots of these copies."""
        i, j = self.sites[copies, a], self.sites[copies, b]
        for form, potential in zip(self.forms, self.potentials, strict=True):
            potential[copies] += (form.values[b] - form.values[a]) * (form.matrix[i] - form.matrix[j])
        self.sites[copies, a], self.sites[copies, b] = j, i

    def best_exchange(self, copy: int, pairs: Ints) -> tuple[float, int, int]:
        """The exchange that lowers the energy of a copy most, and by how much."""
        a, b = pairs.T
        i, j = self.sites[copy, a], self.sites[copy, b]
        total = np.zeros(len(pairs))
        for form, potential in zip(self.forms, self.potentials, strict=True):
            d = form.values[b] - form.values[a]
            diagonal = np.diag(form.matrix)
            self_energy = diagonal[i] + diagonal[j] - 2 * form.matrix[i, j]
            total += 2 * d * (potential[copy, i] - potential[copy, j]) + d * d * self_energy
        k = int(total.argmin())
        return float(total[k]), int(a[k]), int(b[k])

    def energy(self, copy: int) -> float:
        """The energy of a copy, eV."""
        return sum(
            float(form.values @ (potential[copy] + form.field)[self.sites[copy]])
            for form, potential in zip(self.forms, self.potentials, strict=True)
        )


def _anneal(state: _State, pairs: Ints, steps: int, rng: np.random.Generator, deadline: float) -> bool:
    """Metropolis steps of falling temperature; False if the time was up before the end."""
    n_copies = len(state.sites)
    everyone = np.arange(n_copies)
    chosen = pairs[rng.integers(len(pairs), size=steps)].tolist()
    temperatures = _HOT * (_COLD / _HOT) ** np.linspace(0, 1, steps)
    thresholds = rng.exponential(size=(steps, n_copies)) * temperatures[:, None]
    for step, (a, b) in enumerate(chosen):
        accepted = np.flatnonzero(state.change(everyone, a, b) < thresholds[step])
        if len(accepted):
            state.exchange(accepted, a, b)
        if step % 64 == 0 and time.monotonic() > deadline:
            return False
    return True


def _descend(state: _State, copy: int, pairs: Ints, deadline: float) -> bool:
    """Make the best exchange until none lowers the energy; False if the time was up before."""
    one = np.array([copy])
    while len(pairs):
        change, a, b = state.best_exchange(copy, pairs)
        if change > -_LOWER:
            return True
        if time.monotonic() > deadline:
            return False
        state.exchange(one, a, b)
    return True
