"""``cgcnn-ase prepare``."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from cgcnn_ase.cli.messages import echo_stderr, errors_as_usage
from cgcnn_ase.cli.options import PRESET_NAMES, Targets, Task, Test, Unit, Val
from cgcnn_ase.training.run_config import load_prepared, parts, read_settings


def prepare(
    data: Annotated[
        list[Path],
        typer.Argument(
            help="Folders with id_prop.csv and structures, packed data sets, or CGNN's; of several, each is a shard."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder to write.")],
    target: Targets = None,
    task: Task = "regression",
    unit: Unit = "",
    config: Annotated[Path | None, typer.Option(help="YAML with the settings of the run, for its graph.")] = None,
    preset: Annotated[str | None, typer.Option(help=f"Graph of a preset: {PRESET_NAMES}.")] = None,
    val: Val = None,
    test: Test = None,
) -> None:
    """Build all graphs of a data set, for training on a machine with only torch, numpy, pandas and lightning.

    Of several folders each becomes a shard: only one of them is in memory at a time, here and in training. Where they
    have no split, equal formulas are in the same split in all of them. A shard that is there already is kept.
    """
    with errors_as_usage():
        val, test = parts(config, val, test)
        several = len(data) > 1
        places = [output / f"shard-{k:04d}" for k in range(len(data))] if several else [output]
        drafts = [path.with_name(f".{path.name}") for path in places]
        if output.exists() and any(path not in (*places, *drafts) for path in output.iterdir()):
            raise ValueError(f"{output}: is not empty; name another folder")
        for part, folder, tmp in zip(data, places, drafts, strict=True):
            if (folder / "meta.json").exists():
                continue
            settings = read_settings(part, config, {}, preset=preset).config()
            prepared = load_prepared(part, target or [], task, unit, settings, val=val, test=test, is_part=several)
            shutil.rmtree(tmp, ignore_errors=True)  # of a run that was stopped
            prepared.save(tmp)
            if folder.is_dir():
                folder.rmdir()
            tmp.rename(folder)
            echo_stderr(f"{len(prepared.ids)} structures in {folder}")
