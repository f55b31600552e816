"""``cgcnn-ase prepare``."""

from pathlib import Path
from typing import Annotated

import typer

from cgcnn_ase.cli.messages import errors_as_usage, say
from cgcnn_ase.cli.train import TEST_HELP, VAL_HELP, load_prepared, parts, read_settings


def prepare(
    data: Annotated[
        Path, typer.Argument(help="Folder with id_prop.csv and structures, a packed data set, or that of CGNN.")
    ],
    output: Annotated[Path, typer.Option(help="Folder to write.")],
    target: Annotated[
        list[str] | None,
        typer.Option(help="Column to learn, where there are several; may be given several times. NAME:classification."),
    ] = None,
    task: Annotated[str, typer.Option(help="regression, classification, or multi: the last column has classes.")] = (
        "regression"
    ),
    unit: Annotated[str, typer.Option(help="Unit of the target.")] = "",
    config: Annotated[Path | None, typer.Option(help="YAML with the settings of the run, for its graph.")] = None,
    val: Annotated[float | None, typer.Option(help=VAL_HELP)] = None,
    test: Annotated[float | None, typer.Option(help=TEST_HELP)] = None,
) -> None:
    """Build all graphs of a data set, for training on a machine with only torch, numpy, pandas and lightning."""
    with errors_as_usage():
        if output.exists() and any(output.iterdir()):
            raise ValueError(f"{output}: is not empty; name another folder")
        val, test = parts(config, val, test)
        prepared = load_prepared(data, target or [], task, unit, read_settings(data, config, {}), val=val, test=test)
        prepared.save(output)
    say(f"{len(prepared.ids)} structures in {output}")
