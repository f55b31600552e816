"""``cgcnn-ase voltage``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cgcnn_ase.cli.command import console, echo_note, echo_stderr, errors_as_usage
from cgcnn_ase.cli.options import Population, RelaxFmax, RelaxSteps, check_picture, chemical_potentials, complete_model

if TYPE_CHECKING:
    from cgcnn_ase.cathodes.voltage import Voltage, VoltageCurve


def voltage(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="Structures of one framework with at least two contents of the ion: files, folders or globs.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            autocompletion=complete_model,
            help="Energies by a pretrained name, a model folder, chgnet, or stored (in the files).",
        ),
    ] = "formation-energy-per-atom",
    ion: Annotated[str, typer.Option(help="Li, Na, K, Rb, Cs, Mg, Ca, Zn, Y or Al.")] = "Li",
    mu: Annotated[
        list[str] | None,
        typer.Option(help="Energy of the ion's metal in eV/atom, as Li=-1.9; by default the model's own reference."),
    ] = None,
    population: Population = "hypothetical",
    relax: Annotated[
        bool,
        typer.Option(
            "--relax",
            help="Of a potential (cathode-potential, chgnet): relax each structure with its cell before its energy is "
            "taken.",
        ),
    ] = False,
    fixed_cell: Annotated[bool, typer.Option("--fixed-cell", help="Of --relax: move the atoms only.")] = False,
    fmax: RelaxFmax = 0.05,
    steps: RelaxSteps = 500,
    plot: Annotated[Path | None, typer.Option(help="Draw a picture: a .png, .pdf or .svg file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines: the curve as JSON on stdout.")] = False,
) -> None:
    """Voltages of an intercalation series: the stable phases, and the voltage of each step between them.

    Steps go from corner to corner of the convex hull of the structures; what lies above it is named with its distance.
    Capacities are those of a step, by the mass and the volume of the cell that holds more of the ion.

    Exit code 0: done; 2: nothing could be done.
    """
    with errors_as_usage():
        check_picture("--plot", plot)
        potentials = chemical_potentials(mu, element=ion) or {}
        if others := sorted(set(potentials) - {ion}):
            raise ValueError(
                f"--mu {others[0]}={potentials[others[0]]:g}: a voltage needs that of the ion, {ion}, alone"
            )
        from cgcnn_ase.cathodes.voltage import voltage_curve
        from cgcnn_ase.structures import collect_paths, read_structures

        records = list(read_structures(collect_paths(paths)))
        curve = voltage_curve(
            [record.unwrap() for record in records], model, lithium=potentials.get(ion), ion=ion,
            population=population, relax=relax, fixed_cell=fixed_cell, fmax=fmax, max_steps=steps,
        )  # fmt: skip
        names = [record.id for record in records]
        if plot is not None:
            from cgcnn_ase.cathodes.voltage_plot import voltage_plot
            from cgcnn_ase.plotting.model_plots import save

            save(voltage_plot(curve), plot)
            echo_note(f"written to {plot}")
    if as_json:
        typer.echo(json.dumps({"structures": names, **curve.to_dict()}, indent=1))
    else:
        _show(curve, names)
    if curve.scale is not None:
        echo_note(f"all energies, that of {ion} metal too, are on the scale {curve.scale}")
    for phase in curve.phases:
        name = names[phase.index]
        if not phase.is_stable:
            echo_note(
                f"{name} is {phase.above_hull:.3f} eV per {curve.unit} ({phase.above_hull_per_atom:.3f} eV/atom) above "
                "the hull: no step begins or ends there"
            )
        if phase.in_domain is False:
            echo_stderr(f"cgcnn-ase: warning: {name} is outside of what {curve.model} has learned")
        if phase.note:
            echo_stderr(f"cgcnn-ase: warning: {name}: {phase.note}")


def _show(curve: "VoltageCurve", names: list[str]) -> None:
    from rich.table import Table

    per = f"(eV per {curve.unit})"
    heads = ("structure", f"x in {curve.ion}x{curve.unit}", f"formation energy {per}", "std", f"above hull {per}")
    phases = Table(*heads)
    for phase in curve.phases:
        std = "" if phase.std is None else f"{phase.std:.3f}"
        energies = (f"{phase.formation_energy:.3f}", std, f"{phase.above_hull:.3f}")
        phases.add_row(names[phase.index], f"{phase.x:.4g}", *energies)
    steps = Table(
        "from x", "to x", f"voltage against {curve.ion} (V)", "std", "90 % interval", "mAh/g", "mAh/cm³", "volume"
    )
    for step in curve.steps:
        steps.add_row(f"{step.x_from:.4g}", f"{step.x_to:.4g}", *_cells(step))
    steps.add_section()
    steps.add_row("average", "", *_cells(curve.average))
    console(120).print(phases, steps)


def _cells(step: "Voltage") -> tuple[str, ...]:
    interval = "" if step.lower is None or step.upper is None else f"{step.lower:.2f} to {step.upper:.2f}"
    return (
        f"{step.voltage:.3f}",
        "" if step.std is None else f"{step.std:.2f}",
        interval,
        "" if step.capacity_grav is None else f"{step.capacity_grav:.0f}",
        "" if step.capacity_vol is None else f"{step.capacity_vol:.0f}",
        "" if step.volume_change is None else f"{100 * step.volume_change:+.1f} %",
    )
