"""Chemical potentials at which a host is in equilibrium with its competing phases, for the energies of its defects."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cgcnn_ase.core.elements import symbols
from cgcnn_ase.stability.phases import CompetingPhases, counts, known_phases, reduced

#: the limit that is none of the hull's: each element by itself
ELEMENTS = "elements"
_RICH, _POOR = "rich", "poor"
# planes this near to the hull at the host are the hull there; potentials this near are equal, eV
_ON_HULL, _SAME = 1e-7, 6


@dataclass(frozen=True)
class ChemicalPotentials:
    """One corner of the region of chemical potentials in which a host is stable."""

    limits: tuple[str, ...]  # the limits that it is, as ``Li-rich``; none for a corner in between
    relative: dict[str, float]  # eV/atom, against the elements
    phases: tuple[str, ...]  # formulas that are in equilibrium with the host there
    host: str  # reduced formula
    scale: str
    source: str  # of the competing phases, in words
    note: str = ""  # where the host is no stable phase

    def to_dict(self) -> dict[str, Any]:
        """Field names and values."""
        return asdict(self)


def chemical_potentials(
    host: str, phases: CompetingPhases | None = None, *, elements: Iterable[str] = ()
) -> list[ChemicalPotentials]:
    r"""Corners of the region of chemical potentials in which a host is stable.

    There :math:`\sum_i x_i \mu_i = E` of the host and :math:`\le E'` of every competing phase: the planes of the hull
    that meet in the host (:math:`\mu` against the elements). Of a host above the hull, or not among the phases, the
    corners are those at which what it falls apart into coexists, mostly one, and the ``note`` says so.

    Parameters
    ----------
    host
        Its formula.
    phases
        By default the package's table of the Materials Project, on the scale ``mp2020``.
    elements
        Others that a defect brings, such as a dopant: their potentials are as high as the competing phases allow.

    Raises
    ------
    ValueError
        If the formula, or an element, is not known.
    """
    known = phases or known_phases()
    formula = reduced(host)
    names = {symbol: z for z, symbol in enumerate(symbols()) if z}
    if unknown := sorted(set(elements) - names.keys()):
        raise ValueError(f"{unknown[0]!r} is no element")
    system = sorted({*counts(formula), *(names[symbol] for symbol in elements)})
    hull, indices = known.hull(system)
    x = np.array([counts(formula).get(z, 0.0) for z in system])
    heights = hull.planes @ (x / x.sum())
    corners: dict[tuple[float, ...], set[str]] = {}
    for plane in np.flatnonzero(heights > heights.max() - _ON_HULL):
        key = tuple((np.round(hull.planes[plane], _SAME) + 0.0).tolist())
        present = {
            symbols()[system[k]] if indices[k] < 0 else known.phases[indices[k]].formula for k in hull.corners[plane]
        }
        corners.setdefault(key, set()).update(present)
    is_stable = all(formula in present for present in corners.values())
    order = sorted(corners)
    limits = _limits(order, [symbols()[z] for z in system])
    return [
        ChemicalPotentials(
            limits=tuple(name for name, at in limits.items() if at == key),
            relative={symbols()[z]: mu for z, mu in zip(system, key, strict=True)},
            phases=tuple(sorted(corners[key] - {formula})),
            host=formula,
            scale=known.scale,
            source=known.source,
            note=""
            if is_stable or len(system) == 1
            else f"{formula} is no stable phase of these: the potentials are those at which "
            f"{' + '.join(sorted(corners[key]))} coexist",
        )
        for key in order
    ]


def chemical_potentials_at(
    host: str, limit: str, phases: CompetingPhases | None = None, *, elements: Iterable[str] = ()
) -> ChemicalPotentials:
    """The corner that a limit means: ``Li-rich`` where lithium's potential is highest, ``Li-poor`` where it is lowest.

    Of several such corners that with the highest potentials of the other elements, in the order of their atomic
    numbers. Other parameters and errors are those of :func:`chemical_potentials`; a limit that does not exist is a
    `ValueError`.
    """
    result = chemical_potentials(host, phases, elements=elements)
    for one in result:
        if limit in one.limits:
            return one
    allowed = [f"{name}-{end}" for name in result[0].relative for end in (_RICH, _POOR)]
    raise ValueError(f"no limit {limit!r} of {result[0].host}; allowed: {', '.join([ELEMENTS, *allowed])}")


def _limits(corners: Sequence[tuple[float, ...]], names: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """The corner of each limit."""
    result = {}
    for k, name in enumerate(names):
        result[f"{name}-{_RICH}"] = max(corners, key=lambda corner: (corner[k], corner))
        result[f"{name}-{_POOR}"] = max(corners, key=lambda corner: (-corner[k], corner))
    return result
