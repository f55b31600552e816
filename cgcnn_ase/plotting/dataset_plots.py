"""Pictures of a data set: elements, sizes, values, and two sources side by side, in the style of :mod:`.plots`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.core.elements import MAX_NUMBER, symbols
from cgcnn_ase.plotting.model_plots import BLUE, GREY, ORANGE, bin_edges, new_figure, quantity
from cgcnn_ase.uncertainty.metrics import rmse

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# rows of the lanthanides and actinides, below the table with a gap
_LANTHANIDES, _ACTINIDES = 8.4, 9.4
# of more elements than this, those with the largest offsets are drawn
_BARS = 16


class OffsetsWithErrors(Protocol):
    """Offsets of elements, eV/atom, each with a standard error where one is known."""

    @property
    def offsets(self) -> Mapping[str, float]:
        """By symbol."""

    @property
    def errors(self) -> Mapping[str, float | None]:
        """By symbol."""

    @property
    def tied(self) -> tuple[tuple[str, ...], ...]:
        """Groups of symbols whose offsets cannot be told apart."""


def place(number: int) -> tuple[float, int]:
    """Row and column (group, from 1 to 18) of an element in the periodic table; the f elements stand below it."""
    from pymatgen.core import Element

    element = Element.from_Z(number)
    if element.is_lanthanoid:
        return _LANTHANIDES, number - 57 + 3
    if element.is_actinoid:
        return _ACTINIDES, number - 89 + 3
    return element.row, element.group


def element_coverage(counts: Mapping[str, int]) -> "Figure":
    """A periodic table, each element coloured by how many structures have it; grey where there is none."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    figure, (axes,) = new_figure(1)
    figure.set_size_inches(11, 6)
    scale = LogNorm(1, max(2, *counts.values()))
    colours = colormaps["viridis"]
    for number in range(1, MAX_NUMBER + 1):
        row, column = place(number)
        symbol = symbols()[number]
        n = counts.get(symbol, 0)
        colour = colours(scale(n)) if n else (0.93, 0.93, 0.93, 1.0)
        dark = n > 0 and 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] < 0.5
        axes.add_patch(Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, facecolor=colour, linewidth=0))
        ink = "white" if dark else "black" if n else GREY
        axes.text(column, row - 0.1, symbol, ha="center", va="center", color=ink, fontsize=12)
        if n:
            axes.text(column, row + 0.28, _short(n), ha="center", va="center", color=ink, fontsize=7.5)
    axes.set(xlim=(0.4, 18.6), ylim=(_ACTINIDES + 0.6, 0.4), aspect="equal")
    axes.set_axis_off()
    bar = figure.colorbar(
        ScalarMappable(scale, colours), cax=axes.inset_axes((0.2, 0.9, 0.4, 0.035)), orientation="horizontal"
    )
    bar.set_label("structures with the element", size=11)
    bar.ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)
    return figure


def value_histogram(values: npt.ArrayLike, *, name: str, unit: str = "") -> "Figure":
    """How often each value (n,) occurs, NaN where there is none; what lies far out is counted, not lost.

    The name and the unit say what they are.
    """
    x = _finite(values, name)
    low, high = np.quantile(x, [0.001, 0.999])
    low, high = (low, high) if high > low else (x.min() - 0.5, x.max() + 0.5)
    figure, (axes,) = new_figure(1)
    axes.hist(x[(x >= low) & (x <= high)], bins=bin_edges(x[(x >= low) & (x <= high)]), color=BLUE)
    axes.axvline(float(np.median(x)), color=ORANGE, linestyle="--", linewidth=1.2, label=f"median {np.median(x):.3g}")
    outside = int(((x < low) | (x > high)).sum())
    title = f"{x.size:,} values" + (f", {outside:,} outside the picture" if outside else "")
    axes.set(xlabel=quantity(name, unit), ylabel="structures", title=title)
    axes.legend(frameon=False, fontsize=10)
    return figure


