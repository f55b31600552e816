"""Objects of one kind by name: the package's own, and those that other installed packages register as entry points."""

import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import metadata
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Generic, TypeVar, cast

from cgcnn_ase.core.errors import unknown_name

T = TypeVar("T")
U = TypeVar("U")


def entry_points(group: str) -> tuple[EntryPoint, ...]:
    """Return those of a group, of all packages, read again only where Python's path or a folder of it has changed."""
    return _read(group, tuple((folder, _changed(folder)) for folder in sys.path))


def _changed(folder: str) -> int:
    try:
        return Path(folder).stat().st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=64)
def _read(group: str, path: tuple[tuple[str, int], ...]) -> tuple[EntryPoint, ...]:
    del path
    return tuple(metadata.entry_points(group=group))


class Registry(Generic[T]):
    """Look up objects of one kind by name; nothing is imported before it is asked for.

    Parameters
    ----------
    kind
        What the objects are, for messages: ``oracle``.
    group
        Group of entry points in which other packages register theirs.
    builtin
        The package's own, as ``module:attribute``. Their names cannot be taken by other packages.

    Examples
    --------
    >>> shapes: Registry[type] = Registry("shape", "cgcnn_ase.shapes", {"number": "numbers:Number"})
    >>> shapes.get("number")
    <class 'numbers.Number'>
    >>> @shapes.register("square")
    ... class Square: ...
    >>> shapes.names()
    ['number', 'square']
    >>> shapes.get("sqare")
    Traceback (most recent call last):
    ValueError: unknown shape 'sqare'; did you mean square? allowed: number, square
    """

    def __init__(self, kind: str, group: str, builtin: Mapping[str, str] | None = None) -> None:
        self.kind, self.group = kind, group
        self._builtin = dict(builtin or {})
        self._objects: dict[str, T] = {}  # registered
        self._loaded: dict[str, T] = {}  # from modules

    def register(self, name: str) -> Callable[[U], U]:
        """Register a function or class under a name, as a decorator.

        Raises
        ------
        ValueError
            If the name is taken.
        """
        if name in self._builtin or name in self._objects:
            raise ValueError(f"there is a {self.kind} {name!r} already")

        def keep(item: U) -> U:
            self._objects[name] = cast("T", item)
            return item

        return keep

    def names(self) -> list[str]:
        """Return all names, of this package and of others, sorted."""
        return sorted({*self._builtin, *self._objects, *self._entry_points()})

    def check(self, name: str) -> str:
        """Return the name if there is such an object, which is not loaded.

        Raises
        ------
        ValueError
            If there is none.
        """
        if name not in self._builtin and name not in self._objects and name not in self._entry_points():
            raise unknown_name(self.kind, name, self.names())
        return name

    def get(self, name: str) -> T:
        """Return the object of a name.

        Raises
        ------
        ValueError
            If there is none.
        ImportError
            If its module cannot be imported or lacks it; ``name`` is that of a module that is missing.
        """
        if name in self._objects:
            return self._objects[name]
        if name in self._loaded:
            return self._loaded[name]
        if name in self._builtin:
            entry = EntryPoint(name, self._builtin[name], self.group)
        else:
            entry = self._entry_points()[self.check(name)]
        try:
            item = cast("T", entry.load())
        except AttributeError as error:
            raise ImportError(f"{self.kind} {name!r}: {entry.value} does not exist: {error}") from error
        except ImportError as error:
            message = f"{self.kind} {name!r} ({entry.value}) cannot be imported: {error}"
            raise ImportError(message, name=error.name) from error
        self._loaded[name] = item
        return item

    def _entry_points(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=self.group)}
