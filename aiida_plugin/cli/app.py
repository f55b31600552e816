"""``aiida-cgcnn``: the plugin's own commands. Nothing heavy is imported until a command runs."""

import click
from aiida.cmdline.groups import VerdiCommandGroup
from aiida.cmdline.params import options, types

from aiida_plugin.cli.provenance import provenance


@click.group("aiida-cgcnn", cls=VerdiCommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@options.PROFILE(type=types.ProfileParamType(load_profile=True), expose_value=False)
def main() -> None:
    """cgcnn-ase inside AiiDA."""


for command in (provenance,):
    main.add_command(command)
