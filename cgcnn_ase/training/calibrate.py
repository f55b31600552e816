"""Calibrate a model on a user's own labels, from 20 on; its weights stay as they are."""

import hashlib
import re
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.core.elements import symbols
from cgcnn_ase.core.files import check_replaceable, clear_folder
from cgcnn_ase.core.targets import TargetSpec, is_name_of, known_targets
from cgcnn_ase.data.dataset import Dataset, hash_of_samples, load_dataset, read_properties, target_columns
from cgcnn_ase.data.prepare import column_for, prepare
from cgcnn_ase.energies.scales import scale_name
from cgcnn_ase.graphs.crystal_graph import geometry
from cgcnn_ase.models.checkpoint import save_model, weights_content
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.models.folder import CARD, CONFIG, WEIGHTS, Json, model_entries, read_config
from cgcnn_ase.models.registry import find_models, load_model, load_refs
from cgcnn_ase.prediction.evaluation import embeddings_of, geometry_of, outputs_of
from cgcnn_ase.structures import read_structures
from cgcnn_ase.structures.packed import load_ids
from cgcnn_ase.uncertainty import RegressionCalibration
from cgcnn_ase.uncertainty.label_shift import MIN_LABELS, ExpectedCoverage, LabelShift, OffsetsChoice

# what a calibrated model is called
SUFFIX = "-calibrated"
# where the record of a calibration stands in the model's training record
RECORD = "calibrated_on_labels"
ENERGY_PER_ATOM = "eV/atom"
# samples of Monte Carlo dropout that its calibration is adapted with, as in training
_N_DROPOUT = 50
# a unit explains a shift if it brings the labels so much nearer to the predictions
_EXPLAINS, _FOLLOWS = 0.3, 0.7
_OTHER_UNITS = {"meV/atom": 1e-3, "kJ/mol": 1 / 96.485, "kcal/mol": 1 / 23.061, "Ry/atom": 13.6057, "Ha/atom": 27.2114}
_NAMED = 5
TRAINING_IDS, PACKED = "training-ids.txt.gz", "structures.npz"
# the files of a calibrated model
_FILES = (CONFIG, WEIGHTS, CARD, TRAINING_IDS)


def calibrate(
    model: str | Path | CrystalModel,
    structures: object,
    values: npt.ArrayLike,
    *,
    target: str | None = None,
    scale: str | None = None,
    element_offsets: OffsetsChoice = "auto",
    max_shift: float = 1.0,
    accept_shift: bool = False,
    seed: int = 0,
) -> CrystalModel:
    """Bring a model's predictions, their std and their interval onto the scale of your own labels.

    Needs 20 labels or more, of structures that are like those to predict. A constant and, where the labels support
    them, an offset of each element are added to the predictions; the std gets a factor, and the interval a new
    conformal factor, both from labels that were left out when the shift was fitted
    (:class:`~cgcnn_ase.uncertainty.label_shift.LabelShift`). The weights stay, and a model that was calibrated before
    starts from what it was without. There is one interval, for structures like the labelled ones.

    Parameters
    ----------
    model
        Pretrained name, folder of a model or run, or a loaded model of crystals, a regression with a calibration.
    structures
        n structures: anything that :func:`cgcnn_ase.structures.read_structures` takes.
    values : array_like
        (n,) their labels, in the unit of the model's target (``model.target.unit``).
    target : str, optional
        What the labels are, such as the name of their column; it also says which of several models of a folder is
        meant.
    scale : str, optional
        Of labels that are energies (:mod:`cgcnn_ase.energies.scales`), which is then the model's; by default the
        model's own.
    element_offsets : {"auto", True, False}
        Offsets of elements: where they lower the cross-validated error, always, or never.
    max_shift : float
        Largest shift in eV/atom that is applied without asking; only of models of energies per atom.
    accept_shift : bool
        Apply a larger one.
    seed : int
        Decides which labels are left out together, where there are more than 60.

    Returns
    -------
    CrystalModel
        With the networks of ``model``. ``training_record["calibrated_on_labels"]`` says what was done and what
        coverage to expect. :func:`write_calibrated` or :func:`cgcnn_ase.models.checkpoint.save_model` write it.

    Raises
    ------
    ValueError
        If the model is of classes or of sites or has no calibration; a structure cannot be read, or its label is not
        finite (the message names it); there are fewer than 20 labels; or the shift is larger than ``max_shift``.

    Examples
    --------
    >>> model = calibrate("formation-energy-per-atom", structures, energies)  # doctest: +SKIP
    >>> predict(model, others)  # doctest: +SKIP
    """
    loaded = one_model(model, target)
    records = list(read_structures(structures))
    if failed := [f"{record.id}: {record.error}" for record in records if record.atoms is None]:
        raise ValueError(f"{len(failed)} structures cannot be read: {_listed(failed)}")
    labels = np.asarray(values, dtype=float)
    if labels.shape != (len(records),):
        raise ValueError(f"{len(records)} structures need as many labels, not an array of shape {labels.shape}")
    data = Dataset(
        [record.id for record in records], [geometry(record.unwrap()) for record in records], labels[:, None],
        scale=None if scale is None else scale_name(scale),
    )  # fmt: skip
    return calibrate_on(
        loaded, data, column=target or "", element_offsets=element_offsets, max_shift=max_shift,
        accept_shift=accept_shift, seed=seed,
    )  # fmt: skip


