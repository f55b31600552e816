"""A Python function as oracle."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgcnn_ase.active.oracles.loading import load_named
from cgcnn_ase.active.oracles.oracle import Evaluation, OracleError
from cgcnn_ase.active.oracles.settings import FunctionSettings, settings_of

if TYPE_CHECKING:
    from ase import Atoms

    from cgcnn_ase.active.variables import Point


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
        said = self._function(dict(point), atoms, **self._settings.parameters)
        if isinstance(said, Evaluation):
            return said
        values, stds = said if isinstance(said, tuple) and len(said) == 2 else (said, {})
        if not isinstance(values, Mapping) or not isinstance(stds, Mapping):
            raise OracleError(f"{self._settings.function} returned {said!r}, not values by name")
        return Evaluation(values, stds)


def function_oracle(options: Mapping[str, Any], *, folder: Path) -> FunctionOracle:
    """``callable``, with ``function: module:name`` or ``file.py:name``, and ``parameters``."""
    return FunctionOracle(settings_of(FunctionSettings, options, "oracle"), folder)
