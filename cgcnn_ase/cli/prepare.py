"""``cgcnn-ase prepare``."""

from pathlib import Path
from typing import Annotated

import typer

from cgcnn_ase.cli.messages import errors_as_usage, say
from cgcnn_ase.cli.train import PRESET_NAMES


def prepare(
    data: Annotated[Path, typer.Argument(help="Folder with id_prop.csv and structures, or a packed data set.")],
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
    preset: Annotated[str | None, typer.Option(help=f"Graph of a preset: {PRESET_NAMES}.")] = None,
    val: Annotated[float, typer.Option(help="Part for validation, where the data set has no split.")] = 0.1,
    test: Annotated[float, typer.Option(help="Part for the test, where the data set has no split.")] = 0.1,
) -> None:
    """Build all graphs of a data set, for training on a machine with only torch, numpy, pandas and lightning."""
    from cgcnn_ase.cli.train import load_prepared, read_settings

    with errors_as_usage():
        if output.exists() and any(output.iterdir()):
            raise ValueError(f"{output}: is not empty; name another folder")
        settings = read_settings(data, config, {}, preset=preset)
        prepared = load_prepared(data, target or [], task, unit, settings, val=val, test=test)
        prepared.save(output)
    say(f"{len(prepared.ids)} structures in {output}")
