"""Second opinions: how far other models disagree with a prediction, on one scale of energies.

Two models seldom mean the same by an energy: corrections, references and functionals differ by an amount that is, to
first order, one number for each element. Before predictions are compared these numbers are fitted to the differences of
the whole batch (:mod:`cgcnn_ase.inspection.element_offsets`), so that only what a structure adds is disagreement.
"""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.core.elements import symbols
from cgcnn_ase.energies.scales import SCALES, convert_formation_energy, correction
from cgcnn_ase.inspection.opinion_sources import Opinion, as_opinion, measured_offsets
from cgcnn_ase.models.registry import DEFAULT_MODEL
from cgcnn_ase.prediction.predictor import Predictor
from cgcnn_ase.prediction.results import Prediction, Predictions

if TYPE_CHECKING:
    from ase import Atoms

    from cgcnn_ase.inspection.element_offsets import ElementOffsets
    from cgcnn_ase.inspection.opinion_sources import OpinionSource
    from cgcnn_ase.models.crystal_model import CrystalModel

# offsets are fitted to so many structures for each number that they determine, and to so many more than these, at least
_PER_OFFSET, _MORE = 2, 3
# structures that a message names
_NAMED = 3


class SecondOpinionWarning(UserWarning):
    """A second opinion is missing, or stands on a scale that could not be fitted."""


