"""Screen hosts: all their defects ranked by formation energy, with what can be trusted in the order."""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cgcnn_ase.core.parallel import available_cores, ordered_map
from cgcnn_ase.defects.costs import CostEstimate, DefectEnergyEstimate, Relaxation, cost_estimate
from cgcnn_ase.defects.dft_folder import pristine_supercell
from cgcnn_ase.defects.plan import Defect
from cgcnn_ase.defects.point import point_defects
from cgcnn_ase.defects.supercell_energy import as_list
from cgcnn_ase.energies.interface import Energies
from cgcnn_ase.stability.chemical_potentials import ELEMENTS
from cgcnn_ase.stability.phases import read_phases
from cgcnn_ase.structures import as_atoms
from cgcnn_ase.uncertainty.protocol import Population

if TYPE_CHECKING:
    import pandas as pd
    from ase import Atoms
    from pymatgen.core import Structure

    from cgcnn_ase.energies.energy_model import EnergySource


# reasons that a warning names, and hosts that a note does
_REASONS, _HOSTS = 2, 5


class Screened(NamedTuple):
    """A defect, and what it costs."""

    defect: Defect
    cost: DefectEnergyEstimate
    pristine: "Atoms | None" = None  # the supercell without the defect


def screen(
    host: "Atoms | Structure",
    kinds: str | Sequence[str] = ("vacancy",),
    *,
    model: "EnergySource" = "vacancy-formation-energy",
    estimate: CostEstimate | None = None,
    relaxation: Relaxation | None = None,
    second_opinion: "EnergySource | Iterable[EnergySource]" = (),
    name: str = "host",
    **options: Any,
) -> list[Screened]:
    """Find every symmetry-distinct defect of a host, with its formation energy.

    Parameters
    ----------
    kinds, name, options
        As in :func:`cgcnn_ase.defects.point.point_defects`.
    model, relaxation, second_opinion, estimate
        As in :func:`cgcnn_ase.defects.costs.cost_estimate`; or the estimate itself.

    Raises
    ------
    ValueError
        If there are no such defects, or the model cannot predict one.
    """
    estimate = estimate or cost_estimate(model, relaxation=relaxation, second_opinion=second_opinion)
    host = as_atoms(host)
    defects = list(point_defects(host, kinds, name=name, **options))
    pristine: dict[tuple[int, ...], Atoms] = {}
    for _, manifest in defects:
        if manifest.supercell not in pristine:
            pristine[manifest.supercell] = pristine_supercell(host, manifest)
    costs = estimate(name, host, defects)
    return [
        Screened(defect, cost, pristine[defect.manifest.supercell]) for defect, cost in zip(defects, costs, strict=True)
    ]


@dataclass(frozen=True)
class Screening:
    """Request to every host of a screening; picklable, so that worker processes can do it."""

    # kinds, options: as in :func:`cgcnn_ase.defects.point.point_defects`
    kinds: tuple[str, ...] = ("vacancy",)
    # model, fidelity, chemical_potentials, population, relaxation, second_opinion: as in
    # :func:`cgcnn_ase.defects.costs.cost_estimate`; the models by name or path, calculators only of second opinions,
    # which several worker processes must be able to pickle. limit: of the chemical potentials, with
    # competing phases of ``entries`` (as :func:`cgcnn_ase.stability.phases.read_phases` takes them) or the package's
    model: str = "vacancy-formation-energy"
    fidelity: str | None = None
    chemical_potentials: Mapping[str, float] | None = None
    population: Population = "hypothetical"
    relaxation: Relaxation | None = None
    limit: str = ELEMENTS
    entries: Path | None = None
    second_opinion: "Sequence[EnergySource]" = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def estimate(self) -> CostEstimate:
        """The estimate of formation energies; made once a process."""
        return _estimate(
            self.model, self.fidelity, tuple(sorted((self.chemical_potentials or {}).items())), self.population,
            self.relaxation, self.limit, self.entries, tuple(as_list(self.second_opinion)),
        )  # fmt: skip

    def check(self) -> None:
        """See that the model is there and predicts what is needed, before anything is screened; raises as it does."""
        self.estimate()

    def of(self, name: str, host: "Atoms") -> list[Screened]:
        """The defects of one host; raises as :func:`screen` does."""
        return screen(host, self.kinds, estimate=self.estimate(), name=name, **self.options)


@lru_cache(maxsize=2)
def _estimate(
    model: str,
    fidelity: str | None,
    potentials: tuple[tuple[str, float], ...],
    population: Population,
    relaxation: Relaxation | None,
    limit: str,
    entries: Path | None,
    second_opinion: "tuple[EnergySource, ...]",
) -> CostEstimate:
    return cost_estimate(
        model, fidelity=fidelity, chemical_potentials=dict(potentials) or None, population=population,
        relaxation=relaxation, limit=limit, phases=None if entries is None else read_phases(entries),
        second_opinion=second_opinion,
    )  # fmt: skip


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


RANKING_COLUMNS = (
    *(name for name in DefectEnergyEstimate.__dataclass_fields__ if name != "members"),
    "above_cheapest", "above_cheapest_std", "p_cheapest",
)  # fmt: skip


