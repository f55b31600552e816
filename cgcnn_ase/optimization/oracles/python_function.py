"""A Python function as oracle."""

import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from cgcnn_ase.core.settings import Settings, parse_settings
from cgcnn_ase.optimization.records import Evaluation, OracleError

if TYPE_CHECKING:
    from ase import Atoms

    from cgcnn_ase.optimization.space.variables import Point


class FunctionSettings(Settings):
    """Of ``callable``."""

    function: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    references: dict[str, float] | None = None


def load_named(name: str, folder: Path, setting: str) -> Any:
    """The object with a name.

    Parameters
    ----------
    name
        ``module:attribute`` of a module that can be imported, or ``file.py:attribute``.
    folder
        Where a file is looked for: that of the configuration.
    setting
        Where the name stands, for messages.

    Raises
    ------
    ValueError
        If there is no such module, file or attribute, or it cannot be called.
    """
    where, _, attribute = name.rpartition(":")
    if not where or not attribute:
        raise ValueError(f"{setting} {name!r}: give module:name or file.py:name")
    module = _from_file(folder / where, setting) if where.endswith(".py") else _imported(where, setting)
    loaded = getattr(module, attribute, None)
    if not callable(loaded):
        raise ValueError(f"{setting} {name!r}: {where} has no function or class {attribute}")
    return loaded


def _imported(where: str, setting: str) -> Any:
    try:
        return import_module(where)
    except ModuleNotFoundError as error:
        if error.name is not None and (where == error.name or where.startswith(f"{error.name}.")):
            raise ValueError(f"{setting}: there is no module {where}") from error
        raise


def _from_file(file: Path, setting: str) -> Any:
    if not file.is_file():
        raise ValueError(f"{setting}: there is no file {file}")
    name = f"cgcnn_ase_oracle_{file.stem}"
    spec = spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class FunctionOracle:
    """Asks ``function(point, atoms, **parameters)``.

    The function returns an :class:`Evaluation`, or values by name, or two mappings: values and standard deviations.
    """

    def __init__(self, settings: FunctionSettings, folder: Path) -> None:
        self.name = "callable"
        self.references: Mapping[str, float] | None = settings.references
        self._settings = settings
        self._function = load_named(settings.function, folder, "oracle.function")

    def describe(self) -> dict[str, Any]:
        """The function's name and its parameters."""
        what = f"the function {self._settings.function}"
        return {"name": self.name, "what": what, "parameters": self._settings.parameters}

    def evaluate(self, point: "Point", atoms: "Atoms | None") -> Evaluation:
        """What the function says.

        Raises
        ------
        OracleError
            If it returns anything else than it should.
        """
        reply = self._function(dict(point), atoms, **self._settings.parameters)
        if isinstance(reply, Evaluation):
            return reply
        values, stds = reply if isinstance(reply, tuple) and len(reply) == 2 else (reply, {})
        if not isinstance(values, Mapping) or not isinstance(stds, Mapping):
            raise OracleError(f"{self._settings.function} returned {reply!r}, not values by name")
        return Evaluation(values, stds)


def function_oracle(options: Mapping[str, Any], *, folder: Path) -> FunctionOracle:
    """``callable``, with ``function: module:name`` or ``file.py:name``, and ``parameters``."""
    return FunctionOracle(parse_settings(FunctionSettings, options, "oracle"), folder)