class SecondOpinions:
    """Other models to hold against a prediction; their disagreement is ``second_opinion_std``.

    That is the standard deviation over all opinions, the prediction's own among them, in the unit of the prediction:
    with one other model half of the difference. It is no calibrated error: models that learned the same data may all be
    wrong in the same way.

    Energies of another model are brought to the scale of the predictions by one offset for each element, fitted to the
    differences of the batch by Huber's loss; each structure is compared by the offsets of the others. Where a batch has
    fewer than two structures for each offset, a model of this package is compared as it is, or converted where both
    state a scale and these differ, CHGNet by offsets that were measured for the pretrained models, and any other gives
    no opinion; a :class:`SecondOpinionWarning` says so.
    :meth:`fit` takes the offsets from another batch, once and for all.

    Parameters
    ----------
    sources
        Pretrained names, model folders or loaded models; ``chgnet`` and ``sevenn`` for these interatomic potentials;
        ASE calculators; energy models. All but models of the same property are for energies per atom.

    Examples
    --------
    >>> from cgcnn_ase import predict  # doctest: +SKIP
    >>> results = predict("formation-energy-per-atom", "structures/", second_opinion=["chgnet"])  # doctest: +SKIP
    >>> results.to_frame()["second_opinion_std"]  # doctest: +SKIP
    """

    def __init__(self, sources: "OpinionSource | Iterable[OpinionSource]") -> None:
        many = isinstance(sources, Iterable) and not isinstance(sources, str | Path)
        asked: list[Any] = list(sources) if many else [sources]  # type: ignore[arg-type]
        if not asked:
            raise ValueError("name at least one model for a second opinion")
        self._opinions = [as_opinion(source) for source in asked]
        self._offsets: dict[int, ElementOffsets] = {}  # of opinions, by number
        self._lock = Lock()

    @property
    def names(self) -> list[str]:
        """Names of the other models."""
        return [opinion.name for opinion in self._opinions]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_lock": Lock()}

    def check(self, properties: Sequence[str], *, alone: str | None = None) -> None:
        """Raise `ValueError` if one of the others says nothing of any of these properties.

        With ``alone``, the sha256 of a model, also if it says nothing of a single structure that this model predicts,
        as its scale is neither known nor fitted.
        """
        for k, opinion in enumerate(self._opinions):
            if not any(opinion.covers(name) for name in properties):
                raise ValueError(
                    f"no second opinion on {', '.join(properties)} by {opinion.name}, which {opinion.gives}"
                )
            if alone is None or opinion.own_model or k in self._offsets:
                continue
            if measured_offsets(opinion, properties[0], alone) is None:
                raise ValueError(
                    f"the energies of {opinion.name} are on a scale of their own, which one structure does not tell: "
                    "fit it on several, as second_opinion=SecondOpinions([...]).fit(structures)"
                )

    def fit(
        self, structures: object, model: "str | Path | CrystalModel | Sequence[Any]" = DEFAULT_MODEL
    ) -> "SecondOpinions":
        """Return the same opinions on the scale of a model, by offsets from its predictions of these structures.

        Raises
        ------
        ValueError
            If a structure cannot be read or predicted, or there are too few.
        """
        from cgcnn_ase.inspection.element_offsets import fit_offsets
        from cgcnn_ase.structures import read_structures

        atoms = [record.unwrap() for record in read_structures(structures)]
        predictions = Predictor(model)(atoms)
        if predictions.failures:
            raise ValueError(f"{predictions.failures[0].id}: {predictions.failures[0].error}")
        self.check([predictions.all[0].property])
        fitted = SecondOpinions.__new__(SecondOpinions)
        fitted.__setstate__(self.__getstate__() | {"_offsets": {}})
        for k, opinion in enumerate(self._opinions):
            differences, failures = self._differences(opinion, atoms, predictions.all)
            good = np.isfinite(differences)
            fractions = _fractions(atoms)[good]
            if failures:
                _warn_of_failures(opinion, failures, len(atoms))
            if not _enough(fractions):
                raise ValueError(f"{opinion.name}: {_too_few(fractions)}")
            fitted._offsets[k] = fit_offsets(fractions, differences[good], robust=True)
        return fitted

    def __call__(
        self,
        structures: "Sequence[Atoms | None]",
        predictions: Sequence[Sequence[Prediction]],
        *,
        note_scale: bool = True,
    ) -> list[list[Prediction]]:
        """Add ``second_opinion_std`` to predictions.

        Parameters
        ----------
        structures
            The batch; None for one that could not be read.
        predictions
            Those of each structure, by one or more models; not of sites.
        note_scale
            Warn where the batch is too small to fit offsets to.
        """
        columns = [self._compare(structures, list(column), note_scale) for column in zip(*predictions, strict=True)]
        return [list(row) for row in zip(*columns, strict=True)]

    def _compare(
        self, structures: "Sequence[Atoms | None]", column: list[Prediction], note_scale: bool
    ) -> list[Prediction]:
        """Add the disagreement to the predictions of one model."""
        from dataclasses import replace

        from cgcnn_ase.energies.energy_model import PER_ATOM_ENERGIES

        rows = [k for k, (p, atoms) in enumerate(zip(column, structures, strict=True)) if p.error is None and atoms]
        known = [column[k] for k in rows]
        atoms = [one for k in rows if (one := structures[k]) is not None]
        opinions = [np.zeros(len(rows))]  # less the prediction
        for k, opinion in enumerate(self._opinions):
            if rows and opinion.covers(known[0].property):
                differences, failures = self._differences(opinion, atoms, known)
                if known[0].property in PER_ATOM_ENERGIES:
                    differences, note = self._on_one_scale(k, differences, atoms, known, failures)
                    if note and note_scale:
                        _warn(f"{opinion.name}: {note}")
                if failures:
                    _warn_of_failures(opinion, failures, len(rows))
                opinions.append(differences)
        table = np.stack(opinions)
        several = np.isfinite(table).sum(axis=0) > 1
        for row, std, has in zip(rows, np.nanstd(table, axis=0).tolist(), several.tolist(), strict=True):
            if has:
                column[row] = replace(column[row], second_opinion_std=std)
        return column

    def _differences(
        self, opinion: "Opinion", atoms: "Sequence[Atoms]", predictions: Sequence[Prediction]
    ) -> tuple[Floats, list[str]]:
        """Return another model's values less the predictions, (n,), NaN where it has none, and why it has none."""
        with self._lock:  # a calculator keeps the structure at hand
            values = opinion.values(atoms, predictions[0].property)
        failures = [f"{p.id}: {v}" for p, v in zip(predictions, values, strict=True) if isinstance(v, str)]
        numbers = [np.nan if isinstance(v, str) else v for v in values]
        return np.array(numbers) - np.array([p.value for p in predictions], dtype=float), failures

    def _on_one_scale(
        self,
        k: int,
        differences: Floats,
        atoms: "Sequence[Atoms]",
        predictions: Sequence[Prediction],
        failures: list[str],
    ) -> tuple[Floats, str]:
        """Take the offsets of the elements off; return also a note, and add why there is no opinion to ``failures``."""
        from cgcnn_ase.inspection.element_offsets import left_out_residuals

        opinion, fractions = self._opinions[k], _fractions(atoms)
        good = np.flatnonzero(np.isfinite(differences))
        result = np.full(len(differences), np.nan)
        if not good.size:
            return result, ""
        if k in self._offsets:
            for row in good.tolist():
                try:
                    result[row] = differences[row] - self._offsets[k].difference(fractions[[row]])[0]
                except ValueError as error:  # noqa: PERF203 - an element that no fitted structure has
                    failures.append(f"{predictions[row].id}: {error}")
            return result, ""
        if _enough(fractions[good]):
            result[good] = left_out_residuals(fractions[good], differences[good], robust=True)
            failures += [
                f"{predictions[row].id}: no other structure tells the offset of an element in it"
                for row in good.tolist()
                if np.isnan(result[row])
            ]
            return result, ""
        note = _too_few(fractions[good])
        if opinion.own_model:
            source, to = opinion.scale(predictions[0].property), predictions[0].scale
            if source == to or source is None or to is None:
                return differences, f"{note}; its energies are compared as they are"
            if source not in SCALES or to not in SCALES:
                return result, f"its energies are on the scale {source}, and not on {to}; it gives no second opinion"
            shifts = [_shift(predictions[0].property, one.get_chemical_formula(), source, to) for one in atoms]
            return differences + np.array(shifts), f"{note}; its energies are converted from {source} to {to}"
        offsets = measured_offsets(opinion, predictions[0].property, predictions[0].model_sha256)
        if offsets is None:
            return result, f"{note}; it gives no second opinion"
        for row in good.tolist():
            if missing := sorted(set(atoms[row].symbols) - set(offsets)):
                failures.append(f"{predictions[row].id}: no offset of {', '.join(missing)} is known")
            else:
                result[row] = differences[row] - np.mean([offsets[symbol] for symbol in atoms[row].symbols])
        return result, f"{note}; those measured on crystals of the Materials Project are taken"


