"""Predictions against later labels, as a picture."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def parity_plot(table: "pd.DataFrame", path: str | Path) -> Path:
    """Draw predicted values against labels, with one standard deviation; those outside the model's domain are crossed.

    Parameters
    ----------
    table
        Of `aiida_plugin.tools.errors.errors`: rows of one property and one kind of label.
    path
        The ending (.png, .pdf, .svg) says how.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If the rows are of several properties or several kinds of label, or there are none.
    ImportError
        If matplotlib is missing.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError('a picture needs matplotlib: pip install "cgcnn-ase[plots]"') from error
    from cgcnn_ase.plotting.model_plots import ORANGE, parity, save

    if table.empty:
        raise ValueError("there is nothing to draw: the table is empty")
    name, unit = _single_value(table, "property"), _single_value(table, "unit")
    _single_value(table, "scheme")
    std = None if table["std"].isna().any() else table["std"].to_numpy(dtype=float)
    figure = parity(table["label"].to_numpy(dtype=float), table["predicted"].to_numpy(dtype=float), std,
                    name=name.replace("_", " "), unit=unit)  # fmt: skip
    axes = figure.axes[0]
    outside = table[table["in_domain"].eq(False)]
    if len(outside):
        axes.plot(outside["label"], outside["predicted"], "x", color=ORANGE, markersize=8,
                  label=f"outside the domain ({len(outside)})")  # fmt: skip
        axes.legend(loc="lower right", frameon=False, fontsize=9)
    _label(axes, table, name, unit)
    return save(figure, path)


def _label(axes: "Axes", table: "pd.DataFrame", name: str, unit: str) -> None:
    """Who said what, and room for all of the bars."""
    from matplotlib.ticker import MaxNLocator

    from cgcnn_ase.plotting.model_plots import MAX_POINTS, ORANGE

    made_by = " ".join(str(word) for word in (table["engine"].iloc[0], table["functional"].iloc[0]) if word)
    axes.set_title(f"{name.replace('_', ' ')}\n{axes.get_title()}", size=11)
    axes.set_xlabel(f"{made_by or 'label'} ({unit})")
    axes.set_ylabel(f"predicted ({unit})")
    spread = table["std"].astype(float).fillna(0.0) if len(table) <= MAX_POINTS else 0.0  # more have no bars
    low = min(axes.get_xlim()[0], float((table["predicted"] - spread).min()))
    high = max(axes.get_xlim()[1], float((table["predicted"] + spread).max()))
    for axis, set_limits in ((axes.xaxis, axes.set_xlim), (axes.yaxis, axes.set_ylim)):
        set_limits(low, high)
        axis.set_major_locator(MaxNLocator(5))
    axes.axline((low, low), slope=1, color=ORANGE, linestyle="--", linewidth=1.2)


def _single_value(table: "pd.DataFrame", column: str) -> str:
    result = list(dict.fromkeys(str(each) for each in table[column]))
    if len(result) > 1:
        raise ValueError(f"one picture shows one {column}, here are {', '.join(result)}; draw them one by one")
    return result[0]
