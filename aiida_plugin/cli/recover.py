"""``aiida-cgcnn recover``: the daemon after a crash. Nothing heavy is imported here."""

import click
from aiida.cmdline.utils import decorators, echo


@click.command("recover")
@decorators.with_dbenv()
def recover() -> None:
    """Start the daemon again after it, or the machine, was killed; every process goes on."""
    from aiida_plugin.provenance import recover as tools

    try:
        for line in tools.recover():
            echo.echo(line)
    except RuntimeError as error:
        echo.echo_error(str(error))
        raise click.exceptions.Exit(2) from error


if __name__ == "__main__":
    recover()
