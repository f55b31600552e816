"""The pictures that go with an evaluation, written into a folder."""

import warnings
from functools import singledispatch
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from cgcnn_ase.core.errors import install_line
from cgcnn_ase.core.targets import TargetSpec
from cgcnn_ase.plotting import model_plots as plots
from cgcnn_ase.prediction.evaluation import ClassificationEvaluation, ModelEvaluation, RegressionEvaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(evaluation: ModelEvaluation, target: TargetSpec, folder: Path) -> None:
    """Write the pictures of a target; without matplotlib a warning.

    ``parity.png`` and, where there is a std, ``calibration.png`` of a regression, and where there is a domain,
    ``domain.png``; ``confusion.png`` and ``reliability.png`` of a classification.
    """
    if find_spec("matplotlib") is None:
        warnings.warn(f"no pictures: matplotlib is missing; {install_line('plots')}", stacklevel=2)
        return
    for name, figure in figures(evaluation, target.name.replace("_", " "), target.learned_unit).items():
        plots.save(figure, folder / f"{name}.png")


@singledispatch
def figures(evaluation: ModelEvaluation, name: str, unit: str) -> "dict[str, Figure]":
    """Draw an evaluation: figures by name. Another kind of evaluation registers its own (``figures.register``)."""
    del name, unit
    raise TypeError(f"no pictures of a {type(evaluation).__name__}")


@figures.register(RegressionEvaluation)
def _(evaluation: RegressionEvaluation, name: str, unit: str) -> "dict[str, Figure]":
    y, mean, std = evaluation.target, evaluation.mean, evaluation.std
    parity = {"parity": plots.parity(y, mean, std, name=name, unit=unit)}
    if std is None:
        return parity
    n_bins = min(10, len(y))  # of the calibration error
    summary = plots.summary(y, mean, std, evaluation.lower, evaluation.upper, name=name, unit=unit, n_bins=n_bins)
    pictures = {**parity, "calibration": summary}
    if evaluation.domain_score is not None:
        pictures["domain"] = plots.error_against_domain(y, mean, evaluation.domain_score, name=name, unit=unit)
    return pictures


@figures.register(ClassificationEvaluation)
def _(evaluation: ClassificationEvaluation, name: str, unit: str) -> "dict[str, Figure]":
    del unit
    labels, p = evaluation.labels, evaluation.probabilities
    return {
        "confusion": plots.confusion(labels, p.argmax(axis=1), name=name),
        "reliability": plots.reliability(labels, p, name=name),
    }
