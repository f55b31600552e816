"""The servers that examples, benchmarks and tests share; they stand beside the examples, as those run without tests."""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "servers"


def server_module(name: str) -> ModuleType:
    """A module of that folder, by its name."""
    sys.path.insert(0, str(FOLDER))
    try:
        return import_module(name)
    finally:
        sys.path.remove(str(FOLDER))
