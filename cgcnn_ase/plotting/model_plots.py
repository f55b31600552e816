"""Pictures of predictions, of their uncertainties and of a training run.

Every function returns a :class:`matplotlib.figure.Figure`; :func:`save` writes it. No global matplotlib state is
touched and matplotlib is imported on the first picture only. Colours are Okabe and Ito's, which colour-blind readers
can tell apart.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cgcnn_ase.uncertainty.metrics import (
    as_positive,
    as_vector,
    calibration_curve,
    evaluate,
    mae,
    mean_squared_z,
    mean_squared_z_interval,
    miscalibration_area,
    r2,
    reliability_bins,
    spearman,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_BINS = 10


def confusion(labels: npt.ArrayLike, predicted: npt.ArrayLike, *, name: str) -> "Figure":
    """How often each class was taken for each: counts, and shares of the true class as colour."""
    y, predictions = np.asarray(labels, dtype=int), np.asarray(predicted, dtype=int)
    n = max(2, int(max(y.max(), predictions.max())) + 1)
    counts = np.zeros((n, n), dtype=int)
    np.add.at(counts, (y, predictions), 1)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, (axes,) = new_figure(1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for true, predicted_class in np.ndindex(n, n):
        ink = "white" if share[true, predicted_class] > 0.5 else "black"
        text = f"{counts[true, predicted_class]:,}\n{share[true, predicted_class]:.1%}"
        axes.text(predicted_class, true, text, ha="center", va="center", color=ink)
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


BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#6B6B6B"

# structures of a group whose errors are summed up, at least
_MIN_BIN = 10
# more points than this are drawn as a density
MAX_POINTS = 300
DPI = 150


def save(figure: "Figure", path: str | Path) -> Path:
    """Write a figure; the ending of the path (.png, .pdf, .svg) says how."""
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} does not exist")
    figure.savefig(path, dpi=DPI)
    return path


def parity(
    target: npt.ArrayLike, mean: npt.ArrayLike, std: npt.ArrayLike | None = None, *, name: str, unit: str
) -> "Figure":
    """Predicted against reference values: points with error bars where there are few, else their density."""
    figure, (axes,) = new_figure(1)
    _parity(axes, target, mean, std, name=name, unit=unit)
    return figure


def parities(
    sets: "Sequence[tuple[str, npt.ArrayLike, npt.ArrayLike, npt.ArrayLike | None]]", *, name: str, unit: str
) -> "Figure":
    """Several of :func:`parity` side by side: a title, reference, predicted values and their std of each."""
    figure, panels = new_figure(len(sets))
    for axes, (title, target, mean, std) in zip(panels, sets, strict=True):
        _parity(axes, target, mean, std, name=name, unit=unit)
        axes.set_title(f"{title}: {axes.get_title()}")
        axes.set(xlabel=quantity("reference", unit), ylabel=quantity("predicted", unit))
    figure.suptitle(name, fontsize=12)
    return figure


def summary(
    target: npt.ArrayLike,
    mean: npt.ArrayLike,
    std: npt.ArrayLike,
    lower: npt.ArrayLike | None = None,
    upper: npt.ArrayLike | None = None,
    *,
    name: str,
    unit: str,
    level: float = 0.9,
    n_bins: int = 10,
) -> "Figure":
    """Parity, calibration and RMSE against std side by side."""
    figure, (left, middle, right) = new_figure(3)
    _parity(left, target, mean, None, name=name, unit=unit)
    _calibration(middle, target, mean, std)
    figures = evaluate(target, mean, std, lower, upper, level=level, n_bins=n_bins)
    kind = "Gaussian" if lower is None else "conformal"
    holds = "is empty" if figures.coverage is None else f"holds {100 * figures.coverage:.1f} %"
    text = f"{100 * level:g} % {kind} interval\n{holds}"
    _note(middle, text)
    _error_against_std(right, target, mean, std, unit=unit, n_bins=n_bins)
    return figure


def error_against_domain(
    target: npt.ArrayLike, mean: npt.ArrayLike, domain_score: npt.ArrayLike, *, name: str, unit: str
) -> "Figure":
    """Absolute error against domain score: 1 is the limit of the domain, what lies beyond it is flagged.

    Points are structures; groups of equal count on either side of the limit have their median and 90th percentile.
    """
    score = as_vector(domain_score, name="domain_score")
    error = np.abs(as_vector(target, name="target", size=score.size) - as_vector(mean, name="mean", size=score.size))
    outside = score > 1
    figure, (axes,) = new_figure(1)
    axes.axvspan(1, 1e9, color=ORANGE, alpha=0.08, linewidth=0)
    axes.axvline(1, color=ORANGE, linestyle="--", linewidth=1.2, label="limit of the domain")
    for group, color, alpha in ((~outside, GREY, 0.35), (outside, ORANGE, 0.7)):
        axes.plot(
            score[group], error[group], ".", markersize=4, color=color, alpha=alpha, markeredgewidth=0, rasterized=True
        )
    groups = [
        part
        for group in (~outside, outside)
        if (n_groups := min(_BINS, int(group.sum()) // _MIN_BIN))
        for part in np.array_split(np.flatnonzero(group)[np.argsort(score[group], kind="stable")], n_groups)
    ]
    x = [np.median(score[part]) for part in groups]
    for share, face, label in ((0.9, "white", "90th percentile of groups"), (0.5, BLUE, "median of groups")):
        y = [np.quantile(error[part], share) for part in groups]
        axes.plot(x, y, "o", color=BLUE, markerfacecolor=face, markersize=5, label=label)
    seen = error[error > 0]
    low = 0.6 * float(np.quantile(seen, 0.005)) if seen.size else 0.1
    high = 1.6 * float(error.max()) if seen.size else 1.0
    wide = float(score.max()) > 5
    left = 0.8 * float(score[score > 0].min(initial=1.0)) if wide else 0.0
    axes.set(xscale="log" if wide else "linear", yscale="log", ylim=(low, high))
    axes.set(xlim=(left, max(1.1, 1.05 * float(score.max()))), title=f"{outside.sum():,} of {score.size:,} outside")
    axes.set(xlabel=f"domain score of {name}", ylabel=quantity("absolute error", unit))
    plain_log_ticks(axes, x=False)
    if wide:
        plain_log_ticks(axes, x=True)
    axes.legend(loc="lower left", fontsize=10.5, facecolor="white", framealpha=0.8, edgecolor="none")
    return figure


def learning_curve(
    epochs: Sequence[int],
    *,
    train_loss: npt.ArrayLike,
    val_mae: npt.ArrayLike,
    unit: str,
    best_epoch: int | None = None,
) -> "Figure":
    """Training loss and validation MAE by epoch; NaN where an epoch was not validated."""
    from matplotlib.ticker import MaxNLocator

    x = np.asarray(epochs)
    loss, mae = np.asarray(train_loss, dtype=np.float64), np.asarray(val_mae, dtype=np.float64)
    if not x.size or x.shape != loss.shape or x.shape != mae.shape:
        raise ValueError(f"{x.size} epochs, {loss.size} training losses and {mae.size} validation errors do not match")
    if best_epoch is not None and best_epoch not in x:
        raise ValueError(f"the best epoch, {best_epoch}, is not among the epochs")
    figure, panels = new_figure(2)
    labels = ("training loss", quantity("validation MAE", unit))
    for axes, values, color, label in zip(panels, (loss, mae), (BLUE, ORANGE), labels, strict=True):
        seen = np.isfinite(values)
        axes.plot(
            x[seen], values[seen], color=color, linewidth=1.8, marker="o" if seen.sum() < 30 else "", markersize=4
        )
        if seen.any() and values[seen].min() > 0 and values[seen].max() > 2 * values[seen].min():
            axes.set_yscale("log")
            plain_log_ticks(axes, x=False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.set(xlabel="epoch", ylabel=label)
    if best_epoch is not None:
        best = float(mae[x == best_epoch][0])
        panels[1].plot([best_epoch], [best], marker="*", markersize=14, color=GREEN, linestyle="")
        panels[1].set_title(" ".join(f"best: {best:.4g} {'' if unit == '1' else unit} in epoch {best_epoch}".split()))
    return figure


def quantity(name: str, unit: str = "") -> str:
    """Label of an axis: ``formation energy per atom (eV/atom)``; without a unit the name alone."""
    words = name.replace("_", " ")
    return words if unit in ("", "1") else f"{words} ({unit})"


def bin_edges(values: npt.ArrayLike, *, most: int = 60) -> list[float]:
    """Edges of a histogram that the values decide: one bin for each whole number, else by Freedman, Diaconis, Sturges.

    Between 1 and ``most`` bins; equal values get a bin of their own around them.
    """
    x = np.asarray(values, dtype=np.float64)
    low, high = float(x.min()), float(x.max())
    if high <= low:
        half = 0.05 * abs(low) or 0.5
        return [low - half, low + half]
    if (x == np.rint(x)).all() and high - low < most:
        edges = np.arange(low - 0.5, high + 1.0)
    else:
        edges = np.histogram_bin_edges(x, bins="auto")
    if len(edges) > most + 1:
        edges = np.linspace(edges[0], edges[-1], most + 1)
    result: list[float] = edges.tolist()
    return result


def new_figure(n_panels: int) -> "tuple[Figure, list[Axes]]":
    """A figure with so many panels side by side, in this package's style."""
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(4.6, 4.2) if n_panels == 1 else (3.9 * n_panels, 3.75), layout="constrained", facecolor="white"
    )
    panels = [figure.add_subplot(1, n_panels, i + 1) for i in range(n_panels)]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=11)
        for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
            text.set_fontsize(12)
    return figure, panels


