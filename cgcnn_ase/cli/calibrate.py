"""``cgcnn-ase calibrate``."""

from pathlib import Path
from typing import Annotated

import typer

from cgcnn_ase.cli.command import echo_note, errors_as_usage, is_terminal
from cgcnn_ase.cli.options import Overwrite


def calibrate(
    model: Annotated[str, typer.Argument(help="Pretrained name, or folder of a model or run: a regression.")],
    data: Annotated[
        Path,
        typer.Argument(
            help="At least 20 labelled structures: a folder with id_prop.csv and structures, a packed data set, or "
            "outputs of DFT programs, extxyz or ASE databases with energies."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder for the calibrated model and its card.")],
    target: Annotated[str | None, typer.Option(help="Column with the labels, where there are several.")] = None,
    accept_shift: Annotated[
        bool, typer.Option("--accept-shift", help="Apply a shift of more than 1 eV/atom, too.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of more than 60 labels: same seed, the same are left out together.")] = 0,
    overwrite: Overwrite = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="For machines: the record of the calibration as JSON.")
    ] = False,
) -> None:
    """Bring a model onto the scale of your own labels: shift, std and interval, from 20 labels on.

    The weights stay. Labels are in the unit of the model's target, of structures like those to predict.
    """
    import json

    with errors_as_usage():
        from cgcnn_ase.models.registry import find_models
        from cgcnn_ase.training.calibrate import (
            RECORD,
            calibrate_on,
            check_output,
            describe,
            load_labels,
            one_model,
            write_calibrated,
        )

        check_output(output, overwrite=overwrite)
        loaded = one_model(model, target)
        labelled = load_labels(data, loaded, target)
        if labelled.n_without:
            echo_note(f"{labelled.n_without} structures have no label: left out")
        calibrated = calibrate_on(
            loaded, labelled.data, column=labelled.column, unit=labelled.unit, accept_shift=accept_shift, seed=seed,
            progress=is_terminal(),
        )  # fmt: skip
        write_calibrated(calibrated, output, find_models(model)[0].path, overwrite=overwrite)
        for note in describe(calibrated):
            echo_note(note)
    if as_json:
        record = {"model": str(output), "sha256": calibrated.sha256} | calibrated.training_record[RECORD]
        typer.echo(json.dumps(record, indent=1))
    else:
        typer.echo(f"model: {output}")
