"""Oracles by name: this package's own, and those that others register as entry points."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from cgcnn_ase.core.settings import unknown_name
from cgcnn_ase.optimization.oracles.base import Oracle
from cgcnn_ase.optimization.oracles.calculators import ase_oracle, chgnet_oracle
from cgcnn_ase.optimization.oracles.graph_model import model_oracle
from cgcnn_ase.optimization.oracles.python_function import function_oracle
from cgcnn_ase.optimization.oracles.table import table_oracle

#: entry points of this group are factories: ``factory(options, *, folder) -> Oracle``
GROUP = "cgcnn_ase.oracles"

OracleFactory = Callable[..., Oracle]

BUILTIN_ORACLES: dict[str, OracleFactory] = {
    "ase": ase_oracle,
    "callable": function_oracle,
    "chgnet": chgnet_oracle,
    "model": model_oracle,
    "table": table_oracle,
}


@dataclass(frozen=True)
class OracleRecipe:
    """What an oracle is made of, here or in another process."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = Path()

    def as_json(self) -> str:
        """As text."""
        folder = str(self.folder.resolve())
        return json.dumps({"name": self.name, "options": dict(self.options), "folder": folder}, sort_keys=True)


def oracle_names() -> list[str]:
    """All names, of this package and of others."""
    return sorted({*BUILTIN_ORACLES, *(point.name for point in entry_points(group=GROUP))})


def make_oracle(name: str, options: Mapping[str, Any] | None = None, *, folder: Path | None = None) -> Oracle:
    """The oracle with a name.

    Parameters
    ----------
    name
        ``chgnet``, ``ase``, ``callable``, ``model``, ``table``, or what another installed package registers in the
        group ``cgcnn_ase.oracles``.
    options
        Its settings.
    folder
        Where files that the options name are looked for; the current folder by default.

    Raises
    ------
    ValueError
        If there is none of this name, or an option is unknown.
    """
    factory = BUILTIN_ORACLES.get(name)
    if factory is None:
        others = {point.name: point for point in entry_points(group=GROUP)}
        if name not in others:
            raise unknown_name("oracle", name, oracle_names())
        factory = others[name].load()
    made: Oracle = factory(dict(options or {}), folder=folder or Path())
    return made
