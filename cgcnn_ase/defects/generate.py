"""The defects that the options of ``cgcnn-ase defects`` ask for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypedDict

from cgcnn_ase.defects.plan import Defect
from cgcnn_ase.defects.supercell import SupercellLike

if TYPE_CHECKING:
    from ase import Atoms

# a supercell in a file: n, three numbers, or rows of a matrix
Repeats = int | list[int] | list[list[int]] | None


@dataclass(frozen=True, kw_only=True)
class DefectOptions:
    """Options of the defects of a host. The command's options have the same names, with hyphens."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    # see `point_defects`; ``all`` stands for those of one place that the host and the options allow
    kind: str | list[str] = "vacancy"
    # element, dopant: elements whose sites become defective, by default all (of random vacancies lithium); elements to
    # put in
    element: str | list[str] | None = None
    dopant: str | list[str] | None = None
    # supercell, min_distance, diagonal, max_atoms: see `point_defects`; lengths in Å
    supercell: Repeats = None
    min_distance: float = 10.0
    diagonal: bool = False
    max_atoms: int | None = None
    # num, n_vacancies: so many random structures with vacancies, instead of all distinct defects; see
    # `random_vacancies`
    num: int | None = None
    n_vacancies: int | float = 1
    seed: int = 42  # of random structures and distortions
    # pair, range: of cation mixing: the elements, and ``all``, ``near`` or ``far``
    pair: tuple[str, str] = ("Li", "Ni")
    range: str = "all"
    # of, size, cutoff: of complexes: the kinds they are made of, the most defects in one; Å between defects
    of: str | list[str] = "vacancy"
    size: int = 2
    cutoff: float | None = None
    # interstitials, min_radius: how places are found, ``holes`` or ``voronoi``; Å to the nearest atom
    interstitials: str = "holes"
    min_radius: float = 1.0
    charges: bool = False  # guess charge states with doped, for the manifest
    # distort, bond_distortion: distort the bonds at the defect with ShakeNBreak; -0.3 makes them 30 % shorter
    distort: bool = False
    bond_distortion: float = -0.3


class _CellOptions(TypedDict):
    """Options of the supercell that all generators take."""

    supercell: SupercellLike | None
    min_distance: float
    diagonal: bool
    max_atoms: int | None
    name: str


def generate_defects(host: "Atoms", options: DefectOptions, *, name: str = "host") -> Iterator[Defect]:
    """Make the defects of a host, one by one; its name is for the ids and manifests.

    A `ValueError` at once says what is allowed in place of a bad host or option; an `ImportError`, that charges or
    distortions are asked for and their package is not installed.
    """
    from cgcnn_ase.defects.augmentation import random_vacancies
    from cgcnn_ase.defects.point import point_defects

    cell: _CellOptions = {
        "supercell": options.supercell, "min_distance": options.min_distance, "diagonal": options.diagonal,
        "max_atoms": options.max_atoms, "name": name,
    }  # fmt: skip
    kinds, elements, dopants = _list(options.kind), _list_or_none(options.element), _list_or_none(options.dopant)
    if options.num is None:
        defects = point_defects(
            host, _kinds(kinds, host, dopants), elements=elements, dopants=dopants,
            interstitial_method=options.interstitials, min_radius=options.min_radius, pair=options.pair,
            pair_range=options.range, complex_of=_list(options.of), complex_size=options.size,
            cutoff=options.cutoff, **cell,
        )  # fmt: skip
    else:
        n = options.n_vacancies
        defects = random_vacancies(
            host, _one_element(kinds, elements), num=options.num, seed=options.seed,
            n_vacancies=n if n < 1 or n % 1 else int(n), **cell,
        )  # fmt: skip
    if options.charges:
        from cgcnn_ase.defects.refine import with_charges

        defects = with_charges(defects, host)
    if options.distort:
        from cgcnn_ase.defects.refine import distorted

        distortion, seed = options.bond_distortion, options.seed
        defects = (distorted(defect, bond_distortion=distortion, seed=seed) for defect in defects)
    return defects


def _list(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _list_or_none(value: str | Sequence[str] | None) -> list[str] | None:
    return None if value is None else _list(value)


def _kinds(asked: Sequence[str], host: "Atoms", dopants: Sequence[str] | None) -> list[str]:
    """The kinds; ``all`` are those of one place that the host and the options allow."""
    possible = ["vacancy"]
    possible += ["antisite"] if len(set(host.numbers)) > 1 else []
    possible += ["substitution"] if dopants else []
    possible += ["interstitial"]
    return [one for kind in asked for one in (possible if kind == "all" else [kind])]


def _one_element(kinds: Sequence[str], elements: Sequence[str] | None) -> str:
    """The element of random vacancies: lithium by default."""
    if list(kinds) != ["vacancy"]:
        raise ValueError(f"num makes random vacancies, not kind {' '.join(kinds)}")
    if elements is not None and len(elements) != 1:
        raise ValueError(f"num takes one element, there are {len(elements)}: {', '.join(elements)}")
    return elements[0] if elements else "Li"