def calibrate_on(
    model: CrystalModel,
    data: Dataset,
    *,
    column: str = "",
    unit: str = "",
    element_offsets: OffsetsChoice = "auto",
    max_shift: float = 1.0,
    accept_shift: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> CrystalModel:
    """As :func:`calibrate`, on a data set with one target; ``column`` and ``unit`` are what its source says of it."""
    _check_model(model)
    labels = data.targets[:, 0]
    _check_labels(model, data.ids, labels)
    prepared = prepare(replace(data, split=np.full(len(data), "train")), model.target, model.graph, progress=progress)
    learned = model.target.forward(torch.from_numpy(labels)).numpy()
    rows = np.arange(len(data))
    embeddings, shapes = embeddings_of(model, prepared.graphs, rows), geometry_of(prepared.graphs, rows)
    shifted = {}
    for n_dropout, old in ((None, model.calibration), (_N_DROPOUT, model.dropout_calibration)):
        if not isinstance(old, RegressionCalibration):
            continue
        # its one interval is for structures like the labelled ones, of whichever population they are
        base = replace(old, labels=None, hypothetical=None)
        outputs = outputs_of(model, embeddings, n_dropout=n_dropout)
        prediction = base.apply(outputs, data.fractions, geometry=shapes)
        shift = LabelShift.fit(
            prediction, learned, data.fractions, level=base.interval.level, element_offsets=element_offsets, seed=seed
        )
        shifted[n_dropout] = replace(base, labels=shift)
        if n_dropout is None:
            about = _about_labels(model.target, column, unit)
            if model.target.unit == ENERGY_PER_ATOM:
                allowed = np.inf if accept_shift else max_shift
                _check_shift(model.name, learned, prediction.value, data, shift, allowed, about)
            for note in about:
                warnings.warn(note, stacklevel=3)
    result = CrystalModel.like(model, model.members)
    result.calibration, result.dropout_calibration = shifted[None], shifted.get(_N_DROPOUT)
    result.name = model.name.removesuffix(SUFFIX) + SUFFIX
    source = model.training_record.get(RECORD, {}).get("from", {"model": model.name, "sha256": model.sha256})
    record = _record(shifted[None].labels, data, column, seed) | {"from": source}
    result.training_record = model.training_record | {RECORD: record}
    if data.scale is not None and model.target.is_energy:
        result.training_record["scale"] = data.scale  # that of the labels
    result.sha256 = hashlib.sha256(weights_content([result])).hexdigest()
    return result


class LabelledData(NamedTuple):
    """Structures that have a label, and what their source says of it."""

    data: Dataset
    column: str
    unit: str  # empty where the source does not say
    n_without: int  # structures without a label, which are left out


def load_labels(path: Path, model: CrystalModel, target: str | None = None) -> LabelledData:
    """Read labels of a model's target.

    Without ``target`` the column is that of the target's name, or of another of its names, or else the only one. Errors
    are those of :func:`cgcnn_ase.data.dataset.load_dataset`, and a ValueError where a label is infinite.
    """
    names = target_columns(path)
    column = target or column_for(model.target, names, path)
    data = load_dataset(path, target=column)
    column = column or names[0]
    n_without = 0
    if (path / PACKED).exists():
        values = read_properties(path)[0][column].to_numpy(dtype=float)
        if (rows := np.flatnonzero(np.isinf(values))).size:
            names = load_ids(path / PACKED)[rows].tolist()
            raise ValueError(f"{path}: {column} is infinite of {_listed(names)}; allowed are finite numbers")
        n_without = len(values) - len(data)
    return LabelledData(data, column, data.unit_of(column), n_without)


def write_calibrated(
    model: CrystalModel, folder: str | Path, source: Path | None = None, *, overwrite: bool = False
) -> Path:
    """Write a model that :func:`calibrate` made, with a card, into a new or empty folder, and return it.

    ``source`` is the folder of the model it was made of, whose card goes below and whose list of training structures
    goes beside it. With ``overwrite`` it takes the place of an earlier calibrated model; a ValueError is raised if the
    folder holds anything else.
    """
    folder = Path(folder)
    check_output(folder, overwrite=overwrite)
    if source is not None and folder.resolve() == source.resolve():
        raise ValueError(f"{folder}: is the model to calibrate; name another folder")
    if overwrite:
        clear_folder(folder)
    save_model(model, folder)
    card = [f"# {model.name}", "", *(f"- {note}" for note in describe(model))]
    if source is not None and (source / CARD).is_file():
        card += ["", "What follows is the card of the model before; its figures are those without the labels.", ""]
        card += [re.sub("^#", "##", line) for line in (source / CARD).read_text(encoding="utf-8").splitlines()]
    (folder / CARD).write_text("\n".join(card) + "\n", encoding="utf-8")
    if source is not None and (source / TRAINING_IDS).is_file():
        shutil.copyfile(source / TRAINING_IDS, folder / TRAINING_IDS)
    return folder


def check_output(folder: Path, *, overwrite: bool) -> None:
    """Raise a ValueError where a calibrated model cannot be written, best before it is made."""
    if overwrite:
        check_replaceable(folder, _FILES, marks=(CONFIG,), what="a calibrated model")
        if (folder / CONFIG).is_file() and not any(
            RECORD in entry["training"] for entry in model_entries(read_config(folder))
        ):
            raise ValueError(f"{folder}: holds a model that `calibrate` did not make; name another folder")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: is not an empty folder; name another one, or overwrite a calibrated model")


def describe(model: CrystalModel) -> list[str]:
    """Sentences on what the labels changed in a model that :func:`calibrate` made, and what to expect of it."""
    record, unit = model.training_record[RECORD], model.target.learned_unit
    shift, coverage = LabelShift.model_validate(record["shift"]), ExpectedCoverage(**record["expected_coverage"])
    largest = sorted(shift.offsets.items(), key=lambda item: -abs(item[1]))[:_NAMED]
    offsets = ", ".join(f"{name} {value:+.3f}" for name, value in largest)
    of_elements = (
        f"and offsets of {len(shift.offsets)} elements ({offsets}{', ...' if len(shift.offsets) > _NAMED else ''})"
        if shift.offsets
        else "no offsets of elements"
    )
    others = record["n_labels_without_interval"]
    far = f" ({others} more, far outside the domain, have no interval and were left out)" if others else ""
    return [
        f"calibrated on {shift.n_labels} labels{far}: a shift of {shift.constant:+.3f} {unit}, {of_elements}; "
        f"weights unchanged, from {record['from']['model']} (sha256 {record['from']['sha256'][:12]})",
        f"MAE on the labels: {shift.mae_before:.4f} {unit} before, {shift.mae_after:.4f} after (each label left out)",
        f"a scatter of {shift.scatter:.3f} {unit} is added to the std, then the std is multiplied by "
        f"{shift.std_factor:.2f} and the sides of the interval by {shift.interval_factor:.2f}",
        f"expect the {shift.level:.0%} interval to hold {coverage.mean:.0%} of new labels, of structures like these; "
        f"with {shift.n_labels} labels, 9 of 10 calibrations lie between {coverage.low:.0%} and {coverage.high:.0%}",
    ]


def _record(shift: LabelShift | None, data: Dataset, column: str, seed: int) -> Json:
    """Return what the model's record keeps of its labels and of the calibration."""
    assert shift is not None
    counts = (data.fractions > 0).sum(axis=0)
    return {
        "shift": shift.model_dump(),
        "expected_coverage": shift.expected_coverage._asdict(),
        "n_labels_without_interval": len(data) - shift.n_labels,
        "elements": {symbols()[z]: int(counts[z]) for z in np.flatnonzero(counts).tolist()},
        "labels_hash": hash_of_samples(data.ids, data.targets),
        "column": column,
        "seed": seed,
    }


def one_model(model: str | Path | CrystalModel, target: str | None) -> CrystalModel:
    """Load a model; of several in a folder that of the target."""
    if isinstance(model, CrystalModel):
        return model
    refs = find_models(model)
    if len(refs) > 1 and target is not None:
        matching = [each for each in load_refs(refs) if is_name_of(target, each.target.name)]
        if len(matching) == 1:
            return matching[0]
    return load_model(model)


def _check_model(model: CrystalModel) -> None:
    """Raise a ValueError where a model cannot be calibrated on labels."""
    model.check_level("crystal", "calibrate")
    if model.target.task != "regression":
        raise ValueError(
            f"the model {model.name!r} predicts classes; calibrate is for regressions. Its probabilities are "
            "adapted to labels of your own by cgcnn-ase finetune"
        )
    if model.calibration is None:
        raise ValueError(
            f"the model {model.name!r} has no std and no interval to calibrate (an original CGCNN file has none); "
            "cgcnn-ase finetune makes a model that has"
        )


def _check_labels(model: CrystalModel, ids: Sequence[str], labels: Floats) -> None:
    """Raise a ValueError that names the labels that cannot be used, or says that there are too few."""
    reasons = [
        (name, value, model.target.validation_error(value)) for name, value in zip(ids, labels.tolist(), strict=True)
    ]
    if bad := [f"{name} ({value} {reason})" for name, value, reason in reasons if reason is not None]:
        raise ValueError(f"{len(bad)} of {len(ids)} labels of {model.target.name} cannot be used: {_listed(bad)}")
    if len(ids) < MIN_LABELS:
        raise ValueError(f"calibration needs at least {MIN_LABELS} labels, there are {len(ids)}")


def _about_labels(target: TargetSpec, column: str, unit: str) -> list[str]:
    """Sentences on a name or unit of the labels that is not the model's."""
    notes = []
    others = known_targets(column)
    if others and target.name not in others:
        notes.append(f"the column {column!r} is called like {' or '.join(others)}, the model predicts {target.name}")
    stated = unit or next(iter(re.findall(r"[(\[]([^)\]]+)[)\]]\s*$", column)), "")
    if stated and stated.replace(" ", "").casefold() != target.unit.casefold():
        notes.append(f"the labels are in {stated}, the model predicts {target.name} in {target.unit}")
    return notes


def _check_shift(
    name: str, labels: Floats, predicted: Floats, data: Dataset, shift: LabelShift, max_shift: float, about: list[str]
) -> None:
    """Raise a ValueError where labels in eV/atom are further off than another method explains.

    Where a unit explains labels that are less far off, ``about`` gets a sentence.
    """
    error = labels - predicted
    off = float(np.median(np.abs(error)))
    cause = _other_unit(labels, predicted, data)
    if max(off, abs(float(np.median(shift.shift(data.fractions))))) <= max_shift:
        about += [] if cause is None else [cause]
        return
    if cause is None and shift.mae_after < _EXPLAINS * shift.mae_before:
        cause = (
            f"one energy for each element explains the shift (what is left is {shift.mae_after:.2g} eV/atom), so the "
            "labels look like another scale: total energies instead of formation energies, or other references"
        )
    elif cause is None:
        cause = (
            "likely causes are another unit (eV per cell, meV/atom) or another scale (total energies instead of "
            "formation energies, other references of the elements)"
        )
    sentences = [
        f"the labels are {off:.3g} {ENERGY_PER_ATOM} off the predictions of {name} (median; with its sign "
        f"{np.median(error):+.3g}), more than the {max_shift:g} that is applied without asking",
        *about,
        cause,
        "to apply the shift all the same: accept_shift=True, --accept-shift on the command line",
    ]
    raise ValueError("; ".join(sentences))


def _other_unit(labels: Floats, predicted: Floats, data: Dataset) -> str | None:
    """Return a sentence if labels fit the predictions much better when they are read in another unit."""
    factors = {"eV per cell": 1.0 / data.n_atoms} | {unit: np.array(factor) for unit, factor in _OTHER_UNITS.items()}
    left = {unit: labels * factor - predicted for unit, factor in factors.items()}
    unit, error = min(left.items(), key=lambda item: float(np.median(np.abs(item[1]))))
    size = float(np.median(np.abs(error)))
    # labels that a large number divides are all near zero, which fits many predictions: they must follow them, too
    follows = _spread(error) < _FOLLOWS * _spread(predicted)
    if size >= _EXPLAINS * float(np.median(np.abs(labels - predicted))) or not follows:
        return None
    return f"the labels look like {unit}: read as such, they are {size:.2g} eV/atom off (median)"


def _spread(values: Floats) -> float:
    return float(np.median(np.abs(values - np.median(values))))


def _listed(names: Sequence[str]) -> str:
    """The first few of some names."""
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