def size_histogram(n_atoms: npt.ArrayLike) -> "Figure":
    """How many atoms the cells have, on a logarithmic axis where they differ much."""
    x = _finite(n_atoms, "sizes")
    figure, (axes,) = new_figure(1)
    low, high = x.min(), x.max()
    if high > 20 * low:
        edges = np.unique(np.round(np.geomspace(low, high + 1, 40)) - 0.5)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    else:
        edges = np.arange(low, high + 2, max(1, (high - low) // 40)) - 0.5
    axes.hist(x, bins=edges.tolist(), color=BLUE)
    axes.set(xlabel="atoms in the cell", ylabel="structures", title=f"median {np.median(x):g}, largest {high:g}")
    return figure


def sources(
    difference: npt.ArrayLike,
    residuals: npt.ArrayLike | None = None,
    offsets: OffsetsWithErrors | None = None,
    *,
    name: str,
    other: str,
    unit: str = "",
) -> "Figure":
    """Differences of two sources before and after the offsets of the elements, and these with one standard error.

    ``difference`` and ``residuals``, (n,) each, are of the structures that both have, before and after the offsets;
    without offsets the differences stand alone. ``name`` is that of the column, ``other`` of the source that is
    subtracted.
    """
    before = _finite(difference, "differences")
    figure, panels = new_figure(2 if offsets is not None else 1)
    after = None if residuals is None else _finite(residuals, "residuals")
    ends = np.quantile(before if after is None else np.concatenate([before, after]), [0.005, 0.995])
    pad = 0.1 * float(np.ptp(ends)) or 0.5
    low, high = float(ends[0] - pad), float(ends[1] + pad)
    shown = [x[(x >= low) & (x <= high)] for x in (before, after) if x is not None]
    width = min(float(np.diff(bin_edges(x))[0]) for x in shown if x.size)  # of the narrower of the two
    edges = np.linspace(low, high, min(60, int(np.ceil((high - low) / width))) + 1).tolist()
    panels[0].hist(before, bins=edges, label=f"as they are, RMSE {rmse(before, 0.0):.2g}", color=BLUE)
    if after is not None:
        label = f"after the offsets, RMSE {rmse(after, 0.0):.2g}"
        panels[0].hist(after, bins=edges, label=label, histtype="step", color=ORANGE, linewidth=1.8)
    outside = int(((before < edges[0]) | (before > edges[-1])).sum())
    panels[0].set_title(f"{before.size:,} structures" + (f", {outside:,} outside the picture" if outside else ""))
    panels[0].set_yscale("log")
    panels[0].set_ylim(top=20 * panels[0].get_ylim()[1])  # room for the legend
    panels[0].set(xlabel=f"{quantity(name)}\n{quantity(f'less that of {other}', unit)}", ylabel="structures")
    panels[0].legend(frameon=False, fontsize=10, loc="upper left")
    if offsets is not None:
        figure.set_size_inches(9.5, 4)
        _offsets(panels[1], offsets, unit)
    return figure


def _offsets(axes: "Axes", offsets: OffsetsWithErrors, unit: str) -> None:
    every = list(offsets.offsets)
    largest = sorted(every, key=lambda name: -abs(offsets.offsets[name]))[:_BARS]
    names = [name for name in every if name in largest]  # by atomic number
    x = np.arange(len(names))
    axes.bar(
        x,
        [offsets.offsets[name] for name in names],
        yerr=[offsets.errors[name] or 0.0 for name in names],
        color=[GREY if offsets.errors[name] is None else BLUE for name in names],
        capsize=2,
    )
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_ylabel(quantity("offset of the element", unit))
    axes.set_xticks(x, names, fontsize=11)
    title = f"of {len(every)} elements" if len(names) == len(every) else f"the {_BARS} largest of {len(every)} elements"
    axes.set_title(title + (", grey: not told apart" if offsets.tied else ""), fontsize=11)


def _finite(values: npt.ArrayLike, name: str) -> Floats:
    x = np.asarray(values, dtype=np.float64).ravel()
    x = x[np.isfinite(x)]
    if not x.size:
        raise ValueError(f"there are no {name} to draw")
    return x


def _short(n: int) -> str:
    """1234 as 1.2k."""
    return str(n) if n < 1000 else f"{n / 1000:.1f}k" if n < 10_000 else f"{n / 1000:.0f}k"
