"""The command line: one file a command, each a thin mirror of one Python function."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line: exit code 0 all done, 1 some structures failed, 2 usage or unreadable input."""
    try:
        from cgcnn_ase.cli.app import app
        from cgcnn_ase.cli.command import PROCESS

        PROCESS.runs_one_command = True
        app()
    except KeyboardInterrupt:  # during the imports; a command says what it has done
        sys.exit(130)
