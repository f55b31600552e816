"""Energy above the hull of predicted crystals, its std, and the probability of being stable."""

import math
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from cgcnn_ase.energies.scales import check_scale
from cgcnn_ase.models.registry import ModelRef, load_refs, model_part
from cgcnn_ase.prediction.predictor import Predictor, without_result
from cgcnn_ase.prediction.results import member_values
from cgcnn_ase.stability.phases import (
    CompetingPhases,
    check_scale_of_table,
    known_phases,
    read_phases,
    reduced,
)
from cgcnn_ase.stability.predicted_phases import AboveHull, Competition, PredictedPhase
from cgcnn_ase.stability.results import Stability, StabilityResults, expected_gain, probability_below
from cgcnn_ase.structures.record import StructureError

if TYPE_CHECKING:
    from cgcnn_ase.core.arrays import Floats
    from cgcnn_ase.models.crystal_model import CrystalModel
    from cgcnn_ase.prediction.results import MemberPrediction, Prediction
    from cgcnn_ase.uncertainty.protocol import Population

MODEL, TARGET = "formation-energy-per-atom", "formation_energy_per_atom"
# what the pretrained models of formation energies have learned
_LEARNED = "mp-legacy"
_OTHER = "stability is read off a formation energy per atom; {} predicts another quantity"
# what calls a function with each prediction
_StreamWith: TypeAlias = "Callable[[Callable[[MemberPrediction], Any]], Iterator[tuple[Prediction, Any]]]"
# predictions, each with those of the members of the ensemble
_WithMembers: TypeAlias = "Sequence[tuple[Prediction, Floats | None]]"
# phases outside the domain that a warning names; the rest is counted
_SHOWN = 5


