"""``cgcnn-ase stability``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cgcnn_ase.cli.command import (
    PROCESS,
    NamedRows,
    console,
    echo_note,
    echo_stderr,
    errors_as_usage,
    progress_of_files,
    warnings_as_lines,
)
from cgcnn_ase.cli.options import Paths, Population, complete_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cgcnn_ase.stability.results import Stability

# structures that a note names; the rest is counted
_SHOWN = 5


def stability(
    paths: Paths,
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", autocompletion=complete_model, help="A model of the formation energy: name or folder."
        ),
    ] = "formation-energy-per-atom",
    within: Annotated[
        float, typer.Option(help="Distance above the hull up to which a crystal counts as stable, eV/atom.")
    ] = 0.05,
    entries: Annotated[
        Path | None,
        typer.Option(
            help="Competing phases: a folder of `cgcnn-ase fetch`, or pymatgen's entries in a JSON file. Without it, "
            "the package's table of the Materials Project.",
        ),
    ] = None,
    population: Population = "hypothetical",
    scale: Annotated[
        str, typer.Option(help="Corrections that all energies carry: mp2020, or mp-legacy (the older ones).")
    ] = "mp2020",
    leave_out: Annotated[
        bool, typer.Option("--leave-out", help="Leave phases of a structure's own formula out of its hull.")
    ] = False,
    together: Annotated[
        bool, typer.Option("--together", help="Let the structures compete with each other, too, by predicted energies.")
    ] = False,
    competing: Annotated[
        list[Path] | None,
        typer.Option(
            help="More competing phases, of which only the structure is known: files or folders. Several times."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write a .csv file. Without it, a table on a terminal, else CSV on stdout."
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the phase diagram of the structures, 2 to 4 elements, into this file.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; all cores for many structures by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines: the rows as JSON on stdout.")] = False,
) -> None:
    """Energy above the hull, its std, the probability of being stable, and what a crystal falls apart into.

    Negative energies are below the hull: the crystal would be a new stable phase. The structures are taken as they are;
    relax them first where they are not (`cgcnn-ase relax`).

    Exit code 0: all done; 1: some structures failed, each named on stderr, the rest written; 2: nothing could be done.
    """
    import csv
    import json
    import sys
    from contextlib import ExitStack

    from cgcnn_ase.core.parallel import WorkerError
    from cgcnn_ase.models.folder import CheckpointError
    from cgcnn_ase.stability.predictor import StabilityPredictor
    from cgcnn_ase.stability.results import COLUMNS, DFTGains, columns_of
    from cgcnn_ase.structures import StructureError, collect_paths

    with errors_as_usage():
        if output is not None and output.suffix.lower() != ".csv":
            raise ValueError(f"{output}: allowed for --output is a .csv file")
        predictor = StabilityPredictor(
            model,
            within=within,
            entries=entries,
            population=population,
            scale=scale,
            leave_out=leave_out,
            competing=collect_paths(competing) if competing else None,
            together=together,
            workers=workers,
            once=PROCESS.runs_one_command,
        )
        files = collect_paths(paths)
    in_table = output is None and not as_json and sys.stdout.isatty()
    rows: list[Stability] = []
    named, gains = NamedRows(), DFTGains()
    try:
        with ExitStack() as stack, warnings_as_lines():
            target = stack.enter_context(output.open("w", newline="", encoding="utf-8")) if output else sys.stdout
            table = None if in_table or (as_json and output is None) else csv.writer(target, lineterminator="\n")
            if table is not None:
                table.writerow(COLUMNS)
            keep = in_table or as_json or plot is not None
            n_likely = n = n_bare = 0
            bare: list[str] = []
            for row in progress_of_files(predictor.stream_files(files), "Predicting", files):
                if row.error is not None:
                    named.add("failed", row, row.error)
                    continue
                n += 1
                n_likely += (row.p_stable or 0.0) > 0.5
                gains.add(row)
                if row.against_elements:
                    n_bare += 1
                    bare += [row.id] if n_bare <= _SHOWN else []
                if table is not None:
                    table.writerow(columns_of(row))
                if keep:
                    rows.append(row)
    except (OSError, CheckpointError, StructureError, WorkerError) as error:
        if isinstance(error, BrokenPipeError):  # `| head` has enough
            raise
        echo_stderr(f"cgcnn-ase: {error}")
        raise typer.Exit(2) from error
    if as_json:
        typer.echo(json.dumps([row.to_dict() for row in rows], indent=1))
    if in_table:
        _show(rows)
    if predictor.phases.n_higher:
        echo_note(f"{predictor.phases.n_higher} entries lie above another of their formula, and are left out")
    echo_note(f"competing phases: {predictor.phases.source}; energies on the scale {scale}")
    if n_bare:
        names = ", ".join(bare) + (f" and {n_bare - _SHOWN} more" if n_bare > _SHOWN else "")
        echo_note(
            f"no stable compound of their elements is among the competing phases: {names}. Their energy above the hull "
            "is the formation energy; where phases may be missing, fetch today's (--entries)"
        )
    echo_note(f"{n_likely} of {n} are more likely than not within {within:g} eV/atom of the hull")
    for best in gains.best(1) if n > 1 else ():
        others = len(set(best.rows) - {best.id})
        reasons = [] if best.p_stable is None else [f"its probability is {best.p_stable:.2f}"]
        reasons += [f"{others} other structures may fall apart into it"] if others else []
        echo_note(f"a DFT calculation of {best.id} would decide most: {', and '.join(reasons)}")
    if plot is not None:
        from cgcnn_ase.stability.phase_diagram import draw_phase_diagram

        with errors_as_usage():
            draw_phase_diagram(rows, predictor.phases, plot)
        echo_note(f"phase diagram: {plot}")
    named.show_rest()
    if named["failed"]:
        raise typer.Exit(1)


def _show(rows: "Sequence[Stability]") -> None:
    """A table for people, the most stable first."""
    from rich.table import Table

    table = Table("structure", "formula", "above hull (eV/atom)", "p(stable)", "falls apart into", "domain")
    for row in sorted(rows, key=lambda each: each.e_above_hull or 0.0):
        std = "" if row.e_above_hull_std is None else f" ± {row.e_above_hull_std:.3f}"
        table.add_row(
            row.id,
            row.formula,
            f"{row.e_above_hull:+.3f}{std}",
            "–" if row.p_stable is None else f"{row.p_stable:.2f}",
            row.decomposition_in_words,
            {True: "inside", False: "outside", None: "–"}[row.in_domain],
        )
    console().print(table)
