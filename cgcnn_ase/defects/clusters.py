"""Plans of several defects near one another: pairs of exchanged cations, and complexes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.defects.host import Host, Member, Symmetry, translated
from cgcnn_ase.defects.interstitials import InterstitialSite
from cgcnn_ase.defects.plan import Change, Plan, replacement, vacancy

RANGES = ("all", "near", "far")

# place, cell, and distance in Å
Neighbor = tuple[int, tuple[int, int, int], float]

# distances that differ by less than this are one shell, Å
_SHELL = 0.01


@dataclass(frozen=True)
class Places:
    """Everything that can be changed in a host: its sites, and after them its holes."""

    # host, symmetry: its symmetry knows the holes as sites, too
    host: Host
    symmetry: Symmetry
    options: tuple[tuple[Change, ...], ...]  # what can be done at each place: changes in the cell at the origin
    # for each place those within the cutoff: (place, cell, distance in Å), the nearest first
    near: tuple[tuple[Neighbor, ...], ...]
    positions: Floats

    def change(self, member: Member) -> Change:
        """The change that a member of a group stands for."""
        label, index, *cell = member
        chosen = next(change for change in self.options[index] if change.name == label)
        return chosen._replace(cell=tuple(cell))

    def position(self, member: Member) -> Floats:
        """Cartesian, Å."""
        position: Floats = self.positions[member[1]] + np.array(member[2:]) @ self.host.cell
        return position

    def diameter(self, group: Sequence[Member]) -> float:
        """The largest distance between two members, Å."""
        at = np.array([self.position(member) for member in group])
        return float(np.linalg.norm(at[:, None] - at[None], axis=2).max())


def find_places(
    host: Host,
    symmetry: Symmetry,
    options: Sequence[Sequence[Change]],
    cutoff: float,
    holes: Sequence[InterstitialSite] = (),
) -> Places:
    """Find the places of a host, and their neighbours up to a cutoff (Å).

    `options` are the changes that are possible at each site, and after them at each equivalent place of each hole.
    """
    from cgcnn_ase.graphs.neighbors import search  # brings torch along, which single defects do not need

    frac = np.concatenate([host.frac, *[hole.orbit for hole in holes]])
    positions = frac @ host.cell
    bonds = search(positions, host.cell, ~np.array(host.vacuum), cutoff)
    offsets = bonds.vectors - (positions[bonds.neighbors] - positions[bonds.centers])
    cells = np.rint(offsets @ np.linalg.inv(host.cell)).astype(int)
    near: list[list[Neighbor]] = [[] for _ in frac]
    for center, neighbor, (a, b, c), distance in zip(
        bonds.centers.tolist(), bonds.neighbors.tolist(), cells.tolist(), bonds.distances.tolist(), strict=True
    ):
        near[center].append((neighbor, (a, b, c), distance))
    return Places(host, replace(symmetry, frac=frac), tuple(map(tuple, options)), tuple(map(tuple, near)), positions)


def site_options(
    host: Host, kinds: Sequence[str], elements: Sequence[str], dopants: Sequence[str] | None
) -> list[list[Change]]:
    """Changes that are possible at each site: a vacancy, an antisite, a dopant."""
    makers: dict[str, Callable[[str, int], list[Change]]] = {
        "vacancy": lambda old, site: [vacancy(old, site)],
        "antisite": lambda old, site: [replacement(old, new, site) for new in host.elements if new != old],
        "substitution": lambda old, site: [replacement(old, new, site) for new in dopants or () if new != old],
    }
    options: list[list[Change]] = []
    for site, name in enumerate(host.atoms.get_chemical_symbols()):
        changes = [c for kind in kinds if kind in makers for c in makers[kind](name, site)] if name in elements else []
        options.append(list({change.name: change for change in changes}.values()))
    return options


def hole_options(host: Host, holes: Sequence[InterstitialSite], inserted: Sequence[str]) -> list[list[Change]]:
    """Changes that are possible in each place of each hole."""
    return [
        [
            Change(f"{element}_i", "", element, None, (0, 0, 0), tuple(map(float, point @ host.cell)))
            for element in inserted
        ]
        for hole in holes
        for point in hole.orbit
    ]


def cation_mixing(
    host: Host, symmetry: Symmetry, pair: tuple[str, str], *, cutoff: float, which: str = "all"
) -> Iterator[Plan]:
    """Yield two cations that have changed places, for each symmetry-distinct pair of sites, the nearest first.

    `which` is ``all`` pairs up to the cutoff (Å), or for each distinct site of the first element the ``near`` or
    ``far`` ones (at the smallest or largest distance). No pair within the cutoff is a `ValueError`.
    """
    first, second = pair
    names = host.atoms.get_chemical_symbols()
    swaps = {first: second, second: first}
    options = [[replacement(name, swaps[name], site)] if name in swaps else [] for site, name in enumerate(names)]
    places = find_places(host, symmetry, options, cutoff)

    def partners(site: int) -> list[Neighbor]:
        around = [entry for entry in places.near[site] if names[entry[0]] == second]
        if not around or which == "all":
            return around
        distances = [entry[2] for entry in around]
        limit = min(distances) if which == "near" else max(distances)
        return [entry for entry in around if abs(entry[2] - limit) < _SHELL]

    groups = [
        ((f"{second}_{first}", site, 0, 0, 0), (f"{first}_{second}", other, *cell))
        for site in _representatives(places)  # by operations of the cell, as the images of the pairs
        if names[site] == first
        for other, cell, _ in partners(site)
    ]
    groups.sort(key=lambda group: round(places.diameter(group), 3))
    if not groups:
        raise ValueError(
            f"{host.name}: no {first} and {second} are within {cutoff:.3g} Å of one another; "
            "take a larger cutoff or supercell"
        )
    yield from _distinct("cation-mixing", places, iter(groups))


def complexes(places: Places, *, size: int = 2) -> Iterator[Plan]:
    """Yield two to `size` defects, all within the cutoff of one another, for each symmetry-distinct group.

    If there is none, a `ValueError` is raised.
    """
    starts = [p for p in _representatives(places) if places.options[p]]
    is_empty = True
    for n_members in range(2, size + 1):
        for plan in _distinct("complex", places, _grown(places, starts, n_members)):
            is_empty = False
            yield plan
    if is_empty:
        raise ValueError(f"{places.host.name}: no two defects are within the cutoff; take a larger one")


def _representatives(places: Places) -> list[int]:
    """One place of each kind that symmetry tells apart."""
    images = places.symmetry.site_images[0]
    return [int(index) for index in np.unique(images.min(axis=0))]


def _grown(places: Places, starts: Sequence[int], n_members: int) -> Iterator[tuple[Member, ...]]:
    """All groups of so many members around the places to start from; equal ones several times."""

    def grow(sites: tuple[tuple[int, int, int, int], ...]) -> Iterator[tuple[tuple[int, int, int, int], ...]]:
        if len(sites) == n_members:
            yield sites
            return
        common = set.intersection(*(_around(places, site) for site in sites))
        for site in sorted(common):
            if places.options[site[0]] and (len(sites) == 1 or site > sites[-1]):
                yield from grow((*sites, site))

    for start in starts:
        for sites in grow(((start, 0, 0, 0),)):
            yield from _labelled(places, sites)


def _around(places: Places, site: tuple[int, int, int, int]) -> set[tuple[int, int, int, int]]:
    index, a, b, c = site
    return {(other, a + x, b + y, c + z) for other, (x, y, z), _ in places.near[index]}


def _labelled(places: Places, sites: Sequence[tuple[int, int, int, int]]) -> Iterator[tuple[Member, ...]]:
    if not sites:
        yield ()
        return
    first, *rest = sites
    for change in places.options[first[0]]:
        for others in _labelled(places, rest):
            yield ((change.name, *first), *others)


def _distinct(kind: str, places: Places, groups: Iterator[tuple[Member, ...]]) -> Iterator[Plan]:
    """A plan for each group that no symmetry operation takes to an earlier one."""
    seen: set[tuple[Member, ...]] = set()
    for group in groups:
        if translated(group) in seen:
            continue
        images = places.symmetry.group_images(group)
        seen |= images
        changes = tuple(places.change(member) for member in group)
        name = "+".join(change.name for change in changes)
        first = changes[0].site
        letter = "" if first is None else places.symmetry.wyckoff[first]
        yield Plan(kind, name, changes, len(images), letter, places.diameter(group))
