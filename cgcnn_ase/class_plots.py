"""Pictures of classifications; see :mod:`cgcnn_ase.plots`."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cgcnn_ase.plots import BLUE, GREY, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BINS = 10


def confusion(labels: npt.ArrayLike, predicted: npt.ArrayLike, *, name: str) -> "Figure":
    """How often each class was taken for each: counts, and shares of the true class as colour."""
    y, said = np.asarray(labels, dtype=int), np.asarray(predicted, dtype=int)
    n = max(2, int(max(y.max(), said.max())) + 1)
    counts = np.zeros((n, n), dtype=int)
    np.add.at(counts, (y, said), 1)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, (axes,) = new_figure(1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for true, given in np.ndindex(n, n):
        ink = "white" if share[true, given] > 0.5 else "black"
        text = f"{counts[true, given]:,}\n{share[true, given]:.1%}"
        axes.text(given, true, text, ha="center", va="center", color=ink)
    axes.set(xticks=range(n), yticks=range(n), xlabel="predicted class", ylabel="true class", title=name)
    return figure


def reliability(labels: npt.ArrayLike, probabilities: npt.ArrayLike, *, name: str) -> "Figure":
    """Observed frequency against stated probability, in bins of equal count, with the bins' standard errors."""
    y, p = np.asarray(labels, dtype=int), np.asarray(probabilities, dtype=float)
    stated, hit = (p[:, 1], y == 1) if p.shape[1] == 2 else (p.max(axis=1), p.argmax(axis=1) == y)
    bins = np.array_split(np.argsort(stated, kind="stable"), min(_BINS, len(stated)))
    x = np.array([stated[b].mean() for b in bins])
    f = np.array([hit[b].mean() for b in bins])
    error = np.sqrt(np.maximum(f * (1 - f), 1e-4) / [len(b) for b in bins])
    figure, (axes,) = new_figure(1)
    axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--", label="calibrated")
    axes.errorbar(x, f, yerr=error, color=BLUE, marker="o", lw=1, capsize=2, label=f"{len(y):,} structures")
    what = "probability of class 1" if p.shape[1] == 2 else "probability of the most probable class"
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=f"stated {what}", ylabel="observed frequency", title=name)
    axes.legend(frameon=False, loc="upper left")
    return figure
