"""What can be done at each place of a host where several defects are to be near one another."""

from collections.abc import Callable, Sequence

from .host import Host
from .interstitials import Hole
from .plan import Change, replacement, vacancy


def site_options(
    host: Host, kinds: Sequence[str], elements: Sequence[str], dopants: Sequence[str] | None
) -> list[list[Change]]:
    """What can be done at each site: a vacancy, an antisite, a dopant."""
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


def hole_options(host: Host, holes: Sequence[Hole], inserted: Sequence[str]) -> list[list[Change]]:
    """What can be put in each place of each hole."""
    return [
        [
            Change(f"{element}_i", "", element, None, (0, 0, 0), tuple(map(float, place @ host.cell)))
            for element in inserted
        ]
        for hole in holes
        for place in hole.orbit
    ]
