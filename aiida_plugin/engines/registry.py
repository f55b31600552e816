"""Engines by name: this package's own and those of other packages, entry points of the group ``cgcnn.engines``."""

from collections.abc import Iterator
from typing import Any

from aiida_plugin.engines.base import Engine
from cgcnn_ase.core.errors import install_line
from cgcnn_ase.core.registry import Registry

ENGINES: Registry[type[Engine[Any]]] = Registry("engine", "cgcnn.engines")


def engine_names() -> list[str]:
    """Return the names that `engine` takes."""
    return ENGINES.names()


def engine(name: str) -> Engine[Any]:
    """Return the engine of a name; a ValueError if there is none, or a package that it needs is not installed."""
    try:
        return ENGINES.get(name)()
    except ImportError as error:
        raise ValueError(f"engine {name!r} needs {error.name or error}: {install_line('dft')}") from error


def engines() -> Iterator[Engine[Any]]:
    """Yield all engines; raises as `engine`."""
    return map(engine, engine_names())