def predict(
    model: "str | Path | CrystalModel | Sequence[str | Path | CrystalModel]",
    structures: object,
    *,
    second_opinion: "SecondOpinions | OpinionSource | Iterable[OpinionSource] | None" = None,
    **options: Any,
) -> Predictions:
    """Predict structures with a model; see :class:`cgcnn_ase.prediction.predictor.Predictor` for the options.

    With ``second_opinion``, other models or potentials by name, or ASE calculators, each prediction has
    ``second_opinion_std``, how far they disagree: see :class:`SecondOpinions`.

    >>> results = predict("formation-energy-per-atom", "structures/")  # doctest: +SKIP
    >>> for structure_id, (mean, std) in results.items():  # doctest: +SKIP
    ...     print(structure_id, mean, std)
    """
    return Predictor(model, second_opinion=as_second_opinions(second_opinion), **options)(structures)


def as_second_opinions(
    sources: "SecondOpinions | OpinionSource | Iterable[OpinionSource] | None",
) -> SecondOpinions | None:
    """Make second opinions of what people have at hand; None of none."""
    if sources is None or isinstance(sources, SecondOpinions):
        return sources
    return SecondOpinions(sources)


def _shift(name: str, formula: str, source: str, to: str) -> float:
    """Return what brings a formation energy or a total energy to a scale, eV/atom."""
    if name == "formation_energy_per_atom":
        return convert_formation_energy(0.0, formula, source=source, to=to)
    from pymatgen.core import Composition

    return (correction(formula, to) - correction(formula, source)) / Composition(formula).num_atoms


def _fractions(atoms: "Sequence[Atoms]") -> Floats:
    from cgcnn_ase.data.dataset import atomic_fractions

    return atomic_fractions([one.numbers for one in atoms])


def _n_needed(fractions: Floats) -> int:
    rank = int(np.linalg.matrix_rank(fractions))
    return max(_PER_OFFSET * rank, rank + _MORE)


def _enough(fractions: Floats) -> bool:
    return bool(len(fractions)) and len(fractions) >= _n_needed(fractions)


def _too_few(fractions: Floats) -> str:
    if not len(fractions):
        return "no structure to fit offsets of the elements to"
    elements = ", ".join(symbols()[z] for z in np.flatnonzero(fractions.any(axis=0)))
    n = len(fractions)
    return (
        f"{n} structure{' is' if n == 1 else 's are'} too few for one offset each of {elements} "
        f"({_n_needed(fractions)} are needed)"
    )


def _warn_of_failures(opinion: Opinion, failures: list[str], n: int) -> None:
    more = f"; and {len(failures) - _NAMED} more" if len(failures) > _NAMED else ""
    _warn(
        f"{opinion.name}: no second opinion on {len(failures)} of {n} structures: {'; '.join(failures[:_NAMED])}{more}"
    )


def _warn(text: str) -> None:
    warnings.warn(text, SecondOpinionWarning, stacklevel=2)
