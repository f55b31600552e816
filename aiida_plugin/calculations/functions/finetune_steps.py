"""Steps that need labels and no job: the quick ones of ``cgcnn.finetune``, and ``cgcnn.calibrate``."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
from aiida.engine import calcfunction
from aiida.orm import Dict, Str

from aiida_plugin.calculations.functions import node_default
from aiida_plugin.calculations.training_data import gather
from aiida_plugin.data.labels import labels_of, only_scheme
from aiida_plugin.data.model import CGCNNModelData
from aiida_plugin.data.predictions import PredictionsData
from aiida_plugin.data.structures import StructureSetData
from cgcnn_ase.core.elements import MAX_NUMBER
from cgcnn_ase.core.environment import package_version as version
from cgcnn_ase.inspection.element_offsets import fit_offsets
from cgcnn_ase.uncertainty.metrics import mae, rmse

_VERSION = node_default(version(), Str)
_CALIBRATE_SETTINGS = ("name", "target", "element_offsets", "max_shift", "accept_shift", "seed")


@calcfunction
def calibrate(
    model: CGCNNModelData,
    structures: StructureSetData,
    settings: Dict | None = None,
    package_version: Str = _VERSION,  # noqa: ARG001
) -> CGCNNModelData:
    """Bring a model onto the scale of labels of one's own, 20 or more; see :func:`cgcnn_ase.calibrate`.

    Parameters
    ----------
    model
        A regression of crystals, with a calibration.
    structures
        Labelled structures, like those to predict; those without a label are left out.
    settings
        ``target`` (what the labels are called in the structures, by default the model's target), ``name`` (which of the
        models of a folder), and ``element_offsets``, ``max_shift``, ``accept_shift`` and ``seed`` as there.
    package_version
        Of what calibrates, so that caching tells versions apart; filled in.

    Returns
    -------
    CGCNNModelData
        With the same networks; its card says what coverage to expect.

    Raises
    ------
    ValueError
        If a setting is none of the allowed, labels are of different kinds, and as of :func:`cgcnn_ase.calibrate`.
    """
    from cgcnn_ase.training.calibrate import calibrate as calibrate_model
    from cgcnn_ase.training.calibrate import write_calibrated

    options = {} if settings is None else settings.get_dict()
    if unknown := sorted(set(options) - set(_CALIBRATE_SETTINGS)):
        raise ValueError(f"settings {', '.join(unknown)}: allowed are {', '.join(_CALIBRATE_SETTINGS)}")
    loaded = model.load(options.pop("name", None))
    column = options.pop("target", None)
    pairs = zip(
        structures.ids, structures.iter_atoms(), labels_of(structures, column or loaded.target.name), strict=True
    )
    labelled = {name: (atoms, label) for name, atoms, label in pairs if label is not None}
    only_scheme([atoms for atoms, _ in labelled.values()])
    result = calibrate_model(
        loaded,
        {name: atoms for name, (atoms, _) in labelled.items()},
        [label for _, label in labelled.values()],
        target=column,
        **options,
    )
    with TemporaryDirectory() as folder:
        source = model.export(Path(folder) / "before")
        node = CGCNNModelData(write_calibrated(result, Path(folder) / result.name, source))
    if any(each.base.attributes.get("labels_converged", None) is False for each in (structures, model)):
        node.base.attributes.set("labels_converged", False)
    return node


@calcfunction
def split_test(structures: StructureSetData, target: Str, settings: Dict) -> dict[str, StructureSetData]:
    """Divide a labelled set into ``train`` and ``test``, which before and after are both measured on.

    Parameters and errors as of :func:`aiida_plugin.calculations.training_data.gather`; a ValueError is raised, too, if
    no structure is left to test on.
    """
    train, test = parts(structures, target.value, settings.get_dict())
    return {"train": structures.select(train), "test": structures.select(test)}


def parts(structures: StructureSetData, target: str, settings: Mapping[str, object]) -> tuple[list[str], list[str]]:
    """The ids to learn from and to test on; raises as `split_test`."""
    data = gather(structures, target, settings)
    test = [name for name, split in zip(data.ids, data.split.tolist(), strict=True) if split == "test"]
    if not test:
        raise ValueError(
            f"{len(data.ids)} structures are too few to keep a part of {settings.get('test', 0.1)} to test on; give a "
            "test set, or set test: 0"
        )
    kept = set(test)
    labelled = [name for name, label in zip(data.ids, data.labels, strict=True) if label is not None]
    return [name for name in labelled if name not in kept], test


@calcfunction
def report_finetuning(
    target: Str,
    metrics: Dict,
    train: StructureSetData,
    before_on_train: PredictionsData,
    test: StructureSetData | None = None,
    before: PredictionsData | None = None,
    after: PredictionsData | None = None,
) -> Dict:
    """Report what fine-tuning changed.

    Parameters
    ----------
    target
        What is learned.
    metrics
        Of the training.
    train, test
        The labelled sets; without a test set there is no before and after.
    before_on_train
        Predictions of the old model on ``train``.
    before, after
        Predictions of the old and of the new model on ``test``.

    Returns
    -------
    Dict
        ``before`` and ``after`` (see `accuracy`), ``offset`` (see `offset`, of the old model on what was learned),
        ``n_train``, ``n_test``, and what the metrics say of the labels and of the calibration. ``mae_without_offset``
        of ``before`` is the error of the old model with the mean offset added: what is left beside a constant.
    """
    facts = metrics.get_dict()
    same = ("target", "n_train", "n_val", "label_scheme", "label_scheme_id", "calibration", "n_epochs")
    result: dict[str, object] = {name: facts[name] for name in same if name in facts}
    result["unit"] = str(before_on_train.base.attributes.get("unit"))
    result["offset"] = offset(train, target.value, before_on_train)
    result["n_test"] = 0 if test is None else len(test)
    if test is not None and before is not None and after is not None:
        old, new = (accuracy(test, target.value, predicted) for predicted in (before, after))
        constant = cast("Mapping[str, float]", result["offset"])["mean"]
        old["mae_without_offset"] = accuracy(test, target.value, before, shift=constant)["mae"]
        result |= {"before": old, "after": new, "mae_ratio": new["mae"] / old["mae"] if old["mae"] > 0 else 1.0}
    return Dict(result)


def accuracy(
    labelled: StructureSetData, target: str, predictions: PredictionsData, *, shift: float = 0.0
) -> dict[str, float]:
    """Errors of predictions of a labelled set, in their unit; a ValueError if no structure has a label and a
    prediction.

    ``n``, ``mae``, ``rmse``, ``mean_error`` (prediction - label), ``largest_error``; where the model is calibrated
    ``coverage`` (part of the labels within the interval), ``mean_std`` and ``in_domain`` (part); ``n_failed``
    (structures without a prediction, left out). The `shift` is added to every prediction.
    """
    frame = predictions.to_frame().set_index("id")
    pairs = dict(zip(labelled.ids, labels_of(labelled, target), strict=True))
    names = [name for name, label in pairs.items() if label is not None and name in frame.index]
    if not names:
        raise ValueError("no structure has both a label and a prediction")
    frame, labels = frame.loc[names], np.array([pairs[name] for name in names], dtype=float)
    values = frame["value"].to_numpy(dtype=float) + shift
    errors = values - labels
    result: dict[str, float] = {
        "n": len(names),
        "mae": mae(labels, values),
        "rmse": rmse(labels, values),
        "mean_error": float(errors.mean()),
        "largest_error": float(np.abs(errors).max()),
        "n_failed": len(pairs) - len(names),
    }
    if frame[["lower", "upper"]].notna().all(axis=None):
        lower, upper = (frame[end].to_numpy(float) + shift for end in ("lower", "upper"))
        inside = (lower <= labels) & (labels <= upper)
        result["coverage"] = float(inside.mean())
    if frame["std"].notna().all():
        result["mean_std"] = float(frame["std"].astype(float).mean())
    if frame["in_domain"].notna().all():
        result["in_domain"] = float(frame["in_domain"].astype(bool).mean())
    return result


def offset(labelled: StructureSetData, target: str, predictions: PredictionsData) -> dict[str, object]:
    r"""How labels differ from a model as a whole: ``n``, ``mean`` and ``std`` of label - prediction.

    A change of functional, of pseudopotentials or of the elements' references shifts an energy per atom by
    :math:`\sum_e x_e c_e` with the atomic fractions x. Of targets per atom the c are given as ``per_element``: fitted
    by least squares, the smallest where the compositions leave some of them open (``determined`` says whether they do
    not); and ``mae_without``, what is left when the shift is taken off.
    """
    frame = predictions.to_frame()
    predicted = dict(zip(frame["id"].tolist(), frame["value"].tolist(), strict=True))
    differences, rows = [], []
    for name, atoms, label in zip(labelled.ids, labelled.iter_atoms(), labels_of(labelled, target), strict=True):
        if label is not None and name in predicted:
            differences.append(label - predicted[name])
            rows.append(np.bincount(atoms.numbers, minlength=MAX_NUMBER + 1) / len(atoms))
    if not rows:
        raise ValueError("no structure has both a label and a prediction")
    shift, fractions = np.array(differences), np.array(rows)
    result: dict[str, object] = {"n": len(shift), "mean": float(shift.mean()), "std": float(shift.std())}
    if not str(predictions.base.attributes.get("unit")).endswith("/atom"):
        return result
    fit = fit_offsets(fractions, shift)
    return result | {
        "per_element": fit.offsets,
        "determined": fit.rank == len(fit.offsets),
        "mae_without": mae(shift, fit.difference(fractions)),
    }
