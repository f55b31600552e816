"""Rows: how stable a structure is, with the probability of it, and what a DFT calculation would decide."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.stability.predicted_phases import DecompositionPart

if TYPE_CHECKING:
    import pandas as pd

#: degrees of freedom; of 2, 3, 4, 6 and infinitely many these give the lowest Brier score on val crystals
DEGREES = 3.0
_LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Stability:
    """How stable one structure is, or why it is not known; energies in eV/atom on ``scale``.

    ``e_above_hull`` is the predicted formation energy less the energy of the competing phases, negative where the
    crystal is predicted to lie below them. Its std and interval are those of the formation energy where the competing
    phases are known, and those of the difference where some of them are predicted. ``p_stable`` is the probability that
    the crystal lies at most ``within`` above the hull. ``gains`` are by how much p (1 - p) is expected to fall if DFT
    gave the energy of a structure, by id: the crystal's own, and those of predicted phases that it falls apart into;
    None where there are none of these, and DFT of the crystal would decide all.
    """

    id: str
    source: str
    formula: str | None = None
    formation_energy_per_atom: float | None = None
    e_above_hull: float | None = None
    e_above_hull_std: float | None = None
    lower: float | None = None  # ends of the 90 % interval of e_above_hull
    upper: float | None = None
    p_stable: float | None = None
    within: float
    decomposition: tuple[DecompositionPart, ...] = ()
    gains: Mapping[str, float] | None = None
    in_domain: bool | None = None
    in_domain_reason: str = ""
    population: str | None = None
    scale: str
    hull_source: str
    hull_sha256: str
    model: str
    model_sha256: str
    error: str | None = None

    @property
    def decomposition_in_words(self) -> str:
        """Formulas with their parts of the atoms, as ``0.67 Li2O + 0.33 NiO (predicted: sample-3)``."""
        return " + ".join(
            f"{part.fraction:.2f} {part.formula}{f' (predicted: {part.id})' if part.predicted else ''}"
            for part in self.decomposition
        )

    @property
    def against_elements(self) -> bool:
        """True of a compound that is held against the elements alone: no stable compound of them is known."""
        return len(self.decomposition) > 1 and not any(part.id for part in self.decomposition)

    def to_dict(self) -> dict[str, Any]:
        """Field names and values."""
        return asdict(self)


_NO_COLUMNS = ("source", "error", "decomposition", "gains")
#: columns of :meth:`StabilityResults.to_frame` and of CSV output
COLUMNS = (*(each.name for each in fields(Stability) if each.name not in _NO_COLUMNS), "decomposition")


def columns_of(row: Stability) -> list[object]:
    """The values of a row of a table."""
    return [row.decomposition_in_words if name == "decomposition" else getattr(row, name) for name in COLUMNS]


class StabilityResults(Mapping[str, Stability]):
    """Rows by id of their structure; those that failed are in ``failures``."""

    def __init__(self, rows: Sequence[Stability]) -> None:
        self.all = [row for row in rows if row.error is None]
        self.failures = [row for row in rows if row.error is not None]
        self._by_id = {row.id: row for row in self.all}

    def __getitem__(self, name: str) -> Stability:
        return self._by_id[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_id)

    def __len__(self) -> int:
        return len(self._by_id)

    def to_frame(self) -> "pd.DataFrame":
        """A table with a row for each structure."""
        import pandas as pd

        return pd.DataFrame([columns_of(row) for row in self.all], columns=list(COLUMNS))

    def worth_computing(self, n: int = 5) -> "list[WorthComputing]":
        """The structures of which a DFT calculation would decide most, the first most."""
        tally = DFTGains()
        for row in self.all:
            tally.add(row)
        return tally.best(n)


class WorthComputing(NamedTuple):
    """A structure, or a competing one, of which DFT would decide something."""

    id: str
    gain: float  # expected fall of p (1 - p), summed over all rows
    p_stable: float | None  # its own; None of a structure that only competes
    rows: tuple[str, ...]  # ids of the structures that it bears on


class DFTGains:
    """Expected gains of a DFT calculation of each structure, added up row by row."""

    def __init__(self) -> None:
        self._gains: dict[str, float] = {}
        self._p: dict[str, float] = {}
        self._rows: dict[str, list[str]] = {}

    def add(self, row: Stability) -> None:
        """Count a row."""
        if row.p_stable is None:
            return
        self._p[row.id] = row.p_stable
        alone = {row.id: row.p_stable * (1.0 - row.p_stable)}
        for name, gain in (alone if row.gains is None else row.gains).items():
            if gain > 0.0:
                self._gains[name] = self._gains.get(name, 0.0) + gain
                self._rows.setdefault(name, []).append(row.id)

    def best(self, n: int) -> list[WorthComputing]:
        """The n structures that would decide most, the first most."""
        names = sorted(self._gains, key=lambda name: -self._gains[name])[:n]
        return [WorthComputing(name, self._gains[name], self._p.get(name), tuple(self._rows[name])) for name in names]


def probability_below(
    limit: Floats, value: Floats, lower: Floats, upper: Floats, *, degrees: float = DEGREES
) -> Floats:
    r"""P(E < limit), (n,), of predictions with a 90 % interval; NaN where there is none.

    Errors have heavier tails than a normal distribution, and may be larger on one side. Each side is half of a Student
    t distribution with few degrees of freedom, whose 95 % point is the end of the interval [l, u]:

    .. math:: P(E < e) = T_\nu\left(t_{\nu, 0.95}\, \frac{e - \mu}{u - \mu}\right), \quad e > \mu

    and with :math:`\mu - l` in place of :math:`u - \mu` below. Where the interval has no width, the value is known, and
    one at the limit counts as below it.
    """
    from scipy.special import stdtr, stdtrit  # slow to import

    width = np.where(limit >= value, upper - value, value - lower)
    end = stdtrit(degrees, _LEVEL)
    with np.errstate(divide="ignore", invalid="ignore"):
        result: Floats = stdtr(degrees, end * (limit - value) / width)
    result = np.where(width == 0.0, np.where(limit >= value, 1.0, 0.0), result)
    return np.where(np.isfinite(width), result, np.nan)


def expected_gain(p: float, explained: float) -> float:
    r"""Expected fall of p (1 - p), the variance of "is stable", once a share of the error's variance is known.

    With :math:`p = \Phi(z)` and the share :math:`r^2` the expected variance is

    .. math:: E[p'(1 - p')] = 2\,T\!\left(z, \sqrt{\tfrac{1 - r^2}{1 + r^2}}\right)

    where T is Owen's function: :math:`p (1 - p)` for :math:`r = 0`, nothing for :math:`r = 1`.
    """
    from scipy.special import ndtri, owens_t  # slow to import

    if not 0.0 < p < 1.0:
        return 0.0
    return p * (1.0 - p) - 2.0 * float(owens_t(ndtri(p), np.sqrt((1.0 - explained) / (1.0 + explained))))
