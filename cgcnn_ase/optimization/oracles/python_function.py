"""A Python function as oracle, and objects that a configuration names."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pydantic import Field

from cgcnn_ase.core.settings import Settings, parse_settings
from cgcnn_ase.optimization.oracles.base import Evaluation, OracleError
from cgcnn_ase.optimization.space.variables import Point

if TYPE_CHECKING:
    from ase import Atoms


class FunctionSettings(Settings):
    """Options of ``callable``."""

    function: str
    parameters: dict[str, object] = Field(default_factory=dict)
    references: dict[str, float] | None = None


def load_named(name: str, folder: Path, setting: str) -> Callable[..., Any]:
    """Load ``module:attribute`` of a module that can be imported, or ``file.py:attribute`` of a file in `folder`.

    `setting` says where the name stands, for the message of the ValueError if there is none.
    """
    where, _, attribute = name.rpartition(":")
    if not where or not attribute:
        raise ValueError(f"{setting} {name!r}: give module:name or file.py:name")
    module = _from_file(folder / where, setting) if where.endswith(".py") else _imported(where, setting)
    loaded: Callable[..., Any] | None = getattr(module, attribute, None)
    if loaded is None or not callable(loaded):
        raise ValueError(f"{setting} {name!r}: {where} has no function or class {attribute}")
    return loaded


def _imported(where: str, setting: str) -> ModuleType:
    try:
        return import_module(where)
    except ModuleNotFoundError as error:
        if error.name is not None and (where == error.name or where.startswith(f"{error.name}.")):
            raise ValueError(f"{setting}: there is no module {where}") from error
        raise


def _from_file(file: Path, setting: str) -> ModuleType:
    if not file.is_file():
        raise ValueError(f"{setting}: there is no file {file}")
    name = f"cgcnn_ase_oracle_{file.stem}"
    spec = spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class FunctionOracle:
    """Asks ``function(point, atoms, **parameters)``.

    The function returns an :class:`Evaluation`, or values by name, or two mappings: values and standard deviations.
    """

    name = "callable"

    def __init__(self, settings: FunctionSettings, folder: Path) -> None:
        self.references: Mapping[str, float] | None = settings.references
        self._settings = settings
        self._function = load_named(settings.function, folder, "oracle.function")

    def describe(self) -> dict[str, object]:
        """Return the function's name and its parameters."""
        what = f"the function {self._settings.function}"
        return {"name": self.name, "what": what, "parameters": self._settings.parameters}

    def evaluate(self, point: Point, atoms: "Atoms | None") -> Evaluation:
        """Return what the function says; an error where it is anything else than it should."""
        reply = self._function(dict(point), atoms, **self._settings.parameters)
        if isinstance(reply, Evaluation):
            return reply
        values, stds = reply if isinstance(reply, tuple) and len(reply) == 2 else (reply, {})
        if not isinstance(values, Mapping) or not isinstance(stds, Mapping):
            raise OracleError(f"{self._settings.function} returned {reply!r}, not values by name")
        return Evaluation(values, stds)


def function_oracle(options: Mapping[str, object], *, folder: Path) -> FunctionOracle:
    """Make ``callable``, with ``function: module:name`` or ``file.py:name``, and ``parameters``."""
    return FunctionOracle(parse_settings(FunctionSettings, options, "oracle"), folder)
