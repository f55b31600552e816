"""A picture of the phase diagram of a chemical system, with predicted crystals and their error bars."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cgcnn_ase.core.elements import symbols
from cgcnn_ase.plotting.model_plots import new_figure, save
from cgcnn_ase.stability.phases import CompetingPhases, counts
from cgcnn_ase.stability.results import Stability

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pymatgen.analysis.phase_diagram import PhaseDiagram

_MOST = 4
# crystals that are named beside the diagram
_NAMED = 24
GREY, BLUE = "#777777", "#0571b0"


def draw_phase_diagram(rows: Sequence[Stability], phases: CompetingPhases, file: Path) -> Path:
    """Draw the hull of all elements of the rows with pymatgen's plotter, and the energies above it beside.

    Raises
    ------
    ValueError
        If there are no rows, or they have less than two or more than four elements together.
    """
    known = [row for row in rows if row.e_above_hull is not None and row.formula is not None]
    elements = sorted({z for row in known for z in counts(row.formula or "")})
    if not 2 <= len(elements) <= _MOST:
        names = ", ".join(symbols()[z] for z in elements) or "none"
        raise ValueError(f"a phase diagram can be drawn of 2 to {_MOST} elements, these structures have {names}")
    diagram = _diagram(elements, phases)
    figure, (left, right) = new_figure(2)
    if len(elements) == 2:
        _binary(left, diagram, known, elements)
    else:
        _triangle(left, diagram, known, elements)
    _bars(right, known)
    return save(figure, file)


def _diagram(elements: Sequence[int], phases: CompetingPhases) -> "PhaseDiagram":
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
    from pymatgen.core import Composition

    _, indices = phases.hull(elements)
    entries = [PDEntry(Composition(symbols()[z]), 0.0) for z in elements]
    for index in indices:
        if index >= 0:
            phase = phases.phases[index]
            composition = Composition(phase.formula)
            entries.append(PDEntry(composition, phase.energy * composition.num_atoms, name=phase.formula))
    return PhaseDiagram(entries)


def _binary(axes: "Axes", diagram: "PhaseDiagram", rows: Sequence[Stability], elements: Sequence[int]) -> None:
    second = symbols()[elements[1]]
    stable_energies = [(entry.composition, diagram.get_form_energy_per_atom(entry)) for entry in diagram.stable_entries]
    stable = sorted(
        (each.get_atomic_fraction(second), energy, each.reduced_formula) for each, energy in stable_energies
    )
    axes.plot([x for x, *_ in stable], [e for _, e, _ in stable], "o-", color=GREY, ms=4, lw=1)
    for x, energy, name in stable:
        axes.annotate(name, (x, energy), xytext=(0, -12), textcoords="offset points", ha="center", fontsize="x-small")
    amounts = [counts(row.formula or "") for row in rows]
    parts = [each.get(elements[1], 0.0) / sum(each.values()) for each in amounts]
    energies = np.array([row.formation_energy_per_atom for row in rows], dtype=float)
    stds = [row.e_above_hull_std or 0.0 for row in rows]
    axes.errorbar(parts, energies, stds, fmt="s", color=BLUE, ms=4, capsize=2)
    axes.set(xlabel=f"part of {second}", ylabel="formation energy (eV/atom)", title="hull and predicted crystals")


def _triangle(axes: "Axes", diagram: "PhaseDiagram", rows: Sequence[Stability], elements: Sequence[int]) -> None:
    """The facets of the hull by pymatgen's plotter; of four elements the fourth is left out of the drawing."""
    from pymatgen.analysis.phase_diagram import PDPlotter, triangular_coord

    plotter = PDPlotter(diagram, show_unstable=0)
    lines, labels, _ = plotter.pd_plot_data
    flat = len(elements) == 3
    for ends in lines:
        axes.plot(ends[0], ends[1], "-", color=GREY, lw=0.8)
    for corner, entry in labels.items():
        axes.plot(corner[0], corner[1], "o", color=GREY, ms=3)
        axes.annotate(
            entry.composition.reduced_formula,
            (corner[0], corner[1]),
            xytext=(3, 3),
            textcoords="offset points",
            fontsize="x-small",
        )
    if flat:
        order = [str(element) for element in diagram.elements]
        indices = []
        for row in rows:
            amounts = counts(row.formula or "")
            total = sum(amounts.values())
            part = [amounts.get(symbols().index(name), 0.0) / total for name in order]
            indices.append(triangular_coord([part[1], part[2]]))
        p_stable = [row.p_stable or 0.0 for row in rows]
        x, y = np.array(indices).T
        drawn = axes.scatter(x, y, c=p_stable, cmap="viridis", vmin=0, vmax=1, s=36, zorder=3, edgecolors="white")
        axes.figure.colorbar(drawn, ax=axes, label="probability of being stable", shrink=0.7)
    axes.set(title="-".join(symbols()[z] for z in elements), aspect="equal")
    axes.set_axis_off()


def _bars(axes: "Axes", rows: Sequence[Stability]) -> None:
    shown = sorted(rows, key=lambda row: row.e_above_hull or 0.0)[:_NAMED]
    y = np.arange(len(shown))
    middle = np.array([row.e_above_hull for row in shown], dtype=float)
    for k, row in enumerate(shown):
        if row.lower is not None and row.upper is not None:
            axes.plot([row.lower, row.upper], [k, k], "-", color=BLUE, lw=4, alpha=0.35)
    axes.errorbar(middle, y, xerr=[row.e_above_hull_std or 0.0 for row in shown], fmt="o", color=BLUE, ms=4, capsize=2)
    axes.axvline(0.0, color="black", lw=0.8)
    axes.axvline(shown[0].within, color=GREY, lw=0.8, ls="--")
    axes.set_yticks(y, [row.id if row.id == row.formula else f"{row.id} ({row.formula})" for row in shown])
    axes.invert_yaxis()
    axes.set_xlabel("energy above the hull (eV/atom)", fontsize="small")
    axes.tick_params(axis="y", labelsize="small")
    axes.set_title("std, and 90 % interval", fontsize="medium")
