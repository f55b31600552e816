"""A picture of an explanation: the structure with its atoms coloured by contribution, and the sum by element."""

import re
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cgcnn_ase.core.arrays import Bools, Floats, Ints
from cgcnn_ase.core.elements import symbols
from cgcnn_ase.plotting.model_plots import GREY

if TYPE_CHECKING:
    from ase import Atoms
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

    from cgcnn_ase.explain.explain import Explanation


# diverging, readable for the colour-blind; white is no contribution
COLORS = "RdBu_r"
# so many atoms are drawn at most by repeating a thin cell
_MAX_REPEATED = 120
# a cell is repeated until it is this wide for its height
_SHAPE = 0.75
# drawn radius of an atom in Å: this much, and this share of its covalent radius
_BALL, _BALL_SHARE = 0.35, 0.3
# bonds are drawn up to so many sums of covalent radii, and so many times the shortest bond of one of the two atoms
_BOND, _FIRST_SHELL = 1.25, 1.15
# atoms this near to a face of the cell, in fractions of it, are drawn on the opposite face too
_AT_FACE = 0.02
# how far the view is turned from along the shortest cell vector, degrees
_TURN, _TILT = 12.0, 10.0
# no labels in discs of a smaller radius, points
_SMALLEST_LABELLED = 4.0


class _Scene(NamedTuple):
    """Atoms and cell in the frame of the picture: x right, y up, z towards the viewer; Å."""

    positions: Floats  # (P, 3)
    source: Ints  # (P,) atom of the structure that each is
    edges: Floats  # (K, 2, 3) of the cell


