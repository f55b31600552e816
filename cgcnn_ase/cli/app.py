"""``cgcnn-ase``: the commands in one Typer application. Nothing heavy is imported until a command runs."""

from typing import Annotated

import typer

from cgcnn_ase.cli.calibrate import calibrate
from cgcnn_ase.cli.cathode import cathode
from cgcnn_ase.cli.command import Command, with_quiet
from cgcnn_ase.cli.defects import defects
from cgcnn_ase.cli.evaluate import evaluate
from cgcnn_ase.cli.explain import explain
from cgcnn_ase.cli.fetch import fetch
from cgcnn_ase.cli.inspect import inspect
from cgcnn_ase.cli.models import models
from cgcnn_ase.cli.optimize import optimize
from cgcnn_ase.cli.predict import predict
from cgcnn_ase.cli.prepare import prepare
from cgcnn_ase.cli.relax import relax
from cgcnn_ase.cli.screen import screen
from cgcnn_ase.cli.stability import stability
from cgcnn_ase.cli.train import finetune, train
from cgcnn_ase.cli.voltage import voltage

app = typer.Typer(
    name="cgcnn-ase",
    help="Crystal-graph property prediction with calibrated uncertainty.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
COMMANDS = (
    predict, relax, stability, models, fetch, inspect, train, finetune, calibrate, evaluate, explain, prepare, defects,
    cathode, screen, voltage, optimize,
)  # fmt: skip


def _print_version(asked: bool) -> None:
    if asked:
        from cgcnn_ase.core.environment import package_version

        typer.echo(f"cgcnn-ase {package_version()}")
        raise typer.Exit


@app.callback()
def _before_commands(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    del version


for command in COMMANDS:
    app.command(cls=Command)(with_quiet(command))
