"""Pictures of a ranking; see :mod:`cgcnn_ase.plots`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cgcnn_ase.plots import BLUE, GREY, ORANGE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cgcnn_ase.defects.costs import DefectCost

#: names are written under so many defects, at most
_NAMED = 30


def ranking(costs: "Sequence[DefectCost]") -> "Figure":
    """The energy of every defect, cheapest first, with one std up and down; those outside the domain in orange."""
    figure, (axes,) = new_figure(1)
    figure.set_size_inches(9.0, 4.6)
    ranks = np.arange(1, len(costs) + 1)
    energies = np.array([cost.energy for cost in costs])
    stds = np.array([np.nan if cost.std is None else cost.std for cost in costs])
    outside = np.array([cost.in_domain is False for cost in costs])
    known = np.isfinite(stds)
    few = len(costs) <= _NAMED
    for which, color, label in ((~outside, BLUE, "in the domain"), (outside, ORANGE, "outside the domain")):
        if not which.any():
            continue
        bars = which & known
        axes.errorbar(
            ranks[bars], energies[bars], yerr=stds[bars], fmt="none", ecolor=color, alpha=0.8 if few else 0.4,
            elinewidth=1.2 if few else 0.8, capsize=3 if few else 0,
        )  # fmt: skip
        text = (
            label
            if outside.any()
            else f"{len(costs):,} defects, ± one std"
            if known.any()
            else f"{len(costs):,} defects"
        )
        axes.plot(ranks[which], energies[which], "o", ms=5 if few else 2.5, color=color, label=text)
    if few:
        axes.set_xticks(ranks, [cost.id for cost in costs], rotation=60, ha="right", fontsize=8)
    else:
        axes.set_xlabel("rank")
    axes.set(ylabel="formation energy (eV)", title=_title(costs))
    axes.margins(x=0.02)
    axes.legend(frameon=False, loc="upper left")
    return figure


def histogram(costs: "Sequence[DefectCost]") -> "Figure":
    """How many defects cost how much, by name of the defect."""
    figure, (axes,) = new_figure(1)
    figure.set_size_inches(6.4, 4.6)
    names = sorted({cost.defect for cost in costs})
    groups = [[cost.energy for cost in costs if cost.defect == name] for name in names[:_COLORS]]
    if len(names) > _COLORS:
        groups.append([cost.energy for cost in costs if cost.defect in names[_COLORS:]])
    labels = [*names[:_COLORS], f"{len(names) - _COLORS} more"]
    bins = np.histogram_bin_edges([cost.energy for cost in costs], bins="fd" if len(costs) > 10 else 10)
    if len(bins) > 61:
        bins = np.linspace(bins[0], bins[-1], 61)
    shades = [BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", GREY][: len(groups)]
    axes.hist(groups, bins=bins.tolist(), stacked=True, color=shades, label=labels[: len(groups)])
    axes.set(xlabel="formation energy (eV)", ylabel="defects", title=_title(costs))
    axes.legend(frameon=False)
    return figure


_COLORS = 6


def _title(costs: "Sequence[DefectCost]") -> str:
    hosts = {cost.host for cost in costs}
    models = sorted({cost.model for cost in costs})
    where = next(iter(hosts)) if len(hosts) == 1 else f"{len(hosts):,} hosts"
    return f"{where}: {', '.join(models)}"