class Ranking:
    """Screened defects by energy: ``costs`` has all of them, equal ones by id.

    Of the ``n_lowest`` of lowest energy and the ``n_uncertain`` of largest std the structures are kept, too, in
    ``lowest`` and ``uncertain``. What can be trusted in the order is in ``above_cheapest``, the energies above the
    first one with the std of the difference, and in ``p_cheapest``, the probability of each to be the cheapest: both go
    by the members of the ensemble, whose errors of two defects are alike.
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
        scales = sorted({cost.scale for cost in costs if cost.scale is not None})
        if len(scales) > 1:
            raise ValueError(f"energies on the scales {' and '.join(scales)} never rank together")
        self.costs = sorted(costs, key=lambda cost: (cost.energy, cost.id))
        self.lowest = [result for _, _, result in sorted(low, key=lambda entry: entry[:2], reverse=True)]
        self.uncertain = [result for _, _, result in sorted(wide, key=lambda entry: entry[:2], reverse=True)]

    def __len__(self) -> int:
        return len(self.costs)

    def warning(self) -> str | None:
        """Tell in one line that no row is in the model's domain, with the most frequent reasons; None if one is."""
        if not self.costs or any(cost.in_domain is not False for cost in self.costs):
            return None
        reasons = Counter(cost.reason for cost in self.costs).most_common(_REASONS)
        told = ", and ".join(f"{reason} ({n})" if len(reasons) > 1 else reason for reason, n in reasons)
        n = len(self.costs)
        return f"{'the only defect is' if n == 1 else f'all {n} defects are'} out of the domain of the model: {told}"

    def about_energies(self) -> list[str]:
        """Sentences on the scale of the energies and the chemical potentials; none of a model of sites."""
        if not self.costs or not self.costs[0].limit:
            return []
        cost = self.costs[0]
        corrected = sum(each.correction != 0.0 for each in self.costs)
        of = f", to which {corrected} of them were corrected (column correction)" if corrected else ""
        scale = f"the scale {cost.scale}{of}" if cost.scale else "a scale that the model does not state"
        sets = {"elements": "the elements themselves", "given": "as given"}
        notes = [f"energies are on {scale}; chemical potentials: {sets.get(cost.limit, cost.limit)}"]
        if cost.limit not in sets:
            hosts = dict.fromkeys((each.host, each.limit_phases) for each in self.costs)
            shown = list(hosts)[:_HOSTS]
            notes += [f"{host} is there in equilibrium with {phases}" for host, phases in shown]
            notes += [f"... and {len(hosts) - len(shown)} more hosts"] if len(hosts) > len(shown) else []
        return notes

    def unconverged(self) -> str | None:
        """Tell in one line how many relaxations did not end; None where all did, or nothing was relaxed."""
        n = sum(cost.converged is False for cost in self.costs)
        if not n:
            return None
        return f"{n} of {len(self.costs)} defects are not relaxed to the end (converged is False): the reason says why"

    @cached_property
    def _energies(self) -> Energies:
        """All energies in their order, with the members where every defect has them."""
        members = [cost.members for cost in self.costs]
        known = [column for column in members if column is not None]
        stds = [cost.std for cost in self.costs if cost.std is not None]
        whole = len(known) == len(members) and len({len(column) for column in known}) == 1
        return Energies(
            np.array([cost.energy for cost in self.costs]),
            np.array(known).T if whole else None,
            np.array(stds) if len(stds) == len(members) else None,
        )

    @cached_property
    def above_cheapest(self) -> list[tuple[float, float | None]]:
        """Energy above the first one, eV, and the std of this difference; None without an ensemble."""
        if not self.costs:
            return []
        values, stds = self._energies.differences(0)
        return [(float(value), None if stds is None else float(stds[k])) for k, value in enumerate(values)]

    @cached_property
    def p_cheapest(self) -> list[float | None]:
        """Probability of each to be the cheapest of all that were screened; None without an ensemble."""
        p = self._energies.probability_lowest() if self.costs else None
        return [None] * len(self.costs) if p is None else p.tolist()

    def rows(self) -> list[dict[str, object]]:
        """One row a defect: its fields, and how it stands against the cheapest."""
        return [
            cost.to_dict() | {"above_cheapest": above, "above_cheapest_std": std, "p_cheapest": p}
            for cost, (above, std), p in zip(self.costs, self.above_cheapest, self.p_cheapest, strict=True)
        ]

    def to_frame(self) -> "pd.DataFrame":
        """One row a defect: id, host, kind, defect, ..., energy, std, ..., model, above_cheapest, ..., p_cheapest."""
        import pandas as pd

        return pd.DataFrame(self.rows(), columns=list(RANKING_COLUMNS))


def _keep(heap: list[tuple[float, int, Screened]], entry: tuple[float, int, Screened], n: int) -> None:
    """Keep the n largest entries; the number in the middle tells equal ones apart."""
    if len(heap) < n:
        heapq.heappush(heap, entry)
    elif n:
        heapq.heappushpop(heap, entry)
