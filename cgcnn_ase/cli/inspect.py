"""``cgcnn-ase inspect``."""

from pathlib import Path
from typing import Annotated

import typer

from cgcnn_ase.cli.command import echo_note, errors_as_usage, is_terminal
from cgcnn_ase.cli.options import Overwrite, complete_model

# rows of each table on stdout
_SHOWN = 10


def inspect(
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder with id_prop.csv and structures, a packed data set, as fetch writes it, or outputs of DFT "
            "programs, extxyz or ASE databases with energies."
        ),
    ],
    target: Annotated[str | None, typer.Option(help="Column to judge and to compare, where there are several.")] = None,
    other: Annotated[
        Path | None, typer.Option("--with", help="Another data set to compare with, on the structures of both.")
    ] = None,
    other_target: Annotated[
        str | None, typer.Option("--with-target", help="Its column, where it has another name.")
    ] = None,
    align: Annotated[
        bool | None,
        typer.Option(
            "--align/--no-align",
            help="Fit one offset for each element to the differences.  [default: of energies per atom]",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            autocompletion=complete_model,
            help="Pretrained name or model folder to hold the target against.",
        ),
    ] = None,
    duplicates: Annotated[
        bool, typer.Option("--duplicates/--no-duplicates", help="Look for structures that are there twice.")
    ] = True,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for report.json, report.md and the pictures.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines: everything as JSON on stdout.")] = False,
) -> None:
    """Report what a data set holds: counts, distributions, duplicates, outliers; compare it with another.

    Exit code 0: done; 2: a data set that cannot be read, no such column, or nothing in common.
    """
    import json

    with errors_as_usage():
        if output is not None and (output / "report.json").exists() and not overwrite:
            raise ValueError(
                f"--output {output}: it holds a report.json already; choose another folder, or add --overwrite"
            )
        for option, value in (("--with-target", other_target), ("--align", align)):
            if value is not None and other is None:
                raise ValueError(f"{option} {value}: belongs to --with OTHER_DATA")
        from cgcnn_ase.inspection.inspect import inspect_dataset, markdown, write_inspection

        table, inspection = inspect_dataset(
            data,
            target,
            other=other,
            other_target=other_target,
            model=model,
            align=align,
            duplicates=duplicates,
            workers=workers,
            progress=is_terminal(),
        )
        if output is not None:
            write_inspection(table, inspection, output)
    if as_json:
        typer.echo(json.dumps(inspection.to_dict(), indent=1, allow_nan=False))
    else:
        typer.echo(markdown(inspection, shown=_SHOWN), nl=False)
    if output is not None:
        echo_note(f"written to {output}")
