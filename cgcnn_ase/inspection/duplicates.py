"""Find structures that are the same crystal, within one data set and between two.

Cheap keys first: the reduced formula and the volume per atom; only structures that share both are compared by
pymatgen's ``StructureMatcher`` (Ong et al., Comput. Mater. Sci. 68, 314, 2013), whatever the cell, the origin, the
orientation or the order of sites. The work is bounded: of a formula with very many structures the pairs nearest in
volume are compared, and how many were not is reported.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from cgcnn_ase.core.elements import symbols
from cgcnn_ase.core.parallel import ordered_map
from cgcnn_ase.core.progress import progress_bar
from cgcnn_ase.data.dataset import volume_per_atom
from cgcnn_ase.graphs.crystal_graph import Geometry
from cgcnn_ase.structures.composition import composition_key, formula_of

if TYPE_CHECKING:
    from pymatgen.core import Structure
    from pymatgen.core.structure_matcher import StructureMatcher

# pairs that one task of a worker compares, about
_CHUNK = 200


@dataclass(frozen=True, kw_only=True)
class MatchTolerances:
    """How much two structures may differ and still be the same crystal."""

    length: float = 0.1  # of cell vectors, relative
    angle: float = 3.0  # between cell vectors, degrees
    site: float = 0.15  # of sites, in units of (volume per atom)^(1/3)
    volume: float = 0.1  # of volumes per atom, relative; within it shapes are compared, not sizes
    primitive: float = (
        0.25  # Å; atoms that are nearer than this to images of others make a cell a multiple of a smaller
    )
    written: float = 0.01  # Å; with cell and atoms all nearer than this, in the same order, nothing else is compared
    max_pairs: int = 20_000  # of one formula that are compared, those nearest in volume first

    def __post_init__(self) -> None:
        for name in ("length", "angle", "site", "volume", "primitive", "written", "max_pairs"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")


@dataclass(frozen=True)
class Matches:
    """Pairs of structures that are the same crystal."""

    pairs: list[tuple[int, int]]  # indices, sorted; the second of the other data set where there are two
    n_compared: int  # pairs that were compared
    not_compared: dict[str, int] = field(default_factory=dict)  # formulas with more pairs than allowed: how many more
    n_without_cell: int = 0  # structures that do not repeat in all directions, which are not compared

    def groups(self) -> list[list[int]]:
        """Of one data set: sets of structures that are linked by matches, each sorted."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        if not self.pairs:
            return []
        members, index = np.unique(np.array(self.pairs), return_inverse=True)
        first, second = index.reshape(-1, 2).T
        links = coo_array((np.ones(len(first)), (first, second)), shape=(len(members), len(members)))
        _, group = connected_components(links, directed=False)
        return [members[group == k].tolist() for k in range(group.max() + 1)]

    def one_to_one(
        self, ids: Sequence[str], other_ids: Sequence[str], volumes: npt.ArrayLike, other_volumes: npt.ArrayLike
    ) -> list[tuple[int, int]]:
        """Of two data sets: each structure in one pair at most; the same id first, then the nearest volume per atom."""
        v, w = np.asarray(volumes, dtype=float), np.asarray(other_volumes, dtype=float)
        ranked = sorted(self.pairs, key=lambda p: (ids[p[0]] != other_ids[p[1]], abs(np.log(v[p[0]] / w[p[1]])), p))
        taken: set[int] = set()
        other_taken: set[int] = set()
        kept = []
        for i, j in ranked:
            if i not in taken and j not in other_taken:
                taken.add(i)
                other_taken.add(j)
                kept.append((i, j))
        return sorted(kept)


class _Candidates(NamedTuple):
    """Structures of one formula, and which pairs of them to compare."""

    structures: list[Geometry]
    rows: list[tuple[int, int]]  # of each: data set 0 or 1, and the row in it
    pairs: list[tuple[int, int]]  # positions in `structures`


def find_duplicates(
    structures: Sequence[Geometry], *, sameness: MatchTolerances | None = None, workers: int = 1, progress: bool = False
) -> Matches:
    """Find pairs of structures of a data set that are the same crystal, each pair with the lower index first.

    The result does not depend on the number of worker processes.
    """
    return _find([structures], sameness or MatchTolerances(), workers, progress)


def find_common(
    structures: Sequence[Geometry],
    others: Sequence[Geometry],
    *,
    sameness: MatchTolerances | None = None,
    workers: int = 1,
    progress: bool = False,
) -> Matches:
    """Pairs (i, j) of structure i of one data set and j of another that are the same crystal.

    Parameters as for :func:`find_duplicates`; :meth:`Matches.one_to_one` leaves one pair of each structure.
    """
    return _find([structures, others], sameness or MatchTolerances(), workers, progress)


def _find(sets: list[Sequence[Geometry]], sameness: MatchTolerances, workers: int, progress: bool) -> Matches:
    not_compared: dict[str, int] = {}
    tasks = [(chunk, sameness) for chunk in _chunks(_candidates(sets, sameness, not_compared))]
    sizes = [sum(len(candidates.pairs) for candidates in chunk) for chunk, _ in tasks]
    pairs: list[tuple[int, int]] = []
    with ExitStack() as stack:
        answers: Iterable[list[tuple[int, int]]] = (_same(*task) for task in tasks)
        if workers > 1 and len(tasks) > 1:
            answers = stack.enter_context(closing(ordered_map(_same, tasks, min(workers, len(tasks)))))
        step = stack.enter_context(progress_bar("Comparing structures", sum(sizes), shown=progress))
        for size, same in zip(sizes, answers, strict=True):
            pairs += same
            step(size)
    n_without = sum(not s.pbc.all() for structures in sets for s in structures)
    return Matches(sorted(pairs), sum(sizes), not_compared, n_without)


