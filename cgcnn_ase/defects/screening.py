"""Screen hosts: all their defects, what each costs, and which to send to DFT."""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cgcnn_ase.defects.costs import CostEstimate, DefectCost, cost_estimate
from cgcnn_ase.defects.plan import Defect
from cgcnn_ase.defects.point import point_defects

if TYPE_CHECKING:
    import pandas as pd
    from ase import Atoms

    from cgcnn_ase.defects.costs import Model


class Screened(NamedTuple):
    """A defect, and what it costs."""

    defect: Defect
    cost: DefectCost


def screen(
    hosts: "Iterable[tuple[str, Atoms]]",
    kinds: str | Sequence[str] = ("vacancy",),
    *,
    model: "Model | CostEstimate" = "vacancy-formation-energy",
    **options: Any,
) -> Iterator[Screened]:
    """Every symmetry-distinct defect of each host, with its cost; host by host, as they come.

    Parameters
    ----------
    hosts
        Names and structures.
    kinds, options
        As in :func:`cgcnn_ase.defects.point.point_defects`.
    model
        As in :func:`cgcnn_ase.defects.costs.cost_estimate`, or such an estimate.

    Raises
    ------
    ValueError
        As these do; the message names the host.

    Examples
    --------
    >>> ranking = Ranking(screen([("NCM811", atoms)], elements=["Li"]))  # doctest: +SKIP
    """
    estimate = model if callable(model) else cost_estimate(model)
    for name, host in hosts:
        defects = list(point_defects(host, kinds, name=name, **options))
        yield from map(Screened, defects, estimate(name, host, defects))


class Ranking:
    """Screened defects from the cheapest to the most expensive.

    The structures of the ``n_lowest`` and of the ``n_uncertain`` are kept; of the others only their rows.

    Parameters
    ----------
    screened
        Defects with their costs.
    n_lowest, n_uncertain
        How many structures to keep: of lowest energy, and of largest std.

    Attributes
    ----------
    costs
        One a defect, by energy, equal ones by id.
    """

    def __init__(self, screened: Iterable[Screened], *, n_lowest: int = 10, n_uncertain: int = 10) -> None:
        for what, n in (("n_lowest", n_lowest), ("n_uncertain", n_uncertain)):
            if n < 0:
                raise ValueError(f"{what} must be 0 or more, not {n}")
        costs: list[DefectCost] = []
        low: list[tuple[float, int, Screened]] = []
        wide: list[tuple[float, int, Screened]] = []
        for k, found in enumerate(screened):
            costs.append(found.cost)
            _keep(low, (-found.cost.energy, -k, found), n_lowest)
            if found.cost.std is not None:
                _keep(wide, (found.cost.std, -k, found), n_uncertain)
        self.costs = sorted(costs, key=lambda cost: (cost.energy, cost.id))
        self.lowest = [found for _, _, found in sorted(low, reverse=True)]
        self.uncertain = [found for _, _, found in sorted(wide, reverse=True)]

    def __len__(self) -> int:
        return len(self.costs)

    def to_frame(self) -> "pd.DataFrame":
        """One row a defect: id, host, kind, defect, ..., energy, std, ..., in_domain, reason, multiplicity, model."""
        import pandas as pd

        return pd.DataFrame([cost.to_dict() for cost in self.costs], columns=list(DefectCost.__dataclass_fields__))


def _keep(heap: list[tuple[float, int, Screened]], entry: tuple[float, int, Screened], n: int) -> None:
    """Keep the n largest entries; the number in the middle tells equal ones apart."""
    if len(heap) < n:
        heapq.heappush(heap, entry)
    elif n:
        heapq.heappushpop(heap, entry)
