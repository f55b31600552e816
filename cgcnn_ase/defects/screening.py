"""Screen hosts: all their defects ranked by formation energy, and folders to send the best of them to DFT."""

import heapq
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cgcnn_ase.core.parallel import available_cores, ordered_map
from cgcnn_ase.defects.costs import CostEstimate, DefectEnergyEstimate, cost_estimate
from cgcnn_ase.defects.plan import Defect
from cgcnn_ase.defects.point import point_defects
from cgcnn_ase.structures import as_atoms

if TYPE_CHECKING:
    import pandas as pd
    from ase import Atoms
    from pymatgen.core import Structure

    from cgcnn_ase.energies.energy_model import EnergySource


# wave function and density cut-offs, Ry, that the pseudopotential libraries of the field ask for with these elements
CUTOFF, DENSITY_CUTOFF = 60.0, 240.0

# reasons that a warning names
_REASONS = 2

# distance of k points, 1/Å (2 pi included)
K_SPACING = 0.25

# atomic numbers that start with a magnetic moment: open 3d and f shells
_MAGNETIC = (*range(23, 30), *range(58, 61), *range(62, 64), *range(64, 71), 92)


class Screened(NamedTuple):
    """A defect, and what it costs."""

    defect: Defect
    cost: DefectEnergyEstimate


def screen(
    host: "Atoms | Structure",
    kinds: str | Sequence[str] = ("vacancy",),
    *,
    model: "EnergySource" = "vacancy-formation-energy",
    estimate: CostEstimate | None = None,
    name: str = "host",
    **options: Any,
) -> list[Screened]:
    """Find every symmetry-distinct defect of a host, with its formation energy.

    Parameters
    ----------
    kinds, name, options
        As in :func:`cgcnn_ase.defects.point.point_defects`.
    model, estimate
        As in :func:`cgcnn_ase.defects.costs.cost_estimate`; or the estimate itself.

    Raises
    ------
    ValueError
        If there are no such defects, or the model cannot predict one.
    """
    estimate = estimate or cost_estimate(model)
    host = as_atoms(host)
    defects = list(point_defects(host, kinds, name=name, **options))
    return list(map(Screened, defects, estimate(name, host, defects)))


@dataclass(frozen=True)
class Screening:
    """Request to every host of a screening; picklable, so that worker processes can do it."""

    # kinds, options: as in :func:`cgcnn_ase.defects.point.point_defects`
    kinds: tuple[str, ...] = ("vacancy",)
    # model, fidelity, chemical_potentials: as in :func:`cgcnn_ase.defects.costs.cost_estimate`; the model by name or
    # path
    model: str = "vacancy-formation-energy"
    fidelity: str | None = None
    chemical_potentials: Mapping[str, float] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def estimate(self) -> CostEstimate:
        """The estimate of formation energies; made once a process."""
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
    """Screened defects by energy: ``costs`` has all of them, equal ones by id.

    Of the ``n_lowest`` of lowest energy and the ``n_uncertain`` of largest std the structures are kept, too, in
    ``lowest`` and ``uncertain``.
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

    def warning(self) -> str | None:
        """Tell in one line that no row is in the model's domain, with the most frequent reasons; None if one is."""
        if not self.costs or any(cost.in_domain is not False for cost in self.costs):
            return None
        reasons = Counter(cost.reason for cost in self.costs).most_common(_REASONS)
        told = ", and ".join(f"{reason} ({n})" if len(reasons) > 1 else reason for reason, n in reasons)
        n = len(self.costs)
        return f"{'the only defect is' if n == 1 else f'all {n} defects are'} out of the domain of the model: {told}"

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


def write_dft_folder(folder: Path, screened: Screened, *, pseudopotentials: Mapping[str, str] | None = None) -> Path:
    """Write ``structure.extxyz``, ``POSCAR``, ``espresso.in`` and ``origin.json``, and return the folder.

    The input for Quantum ESPRESSO relaxes the positions at a fixed cell, spin polarised where there is an open d or f
    shell, with gaussian smearing. Pseudopotential files are named ``X.upf`` unless given, to be put into ``pseudo``.

    Parameters
    ----------
    pseudopotentials
        File names by element.
    """
    from ase.io import write

    atoms = screened.defect.atoms
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "structure.extxyz", atoms, format="extxyz")
    write(folder / "POSCAR", atoms, format="vasp", direct=True, sort=True)
    _write_espresso(folder / "espresso.in", atoms, pseudopotentials or {})
    origin = {"manifest": screened.defect.manifest.to_row(), "cost": screened.cost.to_dict()}
    (folder / "origin.json").write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")
    return folder


def k_points(atoms: "Atoms", *, spacing: float = K_SPACING) -> tuple[int, int, int]:
    """Smallest grid whose points are at most ``spacing`` (1/Å) apart; 1 where the cell is not periodic."""
    lengths = 2 * np.pi * np.linalg.norm(np.linalg.pinv(atoms.cell.array).T, axis=1)
    counts = np.where(atoms.pbc, np.maximum(1, np.ceil(lengths / spacing - 1e-9)), 1).astype(int)
    return int(counts[0]), int(counts[1]), int(counts[2])


def _write_espresso(file: Path, atoms: "Atoms", pseudopotentials: Mapping[str, str]) -> None:
    from ase.io import write

    atoms = atoms.copy()
    magnetic = np.isin(atoms.numbers, _MAGNETIC)
    if magnetic.any():
        atoms.set_initial_magnetic_moments(magnetic.astype(float))
    settings: dict[str, dict[str, object]] = {
        "control": {"calculation": "relax", "tprnfor": True, "pseudo_dir": "pseudo"},
        "system": {
            "ecutwfc": CUTOFF,
            "ecutrho": DENSITY_CUTOFF,
            "occupations": "smearing",
            "smearing": "gaussian",
            "degauss": 0.005,
        },
        "electrons": {"conv_thr": 1e-8},
    }
    if magnetic.any():
        settings["system"]["nspin"] = 2
    names = {
        element: pseudopotentials.get(element, f"{element}.upf")
        for element in dict.fromkeys(atoms.get_chemical_symbols())
    }
    write(file, atoms, format="espresso-in", input_data=settings, pseudopotentials=names, kpts=k_points(atoms))
