"""``cgcnn-ase optimize``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cgcnn_ase.cli.command import console, echo_note, echo_stderr, errors_as_usage, is_terminal
from cgcnn_ase.cli.options import Overwrite

if TYPE_CHECKING:
    from cgcnn_ase.optimization.records import OptimisationResult, Record

# rows of the table on stdout, and failures that are named one by one
_SHOWN, _NAMED = 10, 20


def optimize(
    config: Annotated[
        Path,
        typer.Argument(metavar="CONFIG.yaml", help="Space, objectives, oracle and budget.", show_default=False),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the run: log.csv, evaluations.jsonl, convergence.png, ...")
    ],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in OUTPUT, if there is one.")] = False,
    overwrite: Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines: the result as JSON on stdout.")] = False,
) -> None:
    """Search a space of compositions and defects for the best points, spending few evaluations: active learning.

    Everything is saved after each evaluation; a run that was killed goes on with --resume as if nothing had happened.

    Exit code 0: done; 1: some evaluations failed, each named on stderr; 2: nothing could be done.
    """
    with errors_as_usage():
        from cgcnn_ase.optimization.loop import optimise

        try:
            result = optimise(config, output, resume=resume, overwrite=overwrite, progress=is_terminal())
        except KeyboardInterrupt:
            echo_stderr(f"interrupted: what was evaluated is in {output}; --resume goes on")
            raise typer.Exit(130) from None
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=1))
    else:
        _show(result)
    _draw(result)
    echo_note(f"{result.stopped}; every evaluation is in {output / 'log.csv'}; oracle: {result.oracle['what']}")
    for reason, n in _unrelaxed(result).items():
        echo_note(f"{n} cells were evaluated as they are built: {reason}")
    failed = result.failed
    for record in failed[:_NAMED]:
        echo_stderr(f"evaluation {record.index} failed ({record.key}): {record.reason}")
    if len(failed) > _NAMED:
        echo_stderr(f"... and {len(failed) - _NAMED} more")
    if failed:
        raise typer.Exit(1)


def _unrelaxed(result: "OptimisationResult") -> dict[str, int]:
    """Count the cells that were not relaxed though others may have been, by the reason."""
    from collections import Counter

    from cgcnn_ase.optimization.oracles.calculators import UNRELAXED

    cells = [cell for record in result.records for cell in record.cells.values()]
    notes = [cell["info"].get("relaxation") for cell in cells if "info" in cell]
    return dict(Counter(str(note[UNRELAXED]) for note in notes if isinstance(note, dict) and UNRELAXED in note))


def _draw(result: "OptimisationResult") -> None:
    """The pictures, where there is something to draw and something to draw with."""
    from cgcnn_ase.optimization.plot import save_plots

    if not result.known:
        return
    try:
        save_plots(result)
    except ImportError as error:
        echo_stderr(str(error))


def _show(result: "OptimisationResult") -> None:
    """The best by the only objective, or the Pareto front of several."""
    from rich.table import Table

    names = [objective.name for objective in result.objectives]
    if len(names) > 1:
        title, rows = "Pareto front", result.front
    else:
        title, rows = "best first", result.ranked
    variables = list(rows[0].point) if rows else []
    heads = [f"{o.name} ({o.unit})" if o.unit else o.name for o in result.objectives]
    table = Table("evaluation", *variables, *heads, title=f"{title}; values: {result.oracle['what']}")
    for record in rows[:_SHOWN]:
        table.add_row(str(record.index), *map(_word, record.point.values()), *(_value(record, n) for n in names))
    console(140).print(table)
    if len(rows) > _SHOWN:
        echo_note(f"... and {len(rows) - _SHOWN} more")


def _value(record: "Record", name: str) -> str:
    std = record.stds.get(name)
    return f"{record.values[name]:.4f}" + ("" if std is None else f" ± {std:.4f}")


def _word(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