def _candidates(
    sets: list[Sequence[Geometry]], sameness: MatchTolerances, not_compared: dict[str, int]
) -> Iterator[_Candidates]:
    """Formula by formula, the pairs whose volumes per atom allow a match; notes what is left out."""
    rows: dict[str, list[tuple[float, int, int]]] = {}
    for which, structures in enumerate(sets):
        for k, structure in enumerate(structures):
            volume = volume_per_atom(structure)
            if not np.isnan(volume):
                rows.setdefault(composition_key(structure.numbers), []).append((volume, which, k))
    for members in rows.values():
        if len({which for _, which, _ in members}) < len(sets) or len(members) < 2:
            continue
        members.sort()
        pairs, left = _pairs(members, sameness, between=len(sets) > 1)
        if left:
            not_compared[formula_of(sets[members[0][1]][members[0][2]].numbers)] = left
        used = sorted({k for pair in pairs for k in pair})
        at = {k: position for position, k in enumerate(used)}
        if used:
            yield _Candidates(
                [sets[members[k][1]][members[k][2]] for k in used],
                [members[k][1:] for k in used],
                [(at[i], at[j]) for i, j in pairs],
            )


def _pairs(
    members: list[tuple[float, int, int]], sameness: MatchTolerances, *, between: bool
) -> tuple[list[tuple[int, int]], int]:
    """Positions of pairs of members, sorted by volume, that are near enough in it; and how many more there are."""
    volumes = np.array([volume for volume, _, _ in members])
    which = np.array([one for _, one, _ in members])
    end = np.searchsorted(volumes, volumes * (1 + sameness.volume), side="right")  # the first that is too large
    start = np.arange(len(members)) + 1
    if between:
        seen = np.stack([np.cumsum(np.append(0, which != one)) for one in (0, 1)])  # of the other set, before each
        n = int((seen[which, end] - seen[which, start]).sum())
    else:
        n = int((end - start).sum())
    pairs: list[tuple[int, int]] = []
    for step in range(1, len(members)):  # neighbours in volume first
        first = np.flatnonzero(end[:-step] > start[:-step] + step - 1)
        if not len(first) or len(pairs) == sameness.max_pairs:
            break
        if between:
            first = first[which[first] != which[first + step]]
        pairs += [(int(i), int(i) + step) for i in first[: sameness.max_pairs - len(pairs)]]
    return pairs, n - len(pairs)


def _chunks(candidates: Iterable[_Candidates]) -> Iterator[list[_Candidates]]:
    """Formulas together until they have enough pairs; those of one formula stay together, to reduce a cell once."""
    chunk: list[_Candidates] = []
    n = 0
    for one in candidates:
        chunk.append(one)
        n += len(one.pairs)
        if n >= _CHUNK:
            yield chunk
            chunk, n = [], 0
    if chunk:
        yield chunk


def _same(candidates: list[_Candidates], sameness: MatchTolerances) -> list[tuple[int, int]]:
    """The pairs that are the same crystal, as rows of the data sets."""
    from pymatgen.core.structure_matcher import StructureMatcher

    tolerances = sameness.length, sameness.site, sameness.angle
    matchers = StructureMatcher(*tolerances), StructureMatcher(*tolerances, attempt_supercell=True)
    same = []
    for structures, rows, pairs in candidates:
        reduced = lru_cache(maxsize=None)(lambda k, s=structures: _reduced(s[k], sameness.primitive))
        for i, j in pairs:
            if _as_written(structures[i], structures[j], sameness.written) or _fit(matchers, reduced(i), reduced(j)):
                (_, first), (_, second) = sorted((rows[i], rows[j]))
                same.append((first, second))
    return same


def _fit(matchers: "tuple[StructureMatcher, StructureMatcher]", one: "Structure", other: "Structure") -> bool:
    """By the first matcher; by the second where a cell is a multiple, slightly distorted so that it was not reduced."""
    few, many = sorted((len(one), len(other)))
    matcher = matchers[few != many]
    return many % few == 0 and bool(matcher.fit(one, other, symmetric=True, skip_structure_reduction=True))


def _as_written(one: Geometry, other: Geometry, tolerance: float) -> bool:
    """True where cell, order of atoms and places are the same: seen in no time, where two sources have one ancestor."""
    if not np.array_equal(one.numbers, other.numbers) or not np.allclose(one.cell, other.cell, atol=tolerance):
        return False
    shift = (one.positions - other.positions) @ np.linalg.inv(one.cell)
    return bool((np.linalg.norm((shift - np.rint(shift)) @ one.cell, axis=1) < tolerance).all())


def _reduced(structure: Geometry, tolerance: float) -> "Structure":
    """The Niggli-reduced primitive cell (whose sites agree within `tolerance`, Å), as the matcher takes it."""
    from pymatgen.core import Lattice, Structure

    from cgcnn_ase.structures.record import without_reader_warnings

    species = [symbols()[z] for z in structure.numbers]
    with without_reader_warnings():
        full = Structure(Lattice(structure.cell), species, structure.positions, coords_are_cartesian=True)
        return full.get_primitive_structure(tolerance=tolerance).get_reduced_structure(reduction_algo="niggli")
