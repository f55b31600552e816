"""DFT as oracle of an optimisation: ``oracle: gpaw`` and its like, each evaluation a node of AiiDA's graph.

An oracle is made of every engine, of this package and of others, by its name.
"""

from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from cgcnn_ase.core.errors import install_line
from cgcnn_ase.core.registry import entry_points

if TYPE_CHECKING:
    from aiida_plugin.oracles.dft import DFTOracle


def __getattr__(engine: str) -> "Callable[..., DFTOracle]":
    """Make the factory of an engine's oracle, whose options are :class:`aiida_plugin.oracles.dft.DFTSettings`."""
    if engine.startswith("_") or engine not in (point.name for point in entry_points(group="cgcnn.engines")):
        raise AttributeError(f"module {__name__!r} has no attribute {engine!r}")
    return partial(_oracle, engine)


def _oracle(engine: str, options: Mapping[str, object], *, folder: Path) -> "DFTOracle":
    del folder
    if find_spec("aiida") is None:
        raise ImportError(f"oracle {engine} runs through AiiDA: {install_line('aiida,dft')}")
    from aiida_plugin.oracles.dft import DFTOracle, DFTSettings
    from cgcnn_ase.core.settings import parse_settings

    return DFTOracle(engine, parse_settings(DFTSettings, options, "oracle"))
