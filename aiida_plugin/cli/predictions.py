"""``verdi data cgcnn-predictions``: the predictions in a profile. Imported by each ``verdi data``."""

from pathlib import Path
from typing import TYPE_CHECKING

import click
from aiida.cmdline.params import arguments, types
from aiida.cmdline.utils import decorators, echo

from aiida_plugin.cli.errors import errors_in_words

if TYPE_CHECKING:
    from aiida_plugin.data.predictions import PredictionsData

#: hex digits of a sha256 that tell models apart
_SHORT = 12

_PREDICTIONS = arguments.NODE(
    metavar="PREDICTIONS", type=types.DataParamType(sub_classes=("aiida.data:cgcnn.predictions",))
)


@click.group("cgcnn-predictions")
def predictions() -> None:
    """Predictions as nodes: list, show, export."""


@predictions.command("list")
@click.option("--model", help="Only predictions of the model of this name, or whose sha256 begins so.")
@decorators.with_dbenv()
def list_predictions(model: str | None) -> None:
    """List the nodes."""
    from aiida.orm import QueryBuilder

    from aiida_plugin.data.predictions import PredictionsData

    filters = {}
    if model is not None:
        filters = {"or": [{"attributes.model": model}, {"attributes.model_sha256": {"like": f"{model}%"}}]}
    keys = ["property", "unit", "model", "n_predictions", "n_out_of_domain", "n_failures", "model_sha256"]
    query = QueryBuilder().append(
        PredictionsData, filters=filters, project=["id", *(f"attributes.{key}" for key in keys)], tag="predictions"
    )
    rows = [[*columns, sha256[:_SHORT]] for *columns, sha256 in query.order_by({"predictions": {"id": "asc"}}).all()]
    headers = ["PK", "Property", "Unit", "Model", "Predictions", "Out of domain", "Failed", "sha256"]
    echo.echo_tabulate(rows, headers=headers)


@predictions.command("show")
@_PREDICTIONS
@click.option("--id", "ids", multiple=True, help="Also the rows of this structure; may be given several times.")
@decorators.with_dbenv()
def show_predictions(node: "PredictionsData", ids: tuple[str, ...]) -> None:
    """Show what is known of predictions, and which structures have none."""
    summary = {"pk": node.pk, "uuid": node.uuid, **node.base.attributes.all}
    with errors_in_words():
        if failures := node.failures:
            summary["failures"] = dict(failures)
        if ids:
            frame = node.to_frame(ids)
            if missing := sorted(set(ids) - set(frame["id"])):
                raise ValueError(f"node {node.pk}: no prediction of {', '.join(missing)}")
            summary["rows"] = frame.astype(object).where(frame.notna(), None).to_dict("records")
    echo.echo_dictionary(summary, fmt="yaml")


@predictions.command("export")
@_PREDICTIONS
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@decorators.with_dbenv()
def export_predictions(node: "PredictionsData", path: Path) -> None:
    """Write the table to PATH, a .csv file like that of cgcnn-ase predict, or .json."""
    with errors_in_words():
        if path.suffix not in (".csv", ".json"):
            raise ValueError(f"{path}: allowed endings are .csv and .json")
        frame = node.to_frame()
        if path.suffix == ".csv":
            frame.to_csv(path, index=False, lineterminator="\n")
        else:
            frame.to_json(path, orient="records", indent=1, double_precision=15)
        echo.echo_success(str(path))
