"""Energy above the hull of predicted crystals, its std, and the probability of being stable."""

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgcnn_ase.core.elements import symbols
from cgcnn_ase.energies.scales import check_scale
from cgcnn_ase.models.folder import model_entry, read_config
from cgcnn_ase.models.registry import ModelRef, load_refs
from cgcnn_ase.prediction.predictor import Predictor
from cgcnn_ase.stability.phases import CompetingPhases, counts, known_phases, read_phases, reduced
from cgcnn_ase.stability.probability import probability_below

if TYPE_CHECKING:
    import pandas as pd

    from cgcnn_ase.models.crystal_model import CrystalModel
    from cgcnn_ase.prediction.results import Prediction
    from cgcnn_ase.uncertainty.protocol import Population

MODEL, TARGET = "formation-energy-per-atom", "formation_energy_per_atom"
# what the pretrained models of formation energies have learned
_LEARNED = "mp-legacy"
_OTHER = "stability is read off a formation energy per atom; {} predicts another quantity"


@dataclass(frozen=True)
class DecompositionPart:
    """A phase that a crystal falls apart into."""

    formula: str
    id: str
    fraction: float  # of the atoms


@dataclass(frozen=True, kw_only=True)
class Stability:
    """How stable one structure is, or why it is not known; energies in eV/atom on ``scale``.

    ``e_above_hull`` is the predicted formation energy less the energy of the competing phases, negative where the
    crystal is predicted to lie below them; its std and interval are those of the formation energy, as the competing
    phases are known. ``p_stable`` is the probability that the crystal lies at most ``within`` above the hull.
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
        """Formulas with their parts of the atoms, as ``0.67 Li2O + 0.33 NiO``."""
        return " + ".join(f"{part.fraction:.2f} {part.formula}" for part in self.decomposition)

    def to_dict(self) -> dict[str, Any]:
        """Field names and values."""
        return asdict(self)


_NO_COLUMNS = ("source", "error", "decomposition")
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

    def worth_computing(self, n: int = 5) -> list[Stability]:
        """The structures of which a DFT calculation would decide most: those whose probability is nearest to a half."""
        return sorted((row for row in self.all if row.p_stable is not None), key=distance_from_half)[:n]


def distance_from_half(row: Stability) -> float:
    """How far the probability of being stable is from a half; infinite where there is none."""
    return math.inf if row.p_stable is None else abs(row.p_stable - 0.5)


class HullComparison:
    """Stability of structures whose formation energies are predicted already.

    Parameters
    ----------
    model_scale
        What the model has learned; None: what the pretrained models have.
    within, entries, scale, leave_out
        As those of :class:`StabilityPredictor`.

    Raises
    ------
    ValueError
        If the competing phases cannot be used, or a number or scale is none of the allowed.
    """

    def __init__(
        self,
        model_scale: str | None = None,
        *,
        within: float = 0.05,
        entries: "str | Path | CompetingPhases | None" = None,
        scale: str = "mp2020",
        leave_out: bool = False,
    ) -> None:
        if not math.isfinite(within):
            raise ValueError(f"within must be an energy in eV/atom, not {within:g}")
        self.model_scale = check_scale(model_scale or _LEARNED)
        self.within, self.scale, self.leave_out = within, check_scale(scale), leave_out
        if entries is None:
            self.phases = known_phases(scale)
        elif isinstance(entries, CompetingPhases):
            self.phases = entries
        else:
            self.phases = read_phases(Path(entries), scale)
        if self.phases.scale != self.scale:
            raise ValueError(f"the competing phases are on the scale {self.phases.scale}, not on {self.scale}")

    def of(self, prediction: "Prediction") -> Stability:
        """The stability of a predicted structure; a ValueError where another quantity is predicted."""
        if prediction.property != TARGET:
            raise ValueError(_OTHER.format(f"{prediction.model} ({prediction.property})"))
        row: dict[str, Any] = {
            "id": prediction.id, "source": prediction.source, "within": self.within, "scale": self.scale,
            "hull_source": self.phases.source, "hull_sha256": self.phases.sha256,
            "model": prediction.model, "model_sha256": prediction.model_sha256,
        }  # fmt: skip
        if prediction.error is not None or prediction.value is None or prediction.formula is None:
            return Stability(**row, error=prediction.error or "no formation energy")
        amounts = counts(prediction.formula)
        formula = reduced(prediction.formula)
        try:
            value = prediction.value + self.phases.shift(formula, prediction.scale or self.model_scale, self.scale)
        except ValueError as error:
            return Stability(**row, formula=formula, error=str(error))
        elements = sorted(amounts)
        hull, indices = self.phases.hull(elements, without=formula if self.leave_out else None)
        fractions = np.array([amounts[z] for z in elements], dtype=float)
        fractions /= fractions.sum()
        (energy,), (plane,) = hull.energy(fractions[None])
        above = value - float(energy)
        lower, upper = (None if end is None else above + end - prediction.value for end in _ends(prediction))
        p_stable = None
        if lower is not None and upper is not None:
            limits = (np.array([each]) for each in (self.within, above, lower, upper))
            p_stable = float(probability_below(*limits)[0])
        return Stability(
            **row,
            formula=formula,
            formation_energy_per_atom=value,
            e_above_hull=above,
            e_above_hull_std=prediction.std,
            lower=lower,
            upper=upper,
            p_stable=p_stable,
            decomposition=tuple(
                self._part(indices[k], elements, k, part) for k, part in hull.decomposition(fractions, int(plane))
            ),
            in_domain=prediction.in_domain,
            in_domain_reason=prediction.in_domain_reason,
            population=prediction.population,
        )

    def _part(self, index: int, elements: Sequence[int], k: int, fraction: float) -> DecompositionPart:
        if index < 0:
            return DecompositionPart(symbols()[elements[k]], "", fraction)
        phase = self.phases.phases[index]
        return DecompositionPart(phase.formula, phase.id, fraction)


class StabilityPredictor(HullComparison):
    """Energies above the hull of any number of structures.

    Parameters
    ----------
    model
        A model of the formation energy: pretrained name, folder, or loaded.
    within
        Distance above the hull up to which a crystal counts as stable, eV/atom.
    entries
        Competing phases: None for the package's table of the Materials Project, a folder of ``cgcnn-ase fetch``, a JSON
        file of pymatgen's entries (on ``scale``), or :class:`~cgcnn_ase.stability.phases.CompetingPhases`.
    population : {"known", "hypothetical"}
        Whose errors the std and the interval are made for.
    scale : {"mp2020", "mp-legacy"}
        Of all energies that come back.
    model_scale
        What the model has learned, where its own record does not say.
    leave_out
        Leave the phases of a structure's own formula out of its hull: how far a new crystal lies from what else is
        known.
    workers
        As for :class:`~cgcnn_ase.prediction.predictor.Predictor`.

    Raises
    ------
    ValueError
        If the model predicts something else, or the competing phases cannot be used.
    """

    def __init__(
        self,
        model: "str | Path | CrystalModel" = MODEL,
        *,
        within: float = 0.05,
        entries: "str | Path | CompetingPhases | None" = None,
        population: "Population" = "hypothetical",
        scale: str = "mp2020",
        model_scale: str | None = None,
        leave_out: bool = False,
        workers: int | None = None,
    ) -> None:
        self.predictor = Predictor(model, population=population, workers=workers)
        facts = [_facts(each) for each in self.predictor.models]
        if len(facts) != 1 or facts[0][1] != TARGET:
            names = ", ".join(f"{name} ({target})" for name, target, _ in facts)
            raise ValueError(_OTHER.format(names))
        super().__init__(
            model_scale or facts[0][2].get("scale"), within=within, entries=entries, scale=scale, leave_out=leave_out
        )

    def __call__(self, structures: object) -> StabilityResults:
        """All results; structures as for :func:`cgcnn_ase.structures.read_structures`."""
        return StabilityResults(list(self.stream(structures)))

    def stream(self, structures: object) -> Generator[Stability, None, None]:
        """Results one by one, in the order of the structures; a bad one has its ``error``."""
        for prediction in self.predictor.stream(structures):
            yield self.of(prediction)

    def stream_files(self, paths: Sequence[Path]) -> Generator[Stability, None, None]:
        """As :meth:`stream`, of structure files."""
        for prediction in self.predictor.stream_files(paths):
            yield self.of(prediction)


def stability(structures: object, model: "str | Path | CrystalModel" = MODEL, **options: Any) -> StabilityResults:
    """Energy above the hull of structures, its std, the probability of being stable, and what they fall apart into.

    Parameters
    ----------
    structures
        Anything that :func:`cgcnn_ase.structures.read_structures` takes.
    model, options
        See :class:`StabilityPredictor`.

    >>> results = stability("structures/")  # doctest: +SKIP
    >>> results["LiNiO2"].p_stable  # doctest: +SKIP
    """
    return StabilityPredictor(model, **options)(structures)


def _facts(model: "ModelRef | CrystalModel") -> tuple[str, str, Mapping[str, Any]]:
    """Name, target and record of a model; of a folder without loading the weights, which other processes may do."""
    if isinstance(model, ModelRef) and model.name is not None:
        entry = model_entry(read_config(model.path), model.name)
        return entry["name"], entry["target"]["name"], entry["training"]
    loaded = load_refs([model])[0] if isinstance(model, ModelRef) else model
    return loaded.name, loaded.target.name, loaded.training_record


def _ends(prediction: "Prediction") -> tuple[float | None, float | None]:
    if prediction.lower is None or prediction.upper is None:
        return None, None
    return prediction.lower, prediction.upper
