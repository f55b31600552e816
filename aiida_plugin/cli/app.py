"""``aiida-cgcnn``: what this package adds to ``verdi``. Nothing heavy is imported here."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if find_spec("aiida") is None or find_spec("click") is None:  # Click comes with AiiDA
    from cgcnn_ase.core.errors import MissingExtraError

    print(MissingExtraError("aiida-cgcnn", "aiida"), file=sys.stderr)  # noqa: T201 - there is no command line yet
    raise SystemExit(2)

import click

if TYPE_CHECKING:
    from aiida.engine import ProcessBuilder

    from aiida_plugin.data.model import CGCNNModelData
    from aiida_plugin.data.predictions import PredictionsData

_CONFIGURATION = "AIIDA_PATH"  # variable that says where AiiDA's configuration folder is


class _Lazy(click.Group):
    """Imports the questions to the graph when they are asked, or their help is."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(["provenance", *super().list_commands(ctx)])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "provenance":
            from aiida_plugin.cli.provenance import provenance

            return provenance
        return super().get_command(ctx, cmd_name)


@click.group("aiida-cgcnn", cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cgcnn-ase", message="%(prog)s %(version)s")
def main() -> None:
    """cgcnn-ase in AiiDA: set-up, provenance, and going on after a crash."""


@main.command("setup")
@click.option("-p", "--profile", metavar="NAME", help="The profile; by default the default one.  [made if not there]")
@click.option(
    "--broker",
    type=click.Choice(["zeromq", "rabbitmq", "none"]),
    help="Of a new profile; ZeroMQ comes with AiiDA and needs no service.  [default: zeromq]",
)
@click.option(
    "--postgres", is_flag=True, help="A new profile keeps its data in this machine's PostgreSQL, not in SQLite."
)
@click.option("--check", "only_check", is_flag=True, help="Change nothing; say what is missing and how to get it.")
@click.option("--json", "as_json", is_flag=True, help="For machines: the report as JSON.")
def setup(profile: str | None, broker: str | None, postgres: bool, only_check: bool, as_json: bool) -> None:
    """Make what predictions and DFT through AiiDA need: profile, computer, codes, models, pseudopotentials.

    What is there is left as it is. Exit code 0: all there; 1: something could not be made, or, with --check, is
    missing.
    """
    result = []
    with without_traces() if only_check else nullcontext():
        from aiida_plugin.setup.steps import check, set_up

        for finding in check(profile) if only_check else set_up(profile, broker=broker, postgres=postgres):  # type: ignore[arg-type]
            result.append(finding)
            if not as_json:
                todo = f"; to have it: {finding.command}" if finding.command else ""
                click.echo(f"{finding.state:<9}{finding.what}: {finding.message}{todo}")
    made = [finding for finding in result if finding.state == "made"]
    bad = [finding for finding in result if finding.is_bad]
    if as_json:
        report = {"changed": bool(made), "complete": not bad, "findings": [asdict(finding) for finding in result]}
        click.echo(json.dumps(report, indent=1))
    elif not only_check:
        click.echo(f"{len(made)} made, {len(bad)} could not be made" if made or bad else "Nothing was changed.")
    elif not bad:
        click.echo("Nothing is missing.")
    if bad:
        raise click.exceptions.Exit(1)


@contextmanager
def without_traces() -> Iterator[None]:
    """Keep the import of AiiDA from making its configuration folder.

    Where there is none, it is made in a temporary folder within the block.
    """
    if "aiida" in sys.modules or has_configuration():
        yield
        return
    before = os.environ.get(_CONFIGURATION)
    with TemporaryDirectory(prefix="aiida-cgcnn-check-") as folder:
        os.environ[_CONFIGURATION] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ[_CONFIGURATION]
            else:
                os.environ[_CONFIGURATION] = before


def has_configuration() -> bool:
    """Tell whether there is a configuration of AiiDA where it will look for one."""
    paths = [Path(path).expanduser() for path in os.environ.get(_CONFIGURATION, "~").split(os.pathsep) if path]
    folders = [path if path.name == ".aiida" else path / ".aiida" for path in paths]
    return any((folder / "config.json").is_file() for folder in folders)


def _engine_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say who computes, and how: of each command that starts runs of an engine."""
    options = (
        click.option(
            "--engine", default="gpaw", show_default=True, help="Who computes: gpaw, quantumespresso, cp2k, vasp, ase."
        ),
        click.option(
            "--code", help="The engine's code, as `verdi code list` shows it.  [default: that of aiida-cgcnn setup]"
        ),
        click.option("--protocol", default="balanced", show_default=True, help="fast, balanced or stringent."),
        click.option(
            "--settings", type=click.Path(exists=True, dir_okay=False), help="YAML with settings over the protocol."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@main.command("label")
@click.argument("structures", metavar="SET")
@_engine_options
@click.option("--references", is_flag=True, help="Compute the elements too, for formation energies.")
@click.option("--dry-run", is_flag=True, help="Submit nothing; tell the runs, their pseudopotentials, and conflicts.")
def label(
    structures: str, engine: str, code: str | None, protocol: str, settings: str | None, references: bool, dry_run: bool
) -> None:
    """Label the structures of a set (a node's pk or uuid) by DFT, under the daemon; the work chain is cgcnn.label.

    Exit code 0: submitted, or nothing stands in the way; 1: with --dry-run, a run has a conflict; 2: it cannot be run.
    """
    with _errors_as_usage():
        from aiida_plugin.data.structures import StructureSetData
        from aiida_plugin.oracles.dft import code_of
        from aiida_plugin.workflows.label import LabelWorkChain

        node = _node(structures, StructureSetData, "a set of structures (cgcnn.structures)")
        builder = LabelWorkChain.get_builder_from_protocol(
            code_of(engine, code), node, engine, protocol, _overrides(settings),
            references=references, check=not dry_run,
        )  # fmt: skip
        _submit_or_plan(builder, "cgcnn.label", engine, dry_run=dry_run)


@main.command("learn-relax")
@click.argument("structures", metavar="STRUCTURES")
@_engine_options
@click.option(
    "-m",
    "--model",
    default="cathode-potential",
    show_default=True,
    help="The potential: pretrained name, folder, or a node's pk or uuid; none: springs.",
)
@click.option("--fmax", type=float, help="Largest force by the engine that may remain, eV/Å.  [default: 0.05]")
@click.option(
    "--max-force-std", type=float, help="Std of a force above which the engine is asked, eV/Å.  [default: 0.2]"
)
@click.option("--max-energy-std", type=float, help="The same of the energy, eV/atom.  [default: none]")
@click.option("--max-calls", type=int, help="Most labels of one structure.  [default: 100]")
@click.option("--fixed-cell", is_flag=True, help="Move the atoms only.")
@click.option(
    "--memory", multiple=True, metavar="SET", help="Labels of earlier relaxations; may be given several times."
)
@click.option(
    "--finetune-every", type=int, help="Tune the potential after so many labels, 10 or more.  [default: never]"
)
@click.option("--finetune-code", default="cgcnn-ase@localhost", show_default=True, help="The code that tunes it.")
@click.option("--dry-run", is_flag=True, help="Submit nothing; tell the first run of each structure, and conflicts.")
def learn_relax(
    structures: str,
    engine: str,
    code: str | None,
    protocol: str,
    settings: str | None,
    model: str,
    memory: tuple[str, ...],
    finetune_every: int | None,
    finetune_code: str,
    dry_run: bool,
    **limits: float | bool | None,
) -> None:
    """Relax a set or a structure (a node's pk or uuid) by DFT that is asked only where the potential does not know.

    It runs under the daemon; the work chain is cgcnn.learn_relax. Exit code 0: submitted, or nothing stands in the way;
    1: with --dry-run, a run has a conflict; 2: it cannot be run.
    """
    with _errors_as_usage():
        from aiida.orm import StructureData, load_code

        from aiida_plugin.calculations.functions.learn_step import check_memory
        from aiida_plugin.data.structures import StructureSetData, as_set
        from aiida_plugin.oracles.dft import code_of
        from aiida_plugin.workflows.learn_relax import LearnRelaxWorkChain

        node = _node(structures, (StructureSetData, StructureData), "a set (cgcnn.structures) or a StructureData")
        labels = [_node(each, StructureSetData, "labels (cgcnn.structures)") for each in memory]
        check_memory({f"memory {each.pk}": each for each in labels}, as_set(node).iter_atoms())
        builder = LearnRelaxWorkChain.get_builder_from_protocol(
            code_of(engine, code), node, _potential(model), engine, protocol, _overrides(settings),
            settings={name: value for name, value in limits.items() if value is not None}, memory=labels,
            finetune_every=finetune_every,
            finetune=None if finetune_every is None else {"code": load_code(finetune_code)},
            check=not dry_run,
        )  # fmt: skip
        _submit_or_plan(builder, "cgcnn.learn_relax", engine, dry_run=dry_run)


@contextmanager
def _errors_as_usage() -> Iterator[None]:
    """Load the profile, and end with exit code 2 and one line for what bad input or AiiDA raises."""
    from aiida.cmdline.utils.decorators import load_backend_if_not_loaded

    load_backend_if_not_loaded()
    from aiida.common.exceptions import AiidaException

    try:
        yield
    except (ValueError, OSError, AiidaException) as error:
        click.echo(f"Error: {error}", err=True)
        raise click.exceptions.Exit(2) from error


def _submit_or_plan(builder: "ProcessBuilder", name: str, engine: str, *, dry_run: bool) -> None:
    """Submit a filled builder, or tell the runs that it would start and what stands in their way."""
    from aiida.engine import submit

    from aiida_plugin.workflows.label_plan import label_plan

    if not dry_run:
        click.echo(f"submitted {name} as {submit(builder).pk}; `verdi process status PK` shows how it goes")
        return
    runs = label_plan(builder)
    bad = [run for run in runs if run.conflict is not None]
    for run in runs:
        click.echo(f"{'conflict ' if run.conflict is not None else ''}{run.describe()}")
    click.echo(f"{len(runs) - len(bad)} runs of {engine}, {len(bad)} conflicts; nothing was submitted")
    if bad:
        raise click.exceptions.Exit(1)


def _overrides(file: str | None) -> dict[str, Any]:
    from cgcnn_ase.core.yaml_settings import read_yaml

    return {} if file is None else read_yaml(Path(file))


def _node(name: str, kinds: type | tuple[type, ...], allowed: str) -> Any:
    """The node of this pk or uuid; a ValueError where it is none of the kinds."""
    from aiida.orm import load_node

    node = load_node(name)
    if not isinstance(node, kinds):
        raise ValueError(f"node {name} is a {type(node).__name__}; give {allowed}")
    return node


def _potential(name: str) -> "CGCNNModelData | str | None":
    """The model that a name, folder, pk or uuid means; None where there is to be none."""
    from aiida.common.exceptions import NotExistent

    from aiida_plugin.data.model import CGCNNModelData
    from cgcnn_ase.models.registry import model_names

    if name == "none":
        return None
    if name in model_names() or Path(name).exists():
        return name
    try:
        node: CGCNNModelData = _node(name, CGCNNModelData, "a model (cgcnn.model)")
    except NotExistent:
        return name  # whose error names the models that there are
    return node


@main.command("stability")
@click.argument("predictions", metavar="PREDICTIONS")
@click.option("--within", type=float, default=0.05, show_default=True, help="Up to here a crystal is stable, eV/atom.")
@click.option("--scale", default="mp2020", show_default=True, help="Corrections that all energies carry.")
@click.option("--phases", help="Competing phases, a node: a set with labels, or a JSON file of pymatgen's entries.")
@click.option("--leave-out", is_flag=True, help="Leave phases of a structure's own formula out of its hull.")
@click.option("--together", is_flag=True, help="Let the structures compete with each other, too.")
@click.option("--competing", help="Competing phases without known energies, a node: predictions of the same model.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the table: .csv or .json.")
def stability(
    predictions: str,
    within: float,
    scale: str,
    phases: str | None,
    leave_out: bool,
    together: bool,
    competing: str | None,
    output: Path | None,
) -> None:
    """Energy above the hull of the structures of a predictions node (pk or uuid), as one node: cgcnn.stability.

    The model is the one that the predictions come from. Exit code 0: done; 1: some structures have no row, each named
    on stderr; 2: it could not be done.
    """
    settings: dict[str, object] = {"within": within, "scale": scale, "leave_out": leave_out}
    settings |= {"together": True} if together else {}
    with _errors_as_usage():
        from aiida.orm import Dict, SinglefileData, load_node

        from aiida_plugin.calculations.functions.stability import model_of, stability, stability_problem
        from aiida_plugin.cli.data import write_table
        from aiida_plugin.data.structures import StructureSetData

        node, others = _predictions(predictions), None if competing is None else _predictions(competing)
        if problem := stability_problem(node, settings, others):
            raise ValueError(problem)
        hull = None if phases is None else load_node(phases)
        if not isinstance(hull, SinglefileData | StructureSetData | None):
            raise ValueError(f"node {phases} is a {type(hull).__name__}; give a set with labels, or a file of entries")
        result = stability(node, Dict(settings), phases=hull, model=model_of(node), competing=others)
        if output is not None:
            write_table(result, output)
    for name, reason in result.failures:
        click.echo(f"{name}: {reason}", err=True)
    facts = result.base.attributes
    click.echo(f"competing phases: {facts.get('hull_source')}; energies on the scale {scale}")
    click.echo(
        f"{facts.get('n_likely')} of {len(result)} are more likely than not within {within:g} eV/atom of the hull"
    )
    click.echo(f"node {result.pk}; `verdi data cgcnn-predictions show {result.pk}`")
    if result.failures:
        raise click.exceptions.Exit(1)


def _predictions(name: str) -> "PredictionsData":
    """The node of this pk or uuid; a ValueError where it holds no predictions."""
    from aiida_plugin.data.predictions import PredictionsData

    node: PredictionsData = _node(name, PredictionsData, "predictions (cgcnn.predictions)")
    return node


@main.command("recover")
def recover() -> None:
    """Start the daemon again after it, or the machine, was killed; every process goes on."""
    from aiida.cmdline.utils.decorators import load_backend_if_not_loaded

    from aiida_plugin.setup.recover import recover

    load_backend_if_not_loaded()
    try:
        click.echo("\n".join(recover()))
    except RuntimeError as error:
        click.echo(f"Error: {error}", err=True)
        raise click.exceptions.Exit(2) from error