def explanation(atoms: "Atoms", result: "Explanation", *, title: str | None = None) -> "Figure":
    """The structure coloured by the atoms' contributions, beside the way from the baseline to the prediction.

    The title is by default the formula and the prediction. ValueError if the explanation is of other atoms.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    if not np.array_equal(atoms.numbers, result.numbers):
        raise ValueError(f"the explanation is of {len(result.numbers)} other atoms, not of {atoms.symbols!s}")
    std = result.std  # what is less than its own std should look pale
    limit = max(float(np.abs(result.contributions).max()), 0.0 if std is None else float(std.max())) or 1.0
    norm, colors = Normalize(-limit, limit), colormaps[COLORS]

    figure = Figure(figsize=(9.6, 4.8), layout="constrained", facecolor="white")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1, 1.05))[0]
    axes = left.subplots()
    _draw_structure(axes, atoms, result.contributions, norm, colors)
    bar = left.colorbar(
        ScalarMappable(norm, colors), ax=axes, location="bottom", shrink=0.8, aspect=30, pad=0.02, ticks=MaxNLocator(5)
    )
    bar.set_label(f"contribution of each atom ({result.unit})", size=11)
    bar.ax.tick_params(labelsize=10)
    bar.outline.set_visible(False)
    _draw_sum(right.subplots(), result, colors)
    figure.suptitle(title or _title(atoms, result), fontsize=13)
    return figure


def _title(atoms: "Atoms", result: "Explanation") -> str:
    formula = re.sub(r"(\d+)", r"$_{\1}$", atoms.get_chemical_formula("metal"))
    return f"{formula}: {result.target.replace('_', ' ')} {_signed(result.value)} {result.value_unit}".rstrip()


def _signed(value: float, sign: str = "") -> str:
    return f"{value:{sign}.3f}".replace("-", "−")


def _draw_structure(axes: "Axes", atoms: "Atoms", contributions: Floats, norm: "Normalize", colors: "Colormap") -> None:
    from ase.data import covalent_radii
    from matplotlib.patches import Circle

    scene = _scene(atoms)
    numbers = atoms.numbers[scene.source]
    radii = _BALL + _BALL_SHARE * covalent_radii[numbers]
    back = scene.positions[:, 2].min() - 10
    for edge in scene.edges:
        axes.plot(*edge[:, :2].T, color=GREY, linewidth=0.8, alpha=0.6, zorder=back)
    for i, j in _bonds(scene, covalent_radii[numbers]):
        start, end = scene.positions[i], scene.positions[j]
        along = (end - start) / np.linalg.norm(end - start)
        ends = np.stack([start + 0.95 * radii[i] * along, end - 0.95 * radii[j] * along])  # on the balls
        axes.plot(*ends[:, :2].T, color="#9A9A9A", linewidth=2.0, solid_capstyle="round", zorder=ends[:, 2].mean())
    low = (scene.positions[:, :2] - radii[:, None]).min(axis=0)
    high = (scene.positions[:, :2] + radii[:, None]).max(axis=0)
    if len(scene.edges):
        low = np.minimum(low, scene.edges[:, :, :2].min(axis=(0, 1)))
        high = np.maximum(high, scene.edges[:, :, :2].max(axis=(0, 1)))
    axes.set(xlim=(low[0] - 0.1, high[0] + 0.1), ylim=(low[1] - 0.1, high[1] + 0.1), aspect="equal")
    axes.set_axis_off()
    width, height = np.maximum(high - low, 1e-9).tolist()
    points = 72 * min(4.3 / width, 3.4 / height)  # about how many an Å is: the picture leaves it 4.3 by 3.4 inches
    for i, (x, y, z) in enumerate(scene.positions):
        color = colors(norm(contributions[scene.source[i]]))
        axes.add_patch(Circle((x, y), radii[i], facecolor=color, edgecolor="#303030", linewidth=0.8, zorder=z))
        size = radii[i] * points
        if size >= _SMALLEST_LABELLED:
            text = symbols()[numbers[i]]
            axes.text(
                x, y, text, fontsize=min(1.05 * size, 13), color=_readable_on(color), zorder=z + 0.6 * radii[i],
                ha="center", va="center_baseline", clip_on=True,
            )  # fmt: skip


def _draw_sum(axes: "Axes", result: "Explanation", colors: "Colormap") -> None:
    """From the baseline over the elements to the prediction, one bar each."""
    rows = result.by_element()
    names = ["baseline", *(f"{row.symbol} × {row.n_atoms}" for row in rows), "prediction"]
    lengths = np.array([result.baseline, *(row.contribution for row in rows), result.prediction])
    starts = np.concatenate([[0.0], np.cumsum(lengths[:-2]), [0.0]])
    stds = [result.baseline_std, *(row.std for row in rows), None]
    ends = starts + lengths
    y = np.arange(len(names))[::-1]
    negative, positive = colors(0.12), colors(0.88)
    fill = ["#B8B8B8", *(positive if row.contribution > 0 else negative for row in rows), "#B8B8B8"]
    axes.barh(y, lengths, left=starts, color=fill, height=0.62)
    for k in range(len(names) - 1):  # where one bar ends the next one starts
        axes.plot([ends[k]] * 2, [y[k] - 0.31, y[k + 1] + 0.31], color=GREY, linewidth=0.8, linestyle=":")
    axes.axvline(0, color="black", linewidth=0.8)
    for k, (length, std) in enumerate(zip(lengths, stds, strict=True)):
        if std is not None:
            axes.errorbar(ends[k], y[k], xerr=std, color="black", capsize=3, linewidth=1.2)
        sign = "+" if 0 < k < len(names) - 1 else ""
        text = _signed(length, sign) + ("" if std is None else f" ± {std:.3f}")
        axes.text(1.04, y[k], text, transform=axes.get_yaxis_transform(), va="center", fontsize=11)
    axes.set_yticks(y, names, fontsize=12)
    axes.set_xlabel(f"{result.target.replace('_', ' ')} ({result.unit})", fontsize=12)
    axes.tick_params(axis="x", labelsize=11)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _scene(atoms: "Atoms") -> _Scene:
    """Atoms (those at a face of the cell on both sides) and cell, turned for the picture."""
    cell, periodic = np.asarray(atoms.cell), np.asarray(atoms.pbc) & (atoms.cell.lengths() > 0)
    if not periodic.any() or atoms.cell.rank < 3:
        positions = atoms.positions - atoms.positions.mean(axis=0)
        axes = np.linalg.svd(positions, full_matrices=True)[2] if len(atoms) > 1 else np.eye(3)
        if np.linalg.det(axes) < 0:
            axes[2] *= -1
        return _Scene(positions @ axes.T, np.arange(len(atoms)), np.zeros((0, 2, 3)))
    frame = _frame(cell)
    repeats = _repeats(cell @ frame.T, periodic, len(atoms))
    scaled = atoms.get_scaled_positions(wrap=True)
    scaled[:, periodic] = np.where(scaled[:, periodic] > 1 - _AT_FACE, scaled[:, periodic] - 1, scaled[:, periodic])
    where, source = [], []
    for shift in product(*(range(n + 1) if p else (0,) for n, p in zip(repeats, periodic, strict=True))):
        moved = scaled + shift
        inside = np.all((moved <= repeats + _AT_FACE) | ~periodic, axis=1)
        where.append(moved[inside])
        source.append(np.flatnonzero(inside))
    corners = np.array(list(product((0, 1), repeat=3)), dtype=float)
    edges = [(a, b) for a in corners for b in corners if (b - a).sum() == 1 and (b >= a).all()]
    return _Scene(np.concatenate(where) @ cell @ frame.T, np.concatenate(source), np.array(edges) @ cell @ frame.T)


def _frame(cell: Floats) -> Floats:
    """Rows right, up, towards the viewer: along the shortest cell vector, turned a little, the longest one upwards."""
    order = np.argsort(np.linalg.norm(cell, axis=1), kind="stable")
    short, long = cell[order[0]], cell[order[2]]
    up = long / np.linalg.norm(long)
    out = short - short @ up * up
    out /= np.linalg.norm(out)
    right = np.cross(up, out)
    turn, tilt = np.radians(_TURN), np.radians(_TILT)
    out, right = np.cos(turn) * out + np.sin(turn) * right, np.cos(turn) * right - np.sin(turn) * out
    out, up = np.cos(tilt) * out + np.sin(tilt) * up, np.cos(tilt) * up - np.sin(tilt) * out
    return np.stack([right, up, out])


def _repeats(cell: Floats, periodic: Bools, n_atoms: int) -> Ints:
    """How often each cell vector is repeated so that a thin cell fills a picture of about equal sides."""
    repeats = np.ones(3, dtype=np.int64)
    widths, height = np.abs(cell[:, 0]), float(np.abs(cell[:, 1]).max())
    widest = int(np.argmax(np.where(periodic, widths, -1)))
    n = int(_SHAPE * height / max(widths[widest], 1e-9))
    if n > 1:
        repeats[widest] = max(1, min(n, _MAX_REPEATED // n_atoms))
    return repeats


def _bonds(scene: _Scene, radii: Floats) -> list[tuple[int, int]]:
    """Pairs of drawn atoms with a line between them: in the first shell of one of the two, and not too far apart."""
    from scipy.spatial import KDTree

    i, j = KDTree(scene.positions).query_pairs(2 * _BOND * float(radii.max()), output_type="ndarray").T
    distance = np.linalg.norm(scene.positions[i] - scene.positions[j], axis=1)
    shortest = np.full(scene.source.max() + 1, np.inf)
    for ends in (i, j):
        np.minimum.at(shortest, scene.source[ends], distance)
    shell = np.maximum(shortest[scene.source[i]], shortest[scene.source[j]])
    near = (distance < _BOND * (radii[i] + radii[j])) & (distance < _FIRST_SHELL * shell)
    return list(zip(i[near].tolist(), j[near].tolist(), strict=True))


def _readable_on(color: tuple[float, ...]) -> str:
    red, green, blue = color[:3]
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.55 else "white"
