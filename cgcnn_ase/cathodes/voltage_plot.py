"""Picture of a voltage curve: the convex hull of the phases, and the voltage steps between those on it."""

import re
from typing import TYPE_CHECKING

import numpy as np

from cgcnn_ase.plotting.model_plots import BLUE, GREY, ORANGE, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cgcnn_ase.cathodes.voltage import VoltageCurve


def voltage_plot(curve: "VoltageCurve") -> "Figure":
    """Formation energies over their hull on the left, voltages with one std on the right, against the content of Li."""
    figure, (left, right) = new_figure(2)
    _hull(left, curve)
    _steps(right, curve)
    for axes in (left, right):
        axes.set_xlabel(f"x in {curve.ion}$_x${_subscripts(curve.unit)}")
    figure.suptitle(f"energies: {curve.model}", fontsize=11)
    return figure


def _hull(axes: "Axes", curve: "VoltageCurve") -> None:
    stable = [phase for phase in curve.phases if phase.is_stable]
    others = [phase for phase in curve.phases if not phase.is_stable]
    axes.axhline(0, color=GREY, linestyle="--", linewidth=0.8)
    axes.plot([p.x for p in stable], [p.formation_energy for p in stable], color=BLUE, linewidth=1.2)
    for phases, colour, marker, label in ((others, GREY, "o", "above the hull"), (stable, BLUE, "s", "on the hull")):
        x, y = [p.x for p in phases], [p.formation_energy for p in phases]
        axes.plot(x, y, marker, color=colour, markersize=5, label=label)
        stds = [p.std for p in phases if p.std is not None]
        if len(stds) == len(phases):
            axes.errorbar(x, y, yerr=stds, fmt="none", ecolor=colour, elinewidth=1, capsize=2, alpha=0.6)
    axes.set_ylabel(f"formation energy\n(eV per {_subscripts(curve.unit)})")
    axes.margins(y=0.2)
    if others:
        axes.legend(frameon=False, fontsize=10, loc="best")


def _steps(axes: "Axes", curve: "VoltageCurve") -> None:
    steps = sorted(curve.steps, key=lambda step: step.x_to)
    label = "one std"
    for step in steps:
        if step.std is not None:
            low, high = step.voltage - step.std, step.voltage + step.std
            axes.fill_between([step.x_to, step.x_from], low, high, color=BLUE, alpha=0.2, linewidth=0, label=label)
            label = "_one is enough"
    x = np.array([[step.x_to, step.x_from] for step in steps]).ravel()
    axes.plot(x, np.repeat([step.voltage for step in steps], 2), color=BLUE, linewidth=2)
    mean = sum(s.voltage * (s.x_from - s.x_to) for s in steps) / (steps[-1].x_from - steps[0].x_to)
    axes.axhline(mean, color=ORANGE, linestyle="--", linewidth=1.2, label=f"average {mean:.2f} V")
    axes.set_ylabel(f"voltage against {curve.ion} (V)")
    axes.margins(y=0.25)
    axes.legend(frameon=False, fontsize=10, loc="upper right")


def _subscripts(formula: str) -> str:
    """``CoO2`` as matplotlib writes it."""
    return re.sub(r"([\d.]+)", r"$_{\1}$", formula)
