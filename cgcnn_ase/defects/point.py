"""Point defects of a host: every one that symmetry tells apart, one at a time."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from .host import Host, check_elements, check_host
from .interstitials import METHODS, interstitials
from .plan import Defect, Maker, Plan
from .sites import antisites, substitutions, vacancies
from .supercell import Given, make_supercell
from .symmetry import find_symmetry

if TYPE_CHECKING:
    from ase import Atoms

KINDS = ("vacancy", "antisite", "substitution", "interstitial")


def point_defects(
    host: "Atoms",
    kinds: str | Sequence[str] = ("vacancy",),
    *,
    elements: Sequence[str] | None = None,
    dopants: Sequence[str] | None = None,
    supercell: Given | None = None,
    min_distance: float = 10.0,
    diagonal: bool = False,
    max_atoms: int | None = None,
    name: str = "host",
    interstitial_method: str = "holes",
    min_radius: float = 1.0,
) -> Iterator[Defect]:
    """The symmetry-distinct point defects of a host, each in a supercell.

    The atoms keep the order of the host, repeated: those of cell 0, then those of the next. A vacancy is
    one atom less, another element on a site keeps its place, an interstitial comes last.

    Parameters
    ----------
    host
        A crystal or layer, whole: no defects, no partial occupancies. A layer is a host with a gap of more than 6 Å
        along a cell vector, or one that is not periodic there.
    kinds
        ``vacancy``, ``antisite``, ``substitution``, ``interstitial``; one or several.
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

    Returns
    -------
    iterator of Defect
        Made one by one.

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
    wanted = (kinds,) if isinstance(kinds, str) else tuple(dict.fromkeys(kinds))
    for kind in wanted:
        if kind not in KINDS:
            raise ValueError(f"kind {kind!r}: allowed are {', '.join(KINDS)}")
    chosen = checked.chosen(elements)
    others = None if dopants is None else check_elements(dopants, "dopant")
    if "substitution" in wanted and not others:
        raise ValueError("substitution needs dopants, the elements to put in")
    if "antisite" in wanted and len(checked.elements) == 1:
        raise ValueError(f"antisite: {name} has one element only, {checked.elements[0]}")
    if interstitial_method not in METHODS:
        raise ValueError(f"interstitial_method {interstitial_method!r}: allowed are {', '.join(METHODS)}")
    cell = make_supercell(checked, supercell, min_distance=min_distance, diagonal=diagonal, max_atoms=max_atoms)
    if "vacancy" in wanted and len(cell.atoms) == 1:
        raise ValueError(f"vacancy: the supercell of {name} has one atom, none would be left; take a larger supercell")
    maker = Maker(checked, cell)
    return (maker.make(plan) for plan in _plans(checked, wanted, chosen, others, interstitial_method, min_radius))


def _plans(
    host: Host,
    kinds: Sequence[str],
    elements: Sequence[str],
    dopants: Sequence[str] | None,
    method: str,
    min_radius: float,
) -> Iterator[Plan]:
    symmetry = find_symmetry(host)
    planners: dict[str, Callable[[], Iterator[Plan]]] = {
        "vacancy": lambda: vacancies(host, symmetry, elements),
        "antisite": lambda: antisites(host, symmetry, elements),
        "substitution": lambda: substitutions(host, symmetry, elements, dopants or ()),
        "interstitial": lambda: interstitials(
            host, symmetry, dopants or elements, method=method, min_radius=min_radius
        ),
    }
    for kind in kinds:
        yield from planners[kind]()
