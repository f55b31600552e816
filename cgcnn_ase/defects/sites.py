"""Plans of the defects on one site: vacancies, antisites, substitutions."""

from collections.abc import Iterator, Sequence

from .host import Host
from .plan import Change, Plan, replacement, vacancy
from .symmetry import Symmetry


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
