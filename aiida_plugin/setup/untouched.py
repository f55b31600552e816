"""A look at AiiDA that leaves no trace; nothing of AiiDA is imported here."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

_PATH = "AIIDA_PATH"


@contextmanager
def without_traces() -> Iterator[None]:
    """Keep the import of AiiDA from making its configuration folder.

    Where there is none, it is made in a temporary folder within the block.
    """
    if "aiida" in sys.modules or has_configuration():
        yield
        return
    before = os.environ.get(_PATH)
    with TemporaryDirectory(prefix="aiida-cgcnn-check-") as folder:
        os.environ[_PATH] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ[_PATH]
            else:
                os.environ[_PATH] = before


def has_configuration() -> bool:
    """Tell whether there is a configuration of AiiDA where it will look for one."""
    paths = [Path(path).expanduser() for path in os.environ.get(_PATH, "~").split(os.pathsep) if path]
    folders = [path if path.name == ".aiida" else path / ".aiida" for path in paths]
    return any((folder / "config.json").is_file() for folder in folders)