class HullComparison:
    """Stability of structures whose formation energies are predicted already.

    Where it is pickled, a worker process reads the competing phases again, once.

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
        self.within, self.entries, self.scale, self.leave_out = within, entries, check_scale(scale), leave_out
        if entries is None:  # the table is read when it is needed
            check_scale_of_table(scale)
        elif self.phases.scale != scale:
            raise ValueError(f"the competing phases are on the scale {self.phases.scale}, not on {scale}")

    @cached_property
    def phases(self) -> CompetingPhases:
        """The known competing phases."""
        if isinstance(self.entries, CompetingPhases):
            return self.entries
        return known_phases(self.scale) if self.entries is None else read_phases(Path(self.entries), self.scale)

    @cached_property
    def competition(self) -> Competition:
        """Known phases, and those that :meth:`with_predicted` added."""
        return Competition(self.phases, leave_out=self.leave_out)

    def prepare(self) -> None:
        """Load what the first structure needs."""
        self.competition.hull((3, 8))
        probability_below(*(np.ones(1) for _ in range(4)))

    def __reduce__(self) -> "tuple[Any, ...]":
        options = self.within, self.entries, self.scale, self.leave_out
        return _comparison_again, (self.phases.sha256, self.model_scale, *options)

    def with_predicted(self, phases: Sequence[PredictedPhase]) -> "HullComparison":
        """The same against these phases, too."""
        result = HullComparison(self.model_scale, within=self.within, entries=self.phases, scale=self.scale)
        result.competition = Competition(self.phases, phases, leave_out=self.leave_out)
        return result

    def __call__(self, member: "MemberPrediction") -> Stability:
        """As :meth:`of`."""
        return self.of(member.prediction)

    def of(self, prediction: "Prediction", phase: PredictedPhase | None = None) -> Stability:
        """The stability of a predicted structure; a ValueError where another quantity is predicted."""
        if prediction.property != TARGET:
            raise ValueError(_OTHER.format(f"{prediction.model} ({prediction.property})"))
        row: dict[str, Any] = {
            "id": prediction.id, "source": prediction.source, "within": self.within, "scale": self.scale,
            "hull_source": self.phases.source, "hull_sha256": self.phases.sha256,
            "model": prediction.model, "model_sha256": prediction.model_sha256,
        }  # fmt: skip
        if prediction.error is not None:
            return Stability(**row, error=prediction.error)
        try:
            phase = phase or self.phase(prediction, None)
        except ValueError as error:  # no conversion between the scales
            return Stability(**row, error=str(error))
        above = self.competition.above_hull(phase)
        p_stable = None
        if above.lower is not None and above.upper is not None:
            limits = (np.array([each]) for each in (self.within, above.value, above.lower, above.upper))
            p_stable = float(probability_below(*limits)[0])
        return Stability(
            **row,
            formula=phase.formula,
            formation_energy_per_atom=phase.energy,
            e_above_hull=above.value,
            e_above_hull_std=above.std,
            lower=above.lower,
            upper=above.upper,
            p_stable=p_stable,
            decomposition=above.decomposition,
            gains=_gains(above, p_stable),
            in_domain=prediction.in_domain,
            in_domain_reason=prediction.in_domain_reason,
            population=prediction.population,
        )

    def against_predicted(
        self, predicted: _WithMembers, competing: _WithMembers = (), *, together: bool = False
    ) -> Iterator[Stability]:
        """Rows of predicted structures against the known phases and predicted ones.

        Parameters
        ----------
        predicted, competing
            Structures, and others that compete with them; predictions of one model.
        together
            Let the structures compete with each other, too.

        Raises
        ------
        StructureError
            If a competing structure has no prediction.
        ValueError
            If there is no conversion of its energy to the scale of the known phases.
        """
        crystals = [self.phase_or_none(*each) for each in predicted]
        chosen = list(zip((p for p, _ in predicted), crystals, strict=True)) if together else []
        for prediction, members in competing:
            if prediction.error is not None:
                raise StructureError(prediction.source or prediction.id, f"as a competing phase: {prediction.error}")
            chosen.append((prediction, self.phase(prediction, members)))
        outside = [
            f"{p.id} ({p.in_domain_reason})" for p, phase in chosen if phase is not None and p.in_domain is False
        ]
        if outside:
            more = f" and {len(outside) - _SHOWN} more" if len(outside) > _SHOWN else ""
            warnings.warn(
                f"outside the domain, and so no competing phase: {', '.join(outside[:_SHOWN])}{more}", stacklevel=3
            )
        phases = [phase for p, phase in chosen if phase is not None and p.in_domain is not False]
        source = f"{self.phases.source}; {len(phases):,} predicted structures"
        mixed = self.with_predicted(phases)
        for (prediction, _), phase in zip(predicted, crystals, strict=True):
            yield replace(mixed.of(prediction, phase), hull_source=source)

    def phase_or_none(self, prediction: "Prediction", members: "Floats | None") -> PredictedPhase | None:
        """As :meth:`phase`; None of what failed, whose row says why."""
        try:
            return None if prediction.error is not None else self.phase(prediction, members)
        except ValueError:
            return None

    def phase(self, prediction: "Prediction", members: "Floats | None") -> PredictedPhase:
        """A predicted structure on the scale of the known phases; a ValueError where there is no conversion."""
        if prediction.value is None or prediction.formula is None:
            raise ValueError("no formation energy")
        formula = reduced(prediction.formula)
        shift = self.phases.shift(formula, prediction.scale or self.model_scale, self.scale)
        lower, upper = (None if end is None else end + shift for end in (prediction.lower, prediction.upper))
        values = np.empty(0) if members is None else members
        return PredictedPhase(prediction.id, formula, prediction.value + shift, prediction.std, lower, upper, values)


@lru_cache(maxsize=2)
def _comparison_again(
    sha256: str, model_scale: str, within: float, entries: "str | Path | None", scale: str, leave_out: bool
) -> HullComparison:
    comparison = HullComparison(model_scale, within=within, entries=entries, scale=scale, leave_out=leave_out)
    if comparison.phases.sha256 != sha256:
        raise ValueError(f"{entries}: the competing phases have changed while structures were predicted")
    return comparison


def _gains(above: AboveHull, p_stable: float | None) -> dict[str, float] | None:
    """Expected gains of DFT, where some of the phases are predicted."""
    if not any(part.predicted for part in above.decomposition):
        return None
    return {name: expected_gain(p_stable or 0.0, share) for name, share in above.explained.items()}


class StabilityPredictor:
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
    competing
        More competing phases without energies, which are predicted: structures as for
        :func:`cgcnn_ase.structures.read_structures`.
    together
        Let the structures compete with each other, too. As for ``competing``, the std is then that of a difference (see
        :mod:`cgcnn_ase.stability.predicted_phases`), and all structures are held in memory. What lies outside the
        model's domain competes with nothing, and a warning names it.
    workers, once
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
        competing: object = None,
        together: bool = False,
        workers: int | None = None,
        once: bool = False,
    ) -> None:
        self.predictor = Predictor(model, population=population, workers=workers, once=once)
        facts = [_facts(each) for each in self.predictor.models]
        if len(facts) != 1 or facts[0][1] != TARGET:
            names = ", ".join(f"{name} ({target})" for name, target, _ in facts)
            raise ValueError(_OTHER.format(names))
        self.competing, self.together = competing, together
        self.comparison = HullComparison(
            model_scale or facts[0][2].get("scale"), within=within, entries=entries, scale=scale, leave_out=leave_out
        )

    @property
    def phases(self) -> CompetingPhases:
        """The known competing phases."""
        return self.comparison.phases

    def __call__(self, structures: object) -> StabilityResults:
        """All results; structures as for :func:`cgcnn_ase.structures.read_structures`."""
        return StabilityResults(list(self.stream(structures)))

    def stream(self, structures: object) -> Generator[Stability, None, None]:
        """Results one by one, in the order of the structures; a bad one has its ``error``."""
        return self._stream(lambda function: self.predictor.stream_with(function, structures))

    def stream_files(self, paths: Sequence[Path]) -> Generator[Stability, None, None]:
        """As :meth:`stream`, of structure files."""
        return self._stream(lambda function: self.predictor.stream_files_with(function, paths))

    def _stream(self, stream_with: _StreamWith) -> Generator[Stability, None, None]:
        if self.together or self.competing is not None:
            predicted = list(stream_with(member_values))
            yield from self.comparison.against_predicted(predicted, self._competing, together=self.together)
        elif isinstance(self.comparison.entries, CompetingPhases):  # these phases are not sent to worker processes
            for prediction, _ in stream_with(without_result):
                yield self.comparison.of(prediction)
        else:
            for prediction, row in stream_with(self.comparison):
                yield row if prediction.id == row.id and prediction.error is None else self.comparison.of(prediction)

    @cached_property
    def _competing(self) -> _WithMembers:
        return [] if self.competing is None else list(self.predictor.stream_with(member_values, self.competing))


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
        entry = model_part(model)
        return entry["name"], entry["target"]["name"], entry["training"]
    loaded = load_refs([model])[0] if isinstance(model, ModelRef) else model
    return loaded.name, loaded.target.name, loaded.training_record
