"""Places for one more atom: the holes of a structure."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.core.errors import MissingExtraError, unknown_name
from cgcnn_ase.defects.host import Host, Symmetry, largest_gap
from cgcnn_ase.defects.plan import Change, Plan

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

METHODS = ("holes", "voronoi")

# how far around the cell atoms are looked at first; length of the steps that tell a maximum, Å
_REACH, _STEP = 8.0, 0.02
# two holes nearer than this, or related by symmetry to within it, are one, Å
_SAME = 0.3
# how far above and below a layer's outermost atoms an atom may be put, Å
ABOVE = 1.5


class InterstitialSite(NamedTuple):
    """A place for an interstitial."""

    frac: Floats  # (3,) in the host's cell
    radius: float  # distance to the nearest atom, Å
    orbit: Floats  # (M, 3) all equivalent places in the host's cell, itself among them


def interstitials(host: Host, holes: Sequence[InterstitialSite], elements: Sequence[str]) -> Iterator[Plan]:
    """Each element in each symmetry-distinct hole."""
    for hole in holes:
        position = tuple(float(x) for x in hole.frac @ host.cell)
        for element in elements:
            change = Change(f"{element}_i", "", element, None, (0, 0, 0), position)
            yield Plan("interstitial", change.name, (change,), len(hole.orbit))


def find_holes(
    host: Host, symmetry: Symmetry, *, method: str = "holes", min_radius: float = 1.0
) -> list[InterstitialSite]:
    """Find the symmetry-distinct places for interstitials, the widest first; none, or an unknown method, is a
    `ValueError`.

    ``holes`` are where the distance to the nearest atom has a maximum, a vertex of the Voronoi tessellation with atoms
    on all sides; ``voronoi`` is the ``VoronoiInterstitialGenerator`` of pymatgen-analysis-defects, which also keeps
    vertices that are no maxima and merges near ones; it is slower. The nearest atom is at least `min_radius` (Å) away.
    In a layer only places between its outermost atoms, or up to 1.5 Å above them, are looked at.
    """
    if method == "holes":
        points = _maxima(host, min_radius)
    elif method == "voronoi":
        points = _voronoi(host, min_radius)
    else:
        raise unknown_name("interstitial method", method, METHODS)
    from scipy.spatial import cKDTree

    tree = cKDTree(_points(host, _REACH))
    low = _range(host)[0]
    holes: list[InterstitialSite] = []
    taken = np.empty((0, 3))
    for point in sorted(points, key=lambda point: -round(_radius(tree, point @ host.cell), 3)):
        if len(taken) and _apart(host, taken, point).min() < _SAME:
            continue
        centre, orbit = _orbit(host, symmetry, point)
        holes.append(InterstitialSite(low + (centre - low) % 1.0, _radius(tree, centre @ host.cell), orbit))
        taken = np.concatenate([taken, orbit])
    if not holes:
        raise ValueError(f"{host.name}: no place for an interstitial is {min_radius:g} Å or more from every atom")
    return sorted(holes, key=lambda hole: -round(hole.radius, 3))


def _orbit(host: Host, symmetry: Symmetry, point: Floats) -> tuple[Floats, Floats]:
    """The place moved to where its site symmetry has it, and all places equivalent to it."""
    images = symmetry.rotations @ point + symmetry.translations
    delta = images - point
    delta -= np.rint(delta)
    here = np.linalg.norm(delta @ host.cell, axis=1) < _SAME
    centre: Floats = point + delta[here].mean(axis=0)
    orbit = np.empty((0, 3))
    for image in symmetry.rotations @ centre + symmetry.translations:
        if not len(orbit) or _apart(host, orbit, image).min() > _SAME:
            orbit = np.concatenate([orbit, image[None]])
    return centre, orbit


def _apart(host: Host, places: Floats, point: Floats) -> Floats:
    """Distances to the nearest images, Å; right where they are short."""
    delta = places - point
    delta -= np.rint(delta)
    return np.asarray(np.linalg.norm(delta @ host.cell, axis=1))


def _radius(tree: "cKDTree", position: Floats) -> float:
    return float(tree.query(position)[0])


def _points(host: Host, reach: float) -> Floats:
    """The atoms of the cell and all images within a reach of it, Å; a layer's also mirrored in its two limits.

    Of the tessellation of atoms and mirror images those vertices that lie on a limit are where the distance to the
    nearest atom has a maximum on it.
    """
    low, high = _range(host)
    heights = 1 / np.linalg.norm(np.linalg.inv(host.cell), axis=0)
    margin = np.where(host.vacuum, 0.0, reach / heights)
    most = np.ceil(margin).astype(int)
    steps = np.array(list(np.ndindex(*(2 * most + 1)))) - most
    frac = ((low + (host.frac - low) % 1.0)[None] + steps[:, None]).reshape(-1, 3)
    frac = frac[((frac >= low - margin - 1e-9) & (frac <= high + margin + 1e-9)).all(axis=1)]
    points = [frac @ host.cell]
    for axis in np.flatnonzero(host.vacuum):
        normal = np.linalg.inv(host.cell)[:, axis] * heights[axis]
        for limit in (low[axis], high[axis]):
            away = (limit - frac[:, axis]) * heights[axis]
            points.append(frac @ host.cell + 2 * away[:, None] * normal)
    return np.concatenate(points)


def _maxima(host: Host, min_radius: float) -> list[Floats]:
    """Local maxima of the distance to the nearest atom, fractional: vertices from which every step leads nearer."""
    from scipy.spatial import Voronoi, cKDTree

    low, high = _range(host)
    reach = _REACH
    while True:
        points = _points(host, reach)
        tree = cKDTree(points)
        vertices = Voronoi(points).vertices
        frac = vertices @ np.linalg.inv(host.cell)
        inside = ((frac >= low - 1e-6) & (frac <= high + 1e-6)).all(axis=1)
        vertices, frac = vertices[inside], frac[inside]
        radii = tree.query(vertices)[0]
        if not len(radii) or radii.max() < reach:
            break
        reach *= 2  # a hole wider than what was looked at
    wide = radii >= min_radius
    vertices, frac, radii = vertices[wide], frac[wide], radii[wide]
    around = tree.query(vertices[:, None] + _STEP * _directions())[0]
    return list(frac[(around <= radii[:, None] + 1e-6).all(axis=1)])


def _directions(count: int = 200) -> Floats:
    """Unit vectors spread evenly over the sphere, along a Fibonacci spiral."""
    k = np.arange(count) + 0.5
    height, angle = 1 - 2 * k / count, np.pi * (1 + 5**0.5) * k
    ring = np.sqrt(1 - height**2)
    return np.stack([ring * np.cos(angle), ring * np.sin(angle), height], axis=1)


def _range(host: Host) -> tuple[Floats, Floats]:
    """Fractional coordinates between which places are looked for: in a vacuum only near the layer."""
    heights = 1 / np.linalg.norm(np.linalg.inv(host.cell), axis=0)
    low, high = np.zeros(3), np.ones(3)
    for axis in np.flatnonzero(host.vacuum):
        along = host.frac[:, axis]
        start, length = float(along.min()), float(np.ptp(along))
        if host.atoms.pbc[axis]:  # the layer may lie across the cell's face
            gap, start = largest_gap(along)
            length = 1.0 - gap
        margin = ABOVE / heights[axis]
        low[axis], high[axis] = start - margin, start + length + margin
    return low, high


def _voronoi(host: Host, min_radius: float) -> list[Floats]:
    try:
        from pymatgen.analysis.defects.generators import VoronoiInterstitialGenerator
    except ImportError as error:
        raise MissingExtraError("the method voronoi", "pymatgen.analysis.defects") from error
    from pymatgen.core import Lattice, Structure

    # rounded, as the generator merges near vertices by comparisons that noise of 1e-16 decides
    structure = Structure(Lattice(host.cell.round(10)), host.atoms.get_chemical_symbols(), host.frac.round(10))
    generator = VoronoiInterstitialGenerator(min_dist=min_radius)
    places = [np.asarray(result.site.frac_coords) for result in generator.generate(structure, [host.elements[0]])]
    low, high = _range(host)
    inside = []
    for point in places:
        wrapped = low + (point - low) % 1.0
        if (wrapped <= high + 1e-9).all():
            inside.append(wrapped)
    return inside
