"""``aiida-cgcnn``: what this package adds to ``verdi``."""

from importlib import import_module

import click

#: command -> where it is; imported when it is asked for
_COMMANDS = {
    "provenance": "aiida_plugin.cli.provenance:provenance",
    "recover": "aiida_plugin.cli.recover:recover",
    "setup": "aiida_plugin.cli.setup:setup",
}


class _Lazy(click.Group):
    """Imports a command when it runs or shows its help."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command


@click.group("aiida-cgcnn", cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """cgcnn-ase in AiiDA: set-up, provenance, and going on after a crash."""
