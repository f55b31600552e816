"""``cgcnn-ase models``."""

from dataclasses import asdict
from typing import Annotated

import typer

from cgcnn_ase.cli.messages import errors_as_usage


def models(
    as_json: Annotated[bool, typer.Option("--json", help="For machines: a JSON list.")] = False,
) -> None:
    """List the pretrained models: property, unit, test MAE, size, sha256."""
    from cgcnn_ase.registry import model_info, model_names

    with errors_as_usage():
        infos = [model_info(name) for name in model_names()]
    if as_json:
        import json

        typer.echo(json.dumps([asdict(info) | {"path": str(info.path)} for info in infos], indent=1))
        return
    import sys

    from rich.console import Console
    from rich.table import Table

    table = Table("name", "property", "unit", "members", "test MAE", "size", "sha256")
    for column in table.columns:
        column.no_wrap = True
    for info in infos:
        mae = "" if info.test_mae is None else f"{info.test_mae:.4f}"
        size = f"{info.size / 1e6:.1f} MB"
        table.add_row(info.name, info.target, info.unit, str(info.n_members), mae, size, info.sha256[:12])
    Console(width=None if sys.stdout.isatty() else 160).print(table)
