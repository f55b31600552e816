"""The command line: one file a command, each a thin mirror of one Python function."""

from cgcnn_ase.cli.app import main

__all__ = ["main"]
