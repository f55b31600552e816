"""``cgcnn-ase explain``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cgcnn_ase.cli.command import console, echo_note, echo_stderr, errors_as_usage
from cgcnn_ase.cli.options import OrderDisordered, check_picture, complete_model, one_structure

if TYPE_CHECKING:
    from ase import Atoms
    from rich.table import Table

    from cgcnn_ase.explain.explain import Explanation
    from cgcnn_ase.explain.training_neighbors import Neighbor, NeighborIndex

# a gap beyond this share of the sizes of all contributions and the baseline is told
_LARGE_GAP = 0.05
# columns of numbers
_NUMBERS = ("contribution", "std", "each", "distance", "multiplicity")
# rows of the table of atoms; --json has all
_MAX_ROWS = 100


def explain(
    path: Annotated[str, typer.Argument(help="A structure file.", show_default=False)],
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", autocompletion=complete_model, help="Pretrained name, model folder, or original .pth.tar."
        ),
    ] = "formation-energy-per-atom",
    structure_id: Annotated[
        str | None,
        typer.Option("--structure", help="Id of the structure, such as file:3, where the file holds several."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw a picture: a .png, .pdf or .svg file.")] = None,
    neighbors: Annotated[int, typer.Option(help="How many nearest training structures to list; 0 for none.")] = 5,
    steps: Annotated[int, typer.Option(help="Points of the quadrature on each path.")] = 16,
    baseline: Annotated[
        str, typer.Option(help="What atoms are measured against: pure-elements, mean-element or zero.")
    ] = "pure-elements",
    order_disordered: OrderDisordered = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines: JSON on stdout.")] = False,
) -> None:
    """Say which atoms and elements make a prediction what it is, and which training structures are nearest.

    Exit code 0: done; 2: nothing could be done.
    """
    with errors_as_usage():
        check_picture("--plot", plot)
        if neighbors < 0:
            raise ValueError(f"--neighbors {neighbors}: must not be negative")
        from typing import get_args

        from cgcnn_ase.explain.explain import Baseline
        from cgcnn_ase.explain.explain import explain as explain_atoms
        from cgcnn_ase.explain.training_neighbors import load_neighbor_index
        from cgcnn_ase.graphs.builder import build_graph
        from cgcnn_ase.models.registry import find_model, load_refs

        if baseline not in get_args(Baseline):
            raise ValueError(f"--baseline {baseline}: allowed are {', '.join(get_args(Baseline))}")
        ref = find_model(model)
        (loaded,), folder = load_refs([ref]), ref.path if ref.path.is_dir() else None
        index = load_neighbor_index(folder, model_sha256=loaded.sha256) if folder is not None and neighbors else None
        name, atoms = one_structure(path, structure_id, order_disordered=order_disordered)
        result = explain_atoms(atoms, loaded, n_steps=steps, baseline=baseline)  # type: ignore[arg-type]
        nearest = None if index is None else index.nearest(loaded, build_graph(atoms, loaded.graph), neighbors)
        if plot is not None:
            from cgcnn_ase.explain.plot import explanation
            from cgcnn_ase.plotting.model_plots import save

            save(explanation(atoms, result), plot)
            echo_note(f"written to {plot}")
    if abs(result.gap) > _LARGE_GAP * (abs(result.contributions).sum() + abs(result.baseline)):
        echo_stderr(
            f"the gap {result.gap:.2g} {result.unit} is large: --steps {2 * steps} or more would make it smaller"
        )
    if neighbors and nearest is None:
        echo_note(f"{result.model}: the model has no index of its training structures, so no neighbours are listed")
    if as_json:
        import json

        values = {
            "id": name,
            "formula": atoms.get_chemical_formula(mode="metal"),
            "n_atoms": len(atoms),
            **result.to_dict(),
            "neighbors": None if nearest is None else [neighbor._asdict() for neighbor in nearest],
            "typical_distance": None if index is None else index.typical,
        }
        typer.echo(json.dumps(values, indent=1))
    else:
        _print(name, atoms, result, nearest, index)


def _print(
    name: str,
    atoms: "Atoms",
    result: "Explanation",
    nearest: "list[Neighbor] | None",
    index: "NeighborIndex | None",
) -> None:
    """Tables for people."""
    from rich.table import Table

    screen = console(highlight=False)
    formula = atoms.get_chemical_formula(mode="metal")
    screen.print(f"{name} {formula}: {result.target} {result.value:.4f} {result.value_unit}".rstrip(), markup=False)
    share = ", to the mean over the atoms" if result.per_atom else ""
    screen.print(f"contributions in {result.unit}{share}; model {result.model}\n", markup=False)

    table = Table("term", "contribution", "std", title="By element", title_justify="left")
    table.add_row(f"baseline ({result.baseline_kind})", f"{result.baseline:+.4f}", _number(result.baseline_std))
    for row in result.by_element():
        table.add_row(f"{row.symbol} × {row.n_atoms}", f"{row.contribution:+.4f}", _number(row.std))
    table.add_row("gap", f"{result.gap:+.1e}", "")
    table.add_row("prediction", f"{result.prediction:+.4f}", "", end_section=True)
    screen.print(_right(table))

    rows = result.by_orbit()
    table = Table("atoms", "symbol", "multiplicity", "each", "std", title="By atom", title_justify="left")
    for orbit in sorted(rows, key=lambda row: -abs(row.contribution))[:_MAX_ROWS]:
        first = ", ".join(map(str, orbit.atoms[:6])) + (", ..." if len(orbit.atoms) > 6 else "")
        each = f"{orbit.contribution:+.4f}"
        table.add_row(first, orbit.symbol, str(len(orbit.atoms)), each, _number(orbit.std))
    screen.print(_right(table))
    if len(rows) > _MAX_ROWS:
        screen.print(f"... and {len(rows) - _MAX_ROWS} more, each of less; --json has all")

    if nearest is not None and index is not None:
        table = Table("training structure", "distance", title="Nearest in training", title_justify="left")
        for neighbor in nearest:
            table.add_row(neighbor.id, f"{neighbor.distance:.3f}")
        screen.print(_right(table))
        screen.print(f"{index.typical:.3f} is the median distance of a training structure from its nearest other one")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _right(table: "Table") -> "Table":
    """Numbers aligned on the right."""
    for column in table.columns:
        column.no_wrap = True
        column.justify = "right" if column.header in _NUMBERS else "left"
    return table
