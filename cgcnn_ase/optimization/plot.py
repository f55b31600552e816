"""Pictures of an optimisation: how the best value fell, and which points no other beats."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from cgcnn_ase.core.errors import require
from cgcnn_ase.optimization.records import OptimisationResult, costs, values
from cgcnn_ase.plotting.model_plots import BLUE, GREEN, GREY, ORANGE, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cgcnn_ase.optimization.objectives import Objective

CONVERGENCE, PARETO = "convergence.png", "pareto.png"


def convergence_plot(result: OptimisationResult) -> "Figure":
    """Draw each objective against the evaluations: what came out, what was predicted with one std, and the best so far.

    A ValueError is raised where every evaluation failed.
    """
    _check_known(result)
    figure, panels = new_figure(len(result.objectives))
    figure.set_size_inches(max(6.4, 4.2 * len(panels)), 4.8)
    for axes, objective in zip(panels, result.objectives, strict=True):
        _convergence(axes, result, objective)
    _title(figure, result)
    named = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=3, frameon=False, fontsize=10)
    return figure


def pareto_plot(result: OptimisationResult) -> "Figure":
    """Draw the first two objectives of all evaluations, and the Pareto front of all objectives among them.

    A ValueError is raised where there are fewer than two objectives, or every evaluation failed.
    """
    if len(result.objectives) < 2:
        raise ValueError("a Pareto front needs at least two objectives")
    _check_known(result)
    figure, (axes,) = new_figure(1)
    figure.set_size_inches(6.0, 4.2)
    first, second = result.objectives[:2]
    front = sorted(result.front, key=lambda record: record.values[first.name])
    on_front = {record.index for record in front}
    for records, colour, marker, size, label in (
        ([r for r in result.known if r.index not in on_front], GREY, "o", 4, "evaluated"),
        (front, BLUE, "s", 5, "Pareto front"),
    ):
        if records:
            points = values(records, (first, second))
            stds = [[r.stds.get(o.name, 0.0) for r in records] for o in (first, second)]
            axes.errorbar(
                points[:, 0], points[:, 1], xerr=stds[0], yerr=stds[1], fmt=marker, color=colour, markersize=size,
                elinewidth=0.8, alpha=0.85, label=label,
            )  # fmt: skip
    if len(result.objectives) == 2 and all(o.goal != "target" for o in result.objectives):
        corners = values(front, (first, second))
        # what the front is better than: right of a point where the first value is to be low, left where high
        where: Literal["pre", "post"] = "post" if first.goal == "min" else "pre"
        axes.step(corners[:, 0], corners[:, 1], where=where, color=BLUE, linewidth=1)
    axes.set_xlabel(_label(first))
    axes.set_ylabel(_label(second))
    axes.legend(frameon=False, fontsize=10)
    _title(figure, result)
    return figure


def save_plots(result: OptimisationResult) -> list[Path]:
    """Draw ``convergence.png``, and with several objectives ``pareto.png``, into the folder of the run."""
    require("matplotlib", "a picture")
    drawn = [save(convergence_plot(result), result.folder / CONVERGENCE)]
    if len(result.objectives) > 1:
        drawn.append(save(pareto_plot(result), result.folder / PARETO))
    return drawn


def _convergence(axes: "Axes", result: OptimisationResult, objective: "Objective") -> None:
    from matplotlib.ticker import MaxNLocator

    known = result.known
    # labels that were given stand at 0, the evaluations at 1, 2, ...
    numbers = np.cumsum([record.status != "label" for record in result.records])
    positions = {
        record.index: int(n) if record.status != "label" else 0
        for record, n in zip(result.records, numbers, strict=True)
    }
    told = [record for record in result.records if objective.name in record.mean]
    if told:
        axes.errorbar(
            [positions[r.index] for r in told], [r.mean[objective.name] for r in told],
            yerr=[r.std[objective.name] for r in told], fmt="_", color=GREY, elinewidth=0.8, markersize=5, alpha=0.8,
            label="predicted, one std",
        )  # fmt: skip
    initial = [r for r in known if r.chosen_by == "initial"]
    for records, colour, marker, label in (
        ([r for r in known if r.status == "label"], ORANGE, "D", "known before"),
        (initial, ORANGE, "o", "initial"),
        ([r for r in known if r.status == "done" and r not in initial], BLUE, "o", "proposed"),
    ):
        if records:
            axes.errorbar(
                [positions[r.index] for r in records], [r.values[objective.name] for r in records],
                yerr=[r.stds.get(objective.name, 0.0) for r in records], fmt=marker, color=colour, markersize=4,
                elinewidth=0.8, label=label,
            )  # fmt: skip
    cost = costs(known, (objective,))[:, 0]
    best = [known[int(np.argmin(cost[: k + 1]))].values[objective.name] for k in range(len(known))]
    axes.step([positions[r.index] for r in known], best, where="post", color=GREEN, linewidth=1.8, label="best so far")
    if objective.target is not None:
        axes.axhline(objective.target, color=GREY, linestyle="--", linewidth=1, label="target")
    low, high = axes.get_ylim()
    failed = [positions[r.index] for r in result.failed]
    if failed:
        axes.plot(failed, [low] * len(failed), "x", color="black", markersize=5, label="failed", clip_on=False)
        axes.set_ylim(low, high)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("evaluations")
    axes.set_ylabel(_label(objective))


def _check_known(result: OptimisationResult) -> None:
    if not result.known:
        raise ValueError(f"{result.folder}: there is nothing to draw: no evaluation gave a value")


def _title(figure: "Figure", result: OptimisationResult) -> None:
    """Say who evaluated."""
    figure.suptitle(f"values: {result.oracle['what']}", fontsize=11)


def _label(objective: "Objective") -> str:
    words = objective.name.replace("_", " ")
    return f"{words} ({objective.unit})" if objective.unit else words
