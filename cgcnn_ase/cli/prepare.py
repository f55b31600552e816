"""``cgcnn-ase prepare``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from cgcnn_ase.cli.command import echo_note, errors_as_usage
from cgcnn_ase.cli.options import PRESET_NAMES, Overwrite, Targets, Task, Test, Unit, Val
from cgcnn_ase.core.progress import is_terminal

if TYPE_CHECKING:
    from cgcnn_ase.data.prepare import TaskName


def prepare(
    data: Annotated[
        list[Path],
        typer.Argument(
            help="Folders with id_prop.csv and structures, packed data sets, or CGNN's; of several, each is a shard."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    target: Targets = None,
    task: Task = "regression",
    unit: Unit = "",
    config: Annotated[Path | None, typer.Option(help="YAML with the settings of the run, for its graph.")] = None,
    preset: Annotated[str | None, typer.Option(help=f"Graph of a preset: {PRESET_NAMES}.")] = None,
    val: Val = None,
    test: Test = None,
    overwrite: Overwrite = False,
) -> None:
    """Build all graphs of a data set, for training on a machine with only torch, numpy, pandas and lightning.

    Of several folders each becomes a shard: only one of them is in memory at a time, here and in training. Where they
    have no split, equal formulas are in the same split in all of them. A shard that is there already is kept.
    """
    with errors_as_usage():
        from cgcnn_ase.training.fit import prepare_parts

        prepare_parts(
            data, output, target=target or (), task=cast("TaskName", task), unit=unit, config=config, preset=preset,
            val=val, test=test, overwrite=overwrite, progress=is_terminal(), tell=echo_note,
        )  # fmt: skip
