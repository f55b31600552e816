"""Pictures of a ranking; see :mod:`cgcnn_ase.plotting.model_plots`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cgcnn_ase.plotting.model_plots import BLUE, GREEN, GREY, ORANGE, bin_edges, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cgcnn_ase.defects.costs import DefectEnergyEstimate

# names are written under so many defects, at most
_NAMED = 30
# colours of the commonest defects; the others share the last
_COLORS = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", GREY)


def ranking(costs: "Sequence[DefectEnergyEstimate]") -> "Figure":
    """The energy of every defect, cheapest first, with one std up and down; open circles are outside the domain."""
    figure, (axes,) = new_figure(1)
    figure.set_size_inches(9.0, 4.6)
    ranks = np.arange(1, len(costs) + 1)
    energies = np.array([cost.energy for cost in costs])
    stds = np.array([np.nan if cost.std is None else cost.std for cost in costs])
    outside = np.array([cost.in_domain is False for cost in costs])
    few = len(costs) <= _NAMED
    size, width, faint = (5.0, 1.2, 0.8) if few else (3.0, 0.7, 0.35)
    for name, which, color in _groups(costs):
        bars = which & np.isfinite(stds)
        axes.errorbar(
            ranks[bars], energies[bars], yerr=stds[bars], fmt="none", ecolor=color, alpha=faint, elinewidth=width,
            capsize=3 if few else 0,
        )  # fmt: skip
        for shown, face in ((which & ~outside, color), (which & outside, "white")):
            label = f"{typeset(name)} ({which.sum():,})" if face == color else None
            axes.plot(ranks[shown], energies[shown], "o", ms=size, color=color, mfc=face, label=label)
    if few:
        several = len({cost.host for cost in costs}) > 1
        axes.set_xticks(ranks, [_tick(cost, several=several) for cost in costs], rotation=60, ha="right", fontsize=8)
    else:
        axes.set_xlabel("rank")
    if outside.any():
        axes.plot([], [], "o", ms=size, color=GREY, mfc="white", label="open: outside the domain")
    bars_mean = "; bars: one std" if np.isfinite(stds).any() else ""
    axes.set(ylabel="formation energy (eV per defect)", title=_title(costs) + bars_mean)
    axes.margins(x=0.02)
    axes.legend(frameon=False, loc="upper left")
    return figure


def histogram(costs: "Sequence[DefectEnergyEstimate]") -> "Figure":
    """How many defects cost how much, by name of the defect."""
    figure, (axes,) = new_figure(1)
    figure.set_size_inches(6.4, 4.6)
    energies = np.array([cost.energy for cost in costs])
    groups = _groups(costs)
    axes.hist(
        [energies[which].tolist() for _, which, _ in groups],
        bins=bin_edges(energies),
        stacked=True,
        color=[color for *_, color in groups],
        label=[typeset(name) for name, *_ in groups],
    )
    axes.set(xlabel="formation energy (eV per defect)", ylabel="defects", title=_title(costs))
    axes.legend(frameon=False)
    return figure


def typeset(defect: str) -> str:
    r"""Write ``v_Li``, ``Ni_Li``, ``Li_i`` and complexes of them with the site as a subscript, in matplotlib's TeX.

    >>> typeset("v_Li"), typeset("Ni_Li"), typeset("Li_i+v_O")
    ('$v_\\mathrm{Li}$', '$\\mathrm{Ni}_\\mathrm{Li}$', '$\\mathrm{Li}_i$ + $v_\\mathrm{O}$')
    """
    return " + ".join(_typeset_one(part) for part in defect.split("+"))


def _typeset_one(defect: str) -> str:
    added, line, site = defect.partition("_")
    if not (line and added.isalpha() and site.isalpha()):
        return defect  # no defect of ours, such as the number of all others
    upper = added if added == "v" else rf"\mathrm{{{added}}}"
    lower = site if site == "i" else rf"\mathrm{{{site}}}"
    return f"${upper}_{lower}$"


def _tick(cost: "DefectEnergyEstimate", *, several: bool) -> str:
    """The id with the defect typeset, without the host where there is only one."""
    text = cost.id if several else cost.id.removeprefix(f"{cost.host}-")
    return text.replace(cost.defect, typeset(cost.defect))


def _groups(costs: "Sequence[DefectEnergyEstimate]") -> "list[tuple[str, np.typing.NDArray[np.bool_], str]]":
    """Name, members and colour of the commonest defects, and of all others together."""
    names = np.array([cost.defect for cost in costs])
    result, counts = np.unique(names, return_counts=True)
    order = result[np.argsort(-counts, kind="stable")].tolist()
    n = len(_COLORS) if len(order) <= len(_COLORS) else len(_COLORS) - 1
    groups = [(str(name), names == name, color) for name, color in zip(order[:n], _COLORS, strict=False)]
    if len(order) > n:
        groups.append((f"{len(order) - n} others", np.isin(names, order[n:]), _COLORS[-1]))
    return groups


def _title(costs: "Sequence[DefectEnergyEstimate]") -> str:
    hosts = {cost.host for cost in costs}
    models = sorted({cost.model for cost in costs})
    where = next(iter(hosts)) if len(hosts) == 1 else f"{len(hosts):,} hosts"
    return f"{where}: {', '.join(models)}"
