"""``aiida-cgcnn``: what this package adds to ``verdi``."""

from importlib import import_module

import click

_COMMANDS = {"provenance": "provenance", "recover": "setup", "setup": "setup"}  # -> module, imported when asked for


class _Lazy(click.Group):
    """Imports a command when it runs or shows its help."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"aiida_plugin.cli.{_COMMANDS[cmd_name]}"), cmd_name)
        return command


@click.group("aiida-cgcnn", cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """cgcnn-ase in AiiDA: set-up, provenance, and going on after a crash."""
