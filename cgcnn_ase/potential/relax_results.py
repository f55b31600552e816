"""Settings of a relaxation, and the row of each relaxed structure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from ase import Atoms


@dataclass(frozen=True, kw_only=True)
class RelaxOptions:
    """How structures are relaxed; see :func:`relax`."""

    fmax: float = 0.05
    steps: int = 500
    fixed_cell: bool = False
    keep_symmetry: bool = False
    trajectory: bool = False

    def __post_init__(self) -> None:
        if not self.fmax > 0:
            raise ValueError(f"fmax must be above 0 eV/Å, not {self.fmax:g}")
        if self.steps < 0:
            raise ValueError(f"steps must be 0 or more, not {self.steps}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxed:
    """One relaxed structure, or why there is none.

    ``energy`` is that of the cell on ``scale``, ``energy_std`` its calibrated std, both in eV; ``max_force`` is the
    largest force on an atom or, with the cell, row of virial / N, ``max_force_std`` the largest standard deviation of a
    force, both in eV/Å. A structure that is not ``converged`` is the last of its steps.
    """

    id: str
    source: str
    formula: str | None = None
    n_atoms: int | None = None
    energy: float | None = None
    energy_std: float | None = None
    scale: str | None = None
    initial_energy: float | None = None
    steps: int | None = None
    converged: bool | None = None
    max_force: float | None = None
    max_force_std: float | None = None
    n_reference_calls: int | None = None  # of a relaxation with a reference
    volume_change: float | None = None  # relative; None where not periodic in all directions
    in_domain: bool | None = None
    in_domain_reason: str = ""
    domain_score: float | None = None
    model: str
    model_sha256: str
    stopped: str = ""  # why a relaxation with a reference ended before it had converged, and what to do
    error: str | None = None
    atoms: "Atoms | None" = None  # with the results in its calculator, as ASE's writers keep them
    trajectory: "tuple[Atoms, ...]" = ()

    def row(self) -> dict[str, object]:
        """All but the structures."""
        return {name: getattr(self, name) for name in COLUMNS}


COLUMNS = tuple(name for name in Relaxed.__slots__ if name not in ("atoms", "trajectory"))


class RelaxResults(Sequence[Relaxed]):
    """Relaxed structures in the order of the input."""

    def __init__(self, rows: Sequence[Relaxed]) -> None:
        self._rows = list(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return self._rows[index]

    @property
    def atoms(self) -> "list[Atoms | None]":
        """The relaxed structures; None where there is an error."""
        return [row.atoms for row in self._rows]

    def to_frame(self) -> "pd.DataFrame":
        """One row a structure."""
        import pandas as pd

        return pd.DataFrame([row.row() for row in self._rows], columns=list(COLUMNS))
