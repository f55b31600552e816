"""``cgcnn-ase models``."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cgcnn_ase.cli.command import console, errors_as_usage

if TYPE_CHECKING:
    from cgcnn_ase.models.registry import ModelInfo


def models(
    as_json: Annotated[bool, typer.Option("--json", help="For machines: a JSON list.")] = False,
) -> None:
    """List the pretrained models: property, unit, scale of energies, error on the test split, size, sha256."""
    from cgcnn_ase.models.registry import model_info, model_names

    with errors_as_usage():
        infos = [model_info(name) for name in model_names()]
    if as_json:
        import json

        typer.echo(json.dumps([_row(info) for info in infos], indent=1))
        return
    from rich.table import Table

    table = Table("name", "property", "unit", "scale", "members", "on the test split", "size", "sha256")
    for column in table.columns:
        column.no_wrap = True
    for info in infos:
        size = f"{info.size / 1e6:.1f} MB"
        facts = (info.name, info.target, info.unit, info.scale or "", str(info.n_members), _figure(info))
        table.add_row(*facts, size, info.sha256[:12])
    console().print(table)


def _row(info: "ModelInfo") -> dict[str, object]:
    """The facts as JSON, with the unit of the error, which is not always that of the value."""
    return asdict(info) | {"path": str(info.path), "test_mae": info.test_mae, "test_mae_unit": info.learned_unit}


def _figure(info: "ModelInfo") -> str:
    """The figure by which a model is known."""
    if info.test_mae is not None:
        unit = "" if info.learned_unit == "1" else f" {info.learned_unit}"
        return f"MAE {info.test_mae:.4f}{unit}"
    return f"AUC {info.test['auc']:.4f}" if info.test.get("auc") is not None else ""
