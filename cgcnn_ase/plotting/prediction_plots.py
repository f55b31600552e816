"""Pictures of predictions: values with their intervals, and those that go with an evaluation, written into a folder."""

import warnings
from collections.abc import Sequence
from functools import singledispatch
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.core.errors import install_line
from cgcnn_ase.core.targets import TargetSpec
from cgcnn_ase.plotting import model_plots as plots
from cgcnn_ase.plotting.model_plots import BLUE, GREY, ORANGE, new_figure, quantity
from cgcnn_ase.prediction.evaluation import ClassificationEvaluation, ModelEvaluation, RegressionEvaluation

if TYPE_CHECKING:
    from ase import Atoms
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cgcnn_ase.prediction.results import Prediction

# names are written beside so many values, at most
_NAMED = 40
# panels side by side, at most
_PANELS = 3


def predictions_plot(predictions: "Sequence[Prediction]") -> "Figure":
    """Draw predicted values, the lowest first: bars are the intervals, open symbols are outside of the domain.

    A panel for each model. Where there is no interval the bars are one std. Of more than 40 values the names are left
    out. ValueError if nothing was predicted.
    """
    of_models: dict[tuple[str, str, str], list[Prediction]] = {}
    for prediction in predictions:
        if prediction.value is not None:
            key = prediction.property, prediction.unit, prediction.model
            of_models.setdefault(key, []).append(prediction)
    if not of_models:
        raise ValueError("there is nothing to draw: no structure was predicted")
    panels = list(of_models.items())
    columns = min(_PANELS, len(panels))
    rows = -(-len(panels) // columns)
    few = max(len(group) for _, group in panels) <= _NAMED
    figure, _ = new_figure(1)
    figure.clear()
    height = max(3.2, 1.4 + 0.24 * max(len(group) for _, group in panels)) if few else 4.2
    figure.set_size_inches(5.4 * columns, height * rows)
    for k, ((name, unit, model), group) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, k + 1)
        axes.spines[["top", "right"]].set_visible(False)
        _draw(axes, group, name, unit, model)
    return figure


def _draw(axes: "Axes", group: "list[Prediction]", name: str, unit: str, model: str) -> None:
    group = sorted(group, key=lambda one: (one.value or 0.0, one.id))
    values = np.array([one.value for one in group], dtype=float)
    low, high, bars = _ends(group, values)
    places = np.arange(len(group))
    outside = np.array([one.in_domain is False for one in group])
    few = len(group) <= _NAMED
    size = 5.0 if few else 2.5
    error = np.clip(np.stack([values - low, high - values]), 0.0, None)
    for shown, color, face in ((~outside, BLUE, BLUE), (outside, ORANGE, "white")):
        if not shown.any():
            continue
        known = shown & np.isfinite(error).all(axis=0)
        x, y = (values, places) if few else (places, values)
        axes.errorbar(
            x[known], y[known], xerr=error[:, known] if few else None, yerr=None if few else error[:, known],
            fmt="none", ecolor=color, elinewidth=1.2 if few else 0.5, alpha=0.7, capsize=2 if few else 0,
        )  # fmt: skip
        axes.plot(x[shown], y[shown], "o", color=color, mfc=face, ms=size)
    label = quantity(name, unit)
    if few:
        axes.set_yticks(places, [_label(one) for one in group], fontsize=9)
        axes.set_xlabel(label)
        axes.invert_yaxis()
        axes.grid(axis="y", color=GREY, alpha=0.15)
    else:
        axes.set_xlabel(f"rank of {len(group):,}")
        axes.set_ylabel(label)
    parts = [bars] if bars else []
    parts += [f"open: {outside.sum():,} outside of the domain"] if outside.any() else []
    axes.set_title("\n".join([model, "; ".join(parts)]) if parts else model, fontsize=10.5)


def _ends(group: "list[Prediction]", values: Floats) -> tuple[Floats, Floats, str]:
    """Lower and upper ends of the bars, NaN where there are none, and what the bars are."""
    lower, upper, std = (
        np.array([np.nan if x is None else x for x in column], dtype=float)
        for column in zip(*((one.lower, one.upper, one.std) for one in group), strict=True)
    )
    if np.isfinite(lower).any():
        return lower, upper, "bars: 90 % interval"
    if np.isfinite(std).any():
        return values - std, values + std, "bars: one std"
    return lower, upper, ""


def _label(one: "Prediction") -> str:
    return one.id if one.site_index is None else f"{one.id}, {one.element} {one.site_index}"


def relaxation_plot(trajectory: "Sequence[Atoms]", *, fmax: float | None = None) -> "Figure":
    """Draw energy, largest force and, where the structures tell them, their stds along a relaxation.

    Parameters
    ----------
    trajectory
        Structures with energies and forces, in their order: ``relax(..., trajectory=True)[0].trajectory``, frames that
        :meth:`~cgcnn_ase.calculator.CGCNNCalculator.annotate` has marked, or a file of either, read by ASE.
        ``energy_std`` and ``max_force_std`` are read from their ``info``.
    fmax
        Draw this force (eV/Å) as the aim.

    Raises
    ------
    ValueError
        If there is no structure, or one without energy and forces.

    Examples
    --------
    >>> figure = relaxation_plot(ase.io.read("steps/LiNiO2.extxyz", ":"), fmax=0.05)  # doctest: +SKIP
    """
    from matplotlib.ticker import MaxNLocator

    if not trajectory:
        raise ValueError("there is nothing to draw: the trajectory holds no structure")
    energies, forces = (np.array(column) for column in zip(*map(_energy_and_force, trajectory), strict=True))
    energy_std, force_std = (
        np.array([frame.info.get(name, np.nan) for frame in trajectory], dtype=float)
        for name in ("energy_std", "max_force_std")
    )
    figure, panels = new_figure(3 if np.isfinite(energy_std).any() else 2)
    steps, mark = np.arange(len(energies)), "o-" if len(energies) <= _NAMED else "-"
    panels[0].plot(steps, energies - energies[-1], mark, color=BLUE, ms=3.5, lw=1.3)
    panels[0].set_ylabel(quantity("energy above the last", "eV"))
    panels[1].plot(steps, forces, mark, color=BLUE, label="force", ms=3.5, lw=1.3)
    if np.isfinite(force_std).any():
        panels[1].plot(steps, force_std, mark, color=ORANGE, label="std", ms=3.5, lw=1.3)
    if fmax is not None:
        panels[1].axhline(fmax, color=GREY, lw=1, ls="--", label="aim")
    panels[1].set_ylabel(quantity("largest on an atom", "eV/Å"))
    if forces.all():
        panels[1].set_yscale("log")
        plots.plain_log_ticks(panels[1], x=False)
    panels[1].legend(frameon=False, fontsize=10)
    if len(panels) > 2:
        panels[2].plot(steps, 1000 * energy_std / len(trajectory[0]), mark, color=ORANGE, ms=3.5, lw=1.3)
        panels[2].set_ylabel(quantity("std of the energy", "meV/atom"))
        panels[2].set_ylim(0, 1150 * np.nanmax(energy_std) / len(trajectory[0]))
    for axes in panels:
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(trajectory[0].get_chemical_formula(mode="metal", empirical=True), fontsize=12)
    return figure


def _energy_and_force(atoms: "Atoms") -> tuple[float, float]:
    """Energy, eV, and largest force on an atom, eV/Å."""
    if atoms.calc is None:
        raise ValueError(f"{atoms.get_chemical_formula()}: has no energy and forces")
    return atoms.get_potential_energy(), float(np.linalg.norm(atoms.get_forces(), axis=1).max())


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
