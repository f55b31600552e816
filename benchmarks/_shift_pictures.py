"""Pictures of what :mod:`shifts` measures: inside and outside of the training set; known and hypothetical crystals."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from matplotlib.ticker import FuncFormatter

from cgcnn_ase.plotting.model_plots import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from shifts import Judged

    Floats = npt.NDArray[np.float64]

BLUE, ORANGE, GREY = "#0571b0", "#d95f02", "#777777"
#: distances above the hull between which crystals are counted together, eV/atom
HULL_BINS = (-1.0, 0.0005, 0.05, 0.1, 0.2, 0.4)
_SMALLEST = 0.003


def both_sides(labels: "Floats", ordinary: "Judged", kinds: "Sequence[tuple[str, Judged]]") -> "Figure":
    """Parity and coverage of ordinary crystals; error against domain score; what is flagged and covered by kind."""
    figure, (left, middle, right) = new_figure(3)
    _parity(left, labels, ordinary)
    _flagged(middle, ordinary, [judged for _, judged in kinds])
    _by_kind(right, kinds)
    return figure


def populations(above: "Floats", known: "Judged", hypothetical: "Judged") -> "Figure":
    """Coverage and ends of the intervals of both populations by the distance above the hull."""
    figure, (left, right) = new_figure(2)
    parts = [(above > low) & (above <= high) for low, high in pairwise(HULL_BINS)]
    names = ["on it", *(f"{low:g}\nto {high:g}" for low, high in pairwise((0, *HULL_BINS[2:])))]
    x = np.arange(len(parts))
    for judged, color, name, shift in ((known, GREY, "known", -0.12), (hypothetical, ORANGE, "hypothetical", 0.12)):
        left.plot(x, [100 * judged.covered[rows].mean() for rows in parts], "o-", color=color, label=name)
        low, high = (np.array([column[rows].mean() for rows in parts]) for column in (judged.lower, judged.upper))
        right.vlines(x + shift, low, high, color=color, lw=7, alpha=0.6, label=f"mean interval, {name}")
    left.axhline(90, color="black", ls="--", lw=1)
    left.set(ylabel="structures in the 90 % interval (%)", ylim=(40, 102), title="coverage")
    for k, rows in enumerate(parts):
        right.plot(np.full(2, k), np.quantile(known.error[rows], [0.05, 0.95]), "k_", ms=16, mew=1.6,
                   label=None if k else "5 % and 95 % of the errors")  # fmt: skip
    right.axhline(0, color="black", lw=0.8)
    right.set(ylabel="true less predicted value (eV/atom)", title="intervals and errors")
    for axes in (left, right):
        axes.set_xticks(x, names, fontsize="small")
        axes.set_xlabel("energy above hull (eV/atom)")
        axes.legend(frameon=False, loc="lower left" if axes is left else "upper left", fontsize="small")
    right.set_ylim(top=1.45 * right.get_ylim()[1])
    return figure


def _parity(axes: "Axes", labels: "Floats", ordinary: "Judged") -> None:
    predicted = labels - ordinary.error
    ends = [float(min(labels.min(), predicted.min())), float(max(labels.max(), predicted.max()))]
    axes.hexbin(labels, predicted, gridsize=60, bins="log", mincnt=1, cmap="viridis", linewidths=0.1)
    axes.plot(ends, ends, "--", color=ORANGE, lw=1.2)
    axes.set(
        xlabel="reference formation energy (eV/atom)",
        ylabel="predicted formation energy (eV/atom)",
        title="inside: crystals of new formulas",
    )
    text = (
        f"{len(labels):,} crystals\nMAE {np.abs(ordinary.error).mean():.3f} eV/atom\n"
        f"90 % interval holds {100 * ordinary.covered.mean():.1f} %\n"
        f"{100 * (ordinary.score > 1).mean():.1f} % are flagged"
    )
    axes.text(0.04, 0.96, text, transform=axes.transAxes, va="top")


def _flagged(axes: "Axes", ordinary: "Judged", others: "Sequence[Judged]") -> None:
    error = np.concatenate([np.abs(judged.error) for judged in others])
    score = np.concatenate([judged.score for judged in others])
    large = error > 0.5
    rng = np.random.default_rng(0)
    shown = rng.permutation(len(error))[:2500]
    for size, where, color, name in (
        (np.abs(ordinary.error), ordinary.score, GREY, "crystals as they are"),
        (error[shown], score[shown], ORANGE, "distorted, DFT frames"),
    ):
        axes.scatter(np.clip(where, 0.15, 60), np.clip(size, _SMALLEST, 60), s=3, alpha=0.35, lw=0, color=color)
        axes.scatter([], [], s=20, color=color, label=name)
    axes.axvline(1, color="black", ls="--", lw=1.2)
    axes.set(xscale="log", yscale="log", xlabel="domain score", ylabel="error (eV/atom)", ylim=(_SMALLEST, 300),
             title="outside: distorted, and DFT frames")  # fmt: skip
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_major_formatter(plain)
    axes.yaxis.set_major_formatter(plain)
    flagged = f"flagged:\n{100 * (score[large] > 1).mean():.0f} % of errors\nabove 0.5 eV/atom"
    axes.text(1.15, _SMALLEST * 1.4, flagged, fontsize="small")
    axes.legend(loc="upper left", fontsize="small", framealpha=1.0, edgecolor="white")


def _by_kind(axes: "Axes", kinds: "Sequence[tuple[str, Judged]]") -> None:
    y = np.arange(len(kinds))[::-1]
    large = [np.abs(judged.error) > 0.1 for _, judged in kinds]
    flagged = [100 * float((judged.score[rows] > 1).mean()) for rows, (_, judged) in zip(large, kinds, strict=True)]
    axes.barh(y, flagged, color=BLUE, alpha=0.5, label="flagged of errors above 0.1 eV/atom")
    axes.plot([100 * judged.covered.mean() for _, judged in kinds], y, "o", color=ORANGE, label="in the 90 % interval")
    axes.axvline(90, color="black", ls="--", lw=1)
    axes.set_yticks(y, [name for name, _ in kinds], fontsize="small")
    axes.set(xlim=(0, 103), ylim=(-0.6, len(kinds) + 2), xlabel="share of structures (%)", title="by kind")
    axes.legend(frameon=False, loc="upper left", fontsize="small")
