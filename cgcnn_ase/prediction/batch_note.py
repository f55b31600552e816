"""A word for the whole batch: structures that, as a set, are unlike those that a model was held out on."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import log, sqrt
from typing import TYPE_CHECKING, Any

from cgcnn_ase.models.folder import WEIGHTS, Json, model_entry, read_config
from cgcnn_ase.models.registry import ModelRef
from cgcnn_ase.prediction.results import Prediction

if TYPE_CHECKING:
    from cgcnn_ase.models.crystal_model import CrystalModel

# a batch is told of from this many structures (or sites) on,
MIN_BATCH = 20
# where more than this share of them certainly lies beyond what one in ten held-out crystals does,
SHARE = 0.2
# standard errors of a share that make it certain (99 %, one side)
_Z = 2.33


class BatchWarning(UserWarning):
    """The whole batch is unlike the training set, or cannot be compared with it."""


@dataclass
class _Counts:
    """Of the predictions of one model."""

    name: str
    # what nine in ten held-out crystals stay below (`HeldOutSignals`), read here without importing torch
    limits: Mapping[str, float | None] | None = None
    of_sites: bool = False
    of_log10: bool = False
    has_populations: bool = False  # whether the interval of hypothetical crystals is another
    n: int = 0
    n_far: int = 0
    n_spread: int = 0
    populations: set[str | None] = field(default_factory=set)

    def add(self, p: Prediction) -> None:
        if p.in_domain is None or p.domain_score is None or p.value is None:
            return
        self.n += 1
        self.populations.add(p.population)
        if self.limits is None:
            return
        score, spread = self.limits["domain_score"], self.limits["epistemic"]
        self.n_far += score is not None and p.domain_score > score
        slope = p.value * log(10) if self.of_log10 else 1.0
        self.n_spread += spread is not None and p.epistemic is not None and p.epistemic > spread * slope

    def note(self) -> str | None:
        if self.n and self.limits is None:
            return (
                f"{self.name} was saved before contacts and volumes were checked: in_domain says nothing of the "
                "geometry (train or fine-tune it again)"
            )
        unlike = [
            f"{100 * k / self.n:.0f} % of them have a larger {signal}"
            for k, signal in ((self.n_far, "domain score"), (self.n_spread, "spread of the members"))
            if _many(k, self.n)
        ]
        if not unlike:
            return None
        what = "sites" if self.of_sites else "structures"
        other = self.has_populations and "hypothetical" not in self.populations
        hint = "the population hypothetical (--population), or " if other else ""
        return (
            f"these {self.n} {what}, as a set, are unlike those that {self.name} was trained on: "
            f"{' and '.join(unlike)} than 90 % of held-out ones have; the intervals may be too "
            f"narrow: take {hint}labels of your own (cgcnn-ase calibrate)"
        )


class BatchTally:
    """Counts the predictions of each model that lie beyond its held-out crystals."""

    def __init__(self, models: "Iterable[ModelRef | CrystalModel]", *, dropout: bool = False) -> None:
        self._counts = dict(_new_counts(model, dropout=dropout) for model in models)

    def counted(self, predictions: Iterable[Prediction]) -> Iterator[Prediction]:
        """Pass the predictions on, and count them."""
        for prediction in predictions:
            self.add(prediction)
            yield prediction

    def add(self, prediction: Prediction) -> None:
        """Count one prediction; one with an error counts for nothing."""
        counts = self._counts.get((prediction.model, prediction.model_sha256))
        if counts is not None:
            counts.add(prediction)

    def notes(self) -> list[str]:
        """One sentence for each model that the batch is unlike, or that cannot tell; mostly none."""
        return [note for counts in self._counts.values() if (note := counts.note()) is not None]


def _many(k: int, n: int) -> bool:
    """Return whether the share k / n is certainly above `SHARE`: the lower end of Wilson's interval is."""
    if n < MIN_BATCH:
        return False
    share, z2 = k / n, _Z**2 / n
    lower = (share + z2 / 2 - _Z * sqrt(share * (1 - share) / n + z2 / (4 * n))) / (1 + z2)
    return lower > SHARE


def _new_counts(model: "ModelRef | CrystalModel", *, dropout: bool) -> tuple[tuple[str, str], _Counts]:
    """Name and sha256 of a model, as its predictions have them, and nothing counted yet."""
    trust: Json
    if not isinstance(model, ModelRef):
        calibration = model.dropout_calibration if dropout else model.calibration
        trust = {} if calibration is None else dict[str, Any](calibration.to_config())
        name, sha256, level, transform = model.name, model.sha256, model.target.level, model.target.transform
    elif model.name is None:  # an original file, which has no calibration
        return (model.path.name, ""), _Counts(model.path.name)
    else:
        config = read_config(model.path)
        entry = model_entry(config, model.name)
        trust = entry.get("dropout_trust" if dropout else "trust") or {}
        name, sha256 = model.name, config["sha256"][WEIGHTS]
        level, transform = entry["target"].get("level"), entry["target"].get("transform")
    return (name, sha256), _Counts(
        name,
        trust.get("held_out"),
        of_sites=level == "site",
        of_log10=transform == "log10",
        has_populations="hypothetical" in trust,
    )
