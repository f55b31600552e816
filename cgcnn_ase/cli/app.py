"""``cgcnn-ase``: the commands in one Typer application. Nothing heavy is imported until a command runs."""

import typer

from cgcnn_ase.cli.cathode import cathode
from cgcnn_ase.cli.defects import defects
from cgcnn_ase.cli.evaluate import evaluate
from cgcnn_ase.cli.explain import explain
from cgcnn_ase.cli.fetch import fetch
from cgcnn_ase.cli.inspect import inspect
from cgcnn_ase.cli.models import models
from cgcnn_ase.cli.optimize import optimize
from cgcnn_ase.cli.predict import predict
from cgcnn_ase.cli.prepare import prepare
from cgcnn_ase.cli.screen import screen
from cgcnn_ase.cli.train import finetune, train
from cgcnn_ase.cli.voltage import voltage

app = typer.Typer(
    name="cgcnn-ase",
    help="Crystal-graph property prediction with calibrated uncertainty.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
COMMANDS = (
    predict, models, fetch, inspect, train, finetune, evaluate, explain, prepare, defects, cathode, screen, voltage,
    optimize,
)  # fmt: skip
for command in COMMANDS:
    app.command()(command)
