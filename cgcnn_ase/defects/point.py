"""Point defects of a host: every one that symmetry tells apart, one at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cgcnn_ase.core.errors import unknown_name
from cgcnn_ase.defects.clusters import RANGES, cation_mixing, complexes, find_places, hole_options, site_options
from cgcnn_ase.defects.host import Host, Symmetry, check_elements, check_host, find_symmetry
from cgcnn_ase.defects.interstitials import METHODS, InterstitialSite, find_holes, interstitials
from cgcnn_ase.defects.plan import Change, Defect, DefectBuilder, Plan, replacement, vacancy
from cgcnn_ase.defects.supercell import SupercellLike, make_supercell

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

KINDS = ("vacancy", "antisite", "substitution", "interstitial", "cation-mixing", "complex")

# those at one place, of which complexes are made
SINGLE = KINDS[:4]

# the cutoff of complexes, Å
_NEAR = 4.0


def point_defects(
    host: "Atoms | Structure",
    kinds: str | Sequence[str] = ("vacancy",),
    *,
    elements: Sequence[str] | None = None,
    dopants: Sequence[str] | None = None,
    supercell: SupercellLike | None = None,
    min_distance: float = 10.0,
    diagonal: bool = False,
    max_atoms: int | None = None,
    name: str = "host",
    interstitial_method: str = "holes",
    min_radius: float = 1.0,
    pair: Sequence[str] = ("Li", "Ni"),
    pair_range: str = "all",
    complex_of: Sequence[str] = ("vacancy",),
    complex_size: int = 2,
    cutoff: float | None = None,
) -> Iterator[Defect]:
    """The symmetry-distinct point defects of a host, each in a supercell.

    The atoms keep the order of the host, repeated: those of cell 0, then those of the next. A vacancy is
    one atom less, another element on a site keeps its place, an interstitial comes last.

    Parameters
    ----------
    host
        A crystal or layer, as `ase.Atoms` or pymatgen ``Structure``, whole: no defects, no partial occupancies. A layer
        is a host with a gap of more than 6 Å along a cell vector, or one that is not periodic there.
    kinds
        ``vacancy``, ``antisite``, ``substitution``, ``interstitial``, ``cation-mixing`` (two cations that have changed
        places), ``complex`` (several defects near one another); one or several of them.
    elements
        Those whose sites become defective, and that are put in as interstitials; all by default.
    dopants
        Elements to substitute; where given, they are the interstitials, too.
    supercell
        n, three numbers, or a 3×3 matrix whose rows are the new cell vectors; by default the smallest cell in which
        images are `min_distance` apart.
    min_distance
        Smallest distance from a defect to its image, Å.
    diagonal
        Whether the cell vectors are only multiplied.
    max_atoms
        Most atoms of a supercell.
    name
        Of the host, for the manifests.
    interstitial_method
        ``holes`` or ``voronoi``, see `find_holes`.
    min_radius
        Distance of an interstitial to the nearest atom that is needed, Å.
    pair, pair_range
        Cation mixing: the two elements; ``all`` pairs up to the cutoff, or for each distinct site of the first element
        only those at the smallest (``near``) or largest (``far``) distance.
    complex_of, complex_size
        Complexes: the kinds they are made of, and the most defects in one.
    cutoff
        Largest distance between two defects of a pair or complex, Å; at most, and for pairs by default, half the
        distance between images, beyond which an image is nearer. For complexes the default is 4 Å.

    Returns
    -------
    iterator of Defect
        Made one by one; each has ``atoms`` and the same as a pymatgen ``structure``.

    Raises
    ------
    ValueError
        At once, for a bad host, element, kind or supercell; the message says what is allowed.

    Examples
    --------
    >>> from ase.build import bulk
    >>> salt = bulk("NaCl", "rocksalt", a=5.64)
    >>> [(defect.manifest.defect, len(defect.atoms)) for defect in point_defects(salt, supercell=3)]
    [('v_Na', 53), ('v_Cl', 53)]
    """
    checked = check_host(host, name)
    names = (kinds,) if isinstance(kinds, str) else tuple(dict.fromkeys(kinds))
    ask = DefectRequest(
        elements=checked.chosen(elements),
        dopants=None if dopants is None else check_elements(dopants, "dopant"),
        method=interstitial_method,
        min_radius=min_radius,
        pair=tuple(pair),
        pair_range=pair_range,
        complex_of=tuple(complex_of),
        complex_size=complex_size,
    )
    _check(checked, names, ask)
    cell = make_supercell(checked, supercell, min_distance=min_distance, diagonal=diagonal, max_atoms=max_atoms)
    if "vacancy" in names and len(cell.atoms) == 1:
        raise ValueError(f"vacancy: the supercell of {name} has one atom, none would be left; take a larger supercell")
    half = cell.image_distance / 2 + 1e-3
    if cutoff is not None and not 0 < cutoff <= half:
        raise ValueError(
            f"cutoff {cutoff:g}: must be positive, and at most {half:.2f} Å, half the distance between images"
        )
    if "complex" in names and cutoff is None and half < _NEAR:
        raise ValueError(
            f"complex: defects up to {_NEAR:g} Å apart need images {2 * _NEAR:g} Å apart, here they are "
            f"{cell.image_distance:.2f}; take a larger supercell or a smaller cutoff"
        )
    maker = DefectBuilder(checked, cell)
    return (maker.make(plan) for plan in _plans(checked, names, ask, cutoff or half, cutoff or _NEAR))


@dataclass(frozen=True)
class DefectRequest:
    """Options of the kinds, see `point_defects`."""

    elements: tuple[str, ...]
    dopants: tuple[str, ...] | None
    method: str
    min_radius: float
    pair: tuple[str, ...]
    pair_range: str
    complex_of: tuple[str, ...]
    complex_size: int

    @property
    def inserted(self) -> tuple[str, ...]:
        """The elements of interstitials."""
        return self.dopants or self.elements


def _check(host: Host, kinds: Sequence[str], ask: DefectRequest) -> None:
    if not kinds:
        raise ValueError(f"no kind of defect is given; allowed are {', '.join(KINDS)}")
    for kind in kinds:
        _allowed("kind", kind, KINDS)
    parts = {*kinds, *(ask.complex_of if "complex" in kinds else ())}
    if "substitution" in parts and not ask.dopants:
        raise ValueError("substitution needs dopants, the elements to put in")
    if "substitution" in parts and {*ask.elements} == {*(ask.dopants or ())} and len(ask.elements) == 1:
        raise ValueError(f"substitution: {ask.elements[0]} on a site of {ask.elements[0]} changes nothing")
    if "antisite" in parts and len(host.elements) == 1:
        raise ValueError(f"antisite: {host.name} has one element only, {host.elements[0]}")
    if "interstitial" in parts:
        _allowed("interstitial_method", ask.method, METHODS)
    if "cation-mixing" in kinds:
        _allowed("pair_range", ask.pair_range, RANGES)
        if len(set(ask.pair)) != 2 or len(ask.pair) != 2:
            raise ValueError(f"pair {' '.join(ask.pair)}: give two different elements")
        host.chosen(ask.pair)
    if "complex" in kinds:
        if not ask.complex_of:
            raise ValueError(f"complex_of: is empty; allowed are {', '.join(SINGLE)}")
        for kind in ask.complex_of:
            _allowed("complex_of", kind, SINGLE)
        if ask.complex_size < 2:
            raise ValueError(f"complex_size {ask.complex_size}: a complex has 2 or more defects")


def _allowed(what: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise unknown_name(what, value, allowed)


def _plans(host: Host, kinds: Sequence[str], ask: DefectRequest, pair_cutoff: float, cutoff: float) -> Iterator[Plan]:
    symmetry = find_symmetry(host)

    def holes() -> list[InterstitialSite]:
        return find_holes(host, symmetry, method=ask.method, min_radius=ask.min_radius)

    def groups() -> Iterator[Plan]:
        places = holes() if "interstitial" in ask.complex_of else []
        options = site_options(host, ask.complex_of, ask.elements, ask.dopants)
        options += hole_options(host, places, ask.inserted)
        return complexes(find_places(host, symmetry, options, cutoff, places), size=ask.complex_size)

    planners: dict[str, Callable[[], Iterator[Plan]]] = {
        "vacancy": lambda: vacancies(host, symmetry, ask.elements),
        "antisite": lambda: antisites(host, symmetry, ask.elements),
        "substitution": lambda: substitutions(host, symmetry, ask.elements, ask.dopants or ()),
        "interstitial": lambda: interstitials(host, holes(), ask.inserted),
        "cation-mixing": lambda: cation_mixing(
            host, symmetry, (ask.pair[0], ask.pair[1]), cutoff=pair_cutoff, which=ask.pair_range
        ),
        "complex": groups,
    }
    for kind in kinds:
        yield from planners[kind]()


def vacancies(host: Host, symmetry: Symmetry, elements: Sequence[str]) -> Iterator[Plan]:
    """One for each symmetry-distinct site of the elements."""
    for site, element in distinct_sites(host, symmetry, elements):
        yield _on_site("vacancy", symmetry, vacancy(element, site))


def antisites(host: Host, symmetry: Symmetry, elements: Sequence[str]) -> Iterator[Plan]:
    """Each symmetry-distinct site of the elements with each other element of the host on it."""
    for site, element in distinct_sites(host, symmetry, elements):
        for other in host.elements:
            if other != element:
                yield _on_site("antisite", symmetry, replacement(element, other, site))


def substitutions(host: Host, symmetry: Symmetry, elements: Sequence[str], dopants: Sequence[str]) -> Iterator[Plan]:
    """Each symmetry-distinct site of the elements with each dopant on it."""
    for site, element in distinct_sites(host, symmetry, elements):
        for dopant in dopants:
            if dopant != element:
                yield _on_site("substitution", symmetry, replacement(element, dopant, site))


def distinct_sites(host: Host, symmetry: Symmetry, elements: Sequence[str]) -> Iterator[tuple[int, str]]:
    """The first site of each orbit of the elements, with its element."""
    names = host.atoms.get_chemical_symbols()
    for site in symmetry.representatives():
        if names[site] in elements:
            yield site, names[site]


def _on_site(kind: str, symmetry: Symmetry, change: Change) -> Plan:
    assert change.site is not None
    return Plan(kind, change.name, (change,), int(symmetry.multiplicity[change.site]), symmetry.wyckoff[change.site])
