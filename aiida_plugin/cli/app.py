"""``aiida-cgcnn``: what this package adds to ``verdi``. Nothing heavy is imported here."""

import json
from dataclasses import asdict

import click


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
    from contextlib import nullcontext

    from aiida_plugin.setup.untouched import without_traces

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
