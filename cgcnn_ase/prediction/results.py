"""Predictions: the fields of one, many by id as a table, and a note where a whole batch is unlike held-out crystals."""

import builtins
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from math import log, sqrt
from typing import TYPE_CHECKING, Any, NamedTuple

from cgcnn_ase.models.folder import WEIGHTS, Json, model_entry, read_config
from cgcnn_ase.models.registry import ModelRef

if TYPE_CHECKING:
    import pandas as pd

    from cgcnn_ase.core.arrays import Floats, Floats32
    from cgcnn_ase.models.crystal_model import CrystalModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Prediction of one model for one structure, or why there is none.

    ``value``, ``std``, ``lower`` and ``upper`` are in ``unit``. ``epistemic`` (spread of the members) and ``aleatoric``
    (error that the members expect) are raw, before calibration. ``std``, the interval and ``in_domain`` are None for a
    model without calibration; everything is None where there is an ``error``. ``second_opinion_std`` is the standard
    deviation over this and other models' predictions, where others were asked.

    ``domain_score`` is the largest of all signals of the domain over their limits: 1 at the limit, and ``in_domain`` up
    to there; ``in_domain_reason`` names all that lies beyond, joined by "; ". There is no interval where nothing is
    known of the errors so far outside. ``population`` says whose errors the interval is made for: crystals ``known`` to
    a database, or ``hypothetical`` ones. ``scale`` is that of an energy, by name (see
    :mod:`cgcnn_ase.energies.scales`); None of other properties, and where the model does not state it.

    Of a classification, ``value`` is the probability of class 1 of two, else the most probable class; ``std`` is
    sqrt(p (1 - p)). It has no interval: ``class_set`` holds the classes that hold the true one as often as the interval
    of a regression holds its target.
    """

    id: str
    source: str
    formula: str | None = None
    n_atoms: int | None = None
    value: float | None = None
    std: float | None = None
    lower: float | None = None
    upper: float | None = None
    epistemic: float | None = None
    aleatoric: float | None = None
    in_domain: bool | None = None
    in_domain_reason: str = ""
    domain_score: float | None = None
    population: str | None = None
    second_opinion_std: float | None = None
    unit: str
    scale: str | None = None
    property: str
    model: str
    model_sha256: str
    probabilities: tuple[float, ...] | None = None  # of each class, for a classification
    class_set: tuple[int, ...] | None = None  # classes of a conformal set, for a calibrated classification
    site_index: int | None = None  # of a model of sites: the first of the equivalent sites
    element: str | None = None  # what is there
    multiplicity: int | None = None  # how many equivalent sites the cell has
    error: str | None = None

    @builtins.property  # the field of that name hides the decorator
    def reason(self) -> str:
        """Another name of ``in_domain_reason``."""
        return self.in_domain_reason

    def to_dict(self) -> dict[str, object]:
        """Return field names and values."""
        return asdict(self)

    def failed(self, error: str) -> "Prediction":
        """Return the prediction of the same model for the same structure, without values, and why."""
        kept = ("id", "source", "unit", "scale", "property", "model", "model_sha256")
        return Prediction(**{name: getattr(self, name) for name in kept}, error=error)


class MemberPrediction(NamedTuple):
    """A model's prediction of a structure or a site, and those of its members."""

    prediction: Prediction
    members: "Floats | Floats32 | None"  # (M,) in what the network learned; None after an error

    @property
    def id(self) -> str:
        """Name of the structure."""
        return self.prediction.id

    @property
    def source(self) -> str:
        """File that the structure came from."""
        return self.prediction.source


def member_values(member: MemberPrediction) -> "Floats | None":
    """Return what each member predicts, (M,), with all digits; a function for ``Predictor.stream_with``."""
    return None if member.members is None else member.members.astype(float)


_OF_SITES = ("site_index", "element", "multiplicity")

# columns of :meth:`Predictions.to_frame` and of CSV output; ``reason`` is the older name of ``in_domain_reason``
_NO_COLUMNS = ("source", "probabilities", "class_set", "error", *_OF_SITES)
_NAMES = tuple(field.name for field in fields(Prediction) if field.name not in _NO_COLUMNS)
_AFTER = _NAMES.index("in_domain_reason") + 1
COLUMNS = (*_NAMES[:_AFTER], "reason", *_NAMES[_AFTER:])

# the same where a model of sites is among the models
SITE_COLUMNS = ("id", *_OF_SITES, *(name for name in COLUMNS if name != "id"))


# column of what each member predicts, where that was asked for: numbers with a space between them
MEMBERS = "members"


class Predictions(Mapping[str, tuple[float, float | None]]):
    """Results by structure id: ``results[id]`` is (mean, std).

    With several models a name is the id, a slash and the model's name (with the start of its sha256, where two models
    have the same). The name of a site is the structure's, a colon and the site's index. Structures that failed are in
    ``failures``, and a word for the whole batch, where there is one to say, is in ``notes``.
    """

    def __init__(self, predictions: Iterable[Prediction]) -> None:
        everything = list(predictions)
        self.all = [p for p in everything if p.error is None]
        self.failures = [p for p in everything if p.error is not None]
        self.notes: list[str] = []
        models = {(p.model, p.model_sha256) for p in self.all}
        names = Counter(name for name, _ in models)
        labels = {(name, sha): name if names[name] == 1 else f"{name}@{sha[:8]}" for name, sha in models}
        suffixes = {key: "" if len(models) == 1 else f"/{label}" for key, label in labels.items()}
        self._by_name = {f"{_name(p)}{suffixes[p.model, p.model_sha256]}": p for p in self.all}

    def __getitem__(self, name: str) -> tuple[float, float | None]:
        prediction = self._by_name[name]
        assert prediction.value is not None
        return prediction.value, prediction.std

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def to_frame(self) -> "pd.DataFrame":
        """A table with one row a prediction: id, formula, n_atoms, value, std, lower, upper, ..., model_sha256."""
        import pandas as pd

        columns = list(SITE_COLUMNS if any(p.site_index is not None for p in self.all) else COLUMNS)
        return pd.DataFrame([[getattr(p, name) for name in columns] for p in self.all], columns=columns)


def _name(prediction: Prediction) -> str:
    return prediction.id if prediction.site_index is None else f"{prediction.id}:{prediction.site_index}"


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