def _parity(
    axes: "Axes", target: npt.ArrayLike, mean: npt.ArrayLike, std: npt.ArrayLike | None, *, name: str, unit: str
) -> None:
    from matplotlib.colors import LogNorm

    y = as_vector(target, name="target")
    m = as_vector(mean, name="mean", size=y.size)
    if not y.size:
        raise ValueError("target is empty")
    low, high = float(min(y.min(), m.min())), float(max(y.max(), m.max()))
    pad = 0.04 * (high - low) or 1.0
    limits = (low - pad, high + pad)
    if y.size > MAX_POINTS:
        hexes = axes.hexbin(
            y, m, gridsize=60, extent=(*limits, *limits), mincnt=1, cmap="viridis", norm=LogNorm(), linewidths=0.1
        )
        bar = axes.figure.colorbar(hexes, ax=axes, shrink=0.7, pad=0.02, aspect=25)
        bar.set_label("structures per cell", size=10)
        bar.ax.tick_params(labelsize=9)
        bar.ax.minorticks_off()
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        bar.outline.set_visible(False)
    elif std is not None:
        s = as_positive(std, name="std", size=y.size)
        axes.errorbar(y, m, yerr=s, fmt="o", markersize=4, color=BLUE, ecolor=GREY, elinewidth=0.8, alpha=0.8)
    else:
        axes.plot(y, m, "o", markersize=4, color=BLUE, alpha=0.7)
    axes.plot(limits, limits, color=ORANGE, linestyle="--", linewidth=1.2)
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.set(xlabel=quantity(f"reference {name}", unit), ylabel=quantity(f"predicted {name}", unit))
    determination = r2(y, m)
    error = f"{mae(y, m):#.3g}".rstrip(".")  # three digits, without an exponent where that is short
    score = f"MAE {error}" if unit in ("", "1") else f"MAE {error} {unit}"
    axes.set_title(score + ("" if determination is None else f", R² {determination:.3f}"))
    _note(axes, f"{y.size:,} structures")


