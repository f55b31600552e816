"""The pictures that go with an evaluation, written into a folder."""

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from cgcnn_ase.core.targets import TargetSpec
from cgcnn_ase.prediction.evaluation import _BINS, ClassEvaluation, RegressionEvaluation

if TYPE_CHECKING:
    pass


def draw(evaluation: "RegressionEvaluation | ClassEvaluation", target: TargetSpec, folder: Path) -> None:
    """Write the pictures of a target; without matplotlib a warning.

    ``parity.png`` and, where there is a std, ``calibration.png`` of a regression; ``confusion.png`` and
    ``reliability.png`` of a classification.
    """
    if find_spec("matplotlib") is None:
        warnings.warn('no pictures: matplotlib is missing; `pip install "cgcnn-ase[plots]"`', stacklevel=2)
        return
    from cgcnn_ase.plotting import model_plots as plots

    name, unit = target.name.replace("_", " "), target.learned_unit
    if not isinstance(evaluation, RegressionEvaluation):
        labels, p = evaluation.labels, evaluation.probabilities
        plots.save(plots.confusion(labels, p.argmax(axis=1), name=name), folder / "confusion.png")
        plots.save(plots.reliability(labels, p, name=name), folder / "reliability.png")
        return
    y, mean, std = evaluation.target, evaluation.estimate.mean, evaluation.std
    plots.save(plots.parity(y, mean, std, name=name, unit=unit), folder / "parity.png")
    if std is not None:
        bins = min(_BINS, len(y))
        figure = plots.summary(y, mean, std, evaluation.lower, evaluation.upper, name=name, unit=unit, n_bins=bins)
        plots.save(figure, folder / "calibration.png")
