"""Screen hosts: all their defects, what each costs, and which to send to DFT."""

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from cgcnn_ase.core.parallel import available_cores, ordered_map
from cgcnn_ase.defects.costs import CostEstimate, DefectEnergyEstimate, cost_estimate
from cgcnn_ase.defects.plan import Defect
from cgcnn_ase.defects.point import point_defects

if TYPE_CHECKING:
    import pandas as pd
    from ase import Atoms

    from cgcnn_ase.defects.costs import Model


class Screened(NamedTuple):
    """A defect, and what it costs."""

    defect: Defect
    cost: DefectEnergyEstimate


def screen(
    host: "Atoms",
    kinds: str | Sequence[str] = ("vacancy",),
    *,
    model: "Model" = "vacancy-formation-energy",
    estimate: CostEstimate | None = None,
    name: str = "host",
    **options: Any,
) -> list[Screened]:
    """Every symmetry-distinct defect of a host, with its cost.

    Parameters
    ----------
    kinds, name, options
        As in :func:`cgcnn_ase.defects.point.point_defects`.
    model
        As in :func:`cgcnn_ase.defects.costs.cost_estimate`.
    estimate
        What says the costs, in place of a model.

    Raises
    ------
    ValueError
        If there are no such defects, or the model cannot predict one.

    Examples
    --------
    >>> ranking = Ranking(screen(atoms, elements=["Li"]))  # doctest: +SKIP
    """
    estimate = estimate or cost_estimate(model)
    defects = list(point_defects(host, kinds, name=name, **options))
    return list(map(Screened, defects, estimate(name, host, defects)))


@dataclass(frozen=True)
class Screening:
    """What is asked of every host of a screening; picklable, so that worker processes can do it.

    Attributes
    ----------
    kinds, options
        As in :func:`cgcnn_ase.defects.point.point_defects`.
    model, fidelity, chemical_potentials
        As in :func:`cgcnn_ase.defects.costs.cost_estimate`; the model by name or path.
    """

    kinds: tuple[str, ...] = ("vacancy",)
    model: str = "vacancy-formation-energy"
    fidelity: str | None = None
    chemical_potentials: Mapping[str, float] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def estimate(self) -> CostEstimate:
        """What the defects cost; made once a process."""
        return _estimate(self.model, self.fidelity, tuple(sorted((self.chemical_potentials or {}).items())))

    def check(self) -> None:
        """See that the model is there and predicts what is needed, before anything is screened; raises as it does."""
        self.estimate()

    def of(self, name: str, host: "Atoms") -> list[Screened]:
        """The defects of one host; raises as :func:`screen` does."""
        return screen(host, self.kinds, estimate=self.estimate(), name=name, **self.options)


@lru_cache(maxsize=2)
def _estimate(model: str, fidelity: str | None, potentials: tuple[tuple[str, float], ...]) -> CostEstimate:
    return cost_estimate(model, fidelity=fidelity, chemical_potentials=dict(potentials) or None)


class HostResult(NamedTuple):
    """The defects of a host, or why there are none."""

    name: str
    defects: list[Screened]
    error: str | None


def screen_hosts(
    hosts: "Iterable[tuple[str, Atoms]]", screening: Screening, *, workers: int | None = None
) -> Iterator[HostResult]:
    """Screen hosts one by one, in their order; one that cannot be screened has an ``error`` and costs no other.

    Parameters
    ----------
    workers
        Processes, by default one for each core.
    """
    workers = available_cores() if workers is None else workers
    if workers == 1:
        for name, host in hosts:
            yield _screen_one(screening, name, host)
        return
    with closing(ordered_map(_screen_one, ((screening, *host) for host in hosts), workers)) as results:
        yield from results


def _screen_one(screening: Screening, name: str, host: "Atoms") -> HostResult:
    try:
        return HostResult(name, screening.of(name, host), None)
    except ValueError as error:
        return HostResult(name, [], str(error) if name in str(error) else f"{name}: {error}")


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
    lowest, uncertain
        The defects whose structures are kept.
    """

    def __init__(self, screened: Iterable[Screened], *, n_lowest: int = 10, n_uncertain: int = 10) -> None:
        for what, n in (("n_lowest", n_lowest), ("n_uncertain", n_uncertain)):
            if n < 0:
                raise ValueError(f"{what} must be 0 or more, not {n}")
        costs: list[DefectEnergyEstimate] = []
        low: list[tuple[float, int, Screened]] = []
        wide: list[tuple[float, int, Screened]] = []
        for k, result in enumerate(screened):
            costs.append(result.cost)
            _keep(low, (-result.cost.energy, -k, result), n_lowest)
            if result.cost.std is not None:
                _keep(wide, (result.cost.std, -k, result), n_uncertain)
        self.costs = sorted(costs, key=lambda cost: (cost.energy, cost.id))
        self.lowest = [result for _, _, result in sorted(low, key=lambda entry: entry[:2], reverse=True)]
        self.uncertain = [result for _, _, result in sorted(wide, key=lambda entry: entry[:2], reverse=True)]

    def __len__(self) -> int:
        return len(self.costs)

    def to_frame(self) -> "pd.DataFrame":
        """One row a defect: id, host, kind, defect, ..., energy, std, ..., in_domain, reason, multiplicity, model."""
        import pandas as pd

        return pd.DataFrame(
            [cost.to_dict() for cost in self.costs], columns=list(DefectEnergyEstimate.__dataclass_fields__)
        )


def _keep(heap: list[tuple[float, int, Screened]], entry: tuple[float, int, Screened], n: int) -> None:
    """Keep the n largest entries; the number in the middle tells equal ones apart."""
    if len(heap) < n:
        heapq.heappush(heap, entry)
    elif n:
        heapq.heappushpop(heap, entry)