def _calibration(axes: "Axes", target: npt.ArrayLike, mean: npt.ArrayLike, std: npt.ArrayLike) -> None:
    expected, observed = calibration_curve(target, mean, std)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.2)
    axes.fill_between(expected, expected, observed, color=BLUE, alpha=0.2, linewidth=0)
    axes.plot(expected, observed, color=BLUE, linewidth=2)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set(xlabel="expected share below quantile", ylabel="observed share below quantile")
    axes.set_title(f"miscalibration area {miscalibration_area(target, mean, std):.3f}")


def _error_against_std(
    axes: "Axes", target: npt.ArrayLike, mean: npt.ArrayLike, std: npt.ArrayLike, *, unit: str, n_bins: int
) -> None:
    bins = reliability_bins(target, mean, std, n_bins=n_bins)
    s = np.asarray(std, dtype=np.float64)
    error = np.abs(np.subtract(target, mean, dtype=np.float64))
    low = 0.6 * float(min(np.quantile(s, 0.002), bins.rmse[bins.rmse > 0].min(initial=np.inf), bins.std.min()))
    high = 1.6 * float(max(np.quantile(s, 0.998), bins.rmse.max(), bins.std.max()))
    axes.plot(s, error, ".", markersize=3, color=GREY, alpha=0.25, markeredgewidth=0, rasterized=True)
    axes.plot([], [], ".", markersize=6, color=GREY, markeredgewidth=0, label="single structures")  # for the legend
    axes.plot([low, high], [low, high], color=ORANGE, linestyle="--", linewidth=1.2)
    down = np.minimum(bins.rmse_error, 0.9 * bins.rmse)
    axes.errorbar(
        bins.std, bins.rmse, (down, bins.rmse_error), fmt="o", color=BLUE, capsize=3, label=f"RMSE of {n_bins} groups"
    )
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    plain_log_ticks(axes, x=True)
    plain_log_ticks(axes, x=False)
    axes.set(aspect="equal", xlabel=quantity("predicted std", unit), ylabel=quantity("error", unit))
    rank = spearman(s, error)
    z_low, z_high = mean_squared_z_interval(target, mean, std)
    title = f"mean z² {mean_squared_z(target, mean, std):.2f} ({z_low:.2f} to {z_high:.2f})"
    axes.set_title(title)
    if rank is not None:
        axes.text(0.96, 0.04, f"Spearman {rank:.2f}", transform=axes.transAxes, ha="right", va="bottom", fontsize=10.5)
    axes.legend(loc="upper left", frameon=False, fontsize=10.5, handletextpad=0.2, borderaxespad=0.2)


def plain_log_ticks(axes: "Axes", *, x: bool) -> None:
    """Write 0.03 and 0.1, not powers of ten; at 1, 3, 10, ... or, on a short axis, at more."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis = axes.xaxis if x else axes.yaxis
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 3.0) if high > 30 * low else (1.0, 2.0, 3.0, 5.0, 7.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _note(axes: "Axes", text: str) -> None:
    axes.text(0.04, 0.96, text, transform=axes.transAxes, ha="left", va="top", fontsize=10.5)
