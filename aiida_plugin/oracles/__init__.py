"""DFT as oracle of an optimisation: ``oracle: gpaw`` and its like, each evaluation a node of AiiDA's graph.

The factories stand behind the entry points of the group ``cgcnn_ase.oracles``.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiida_plugin.oracles.dft import DFTOracle


def gpaw(options: Mapping[str, Any], *, folder: Path) -> "DFTOracle":
    """``gpaw``; the options are those of :class:`aiida_plugin.oracles.dft.DFTSettings`."""
    del folder
    return _made("gpaw", options)


def quantumespresso(options: Mapping[str, Any], *, folder: Path) -> "DFTOracle":
    """``quantumespresso``; options as of `gpaw`."""
    del folder
    return _made("quantumespresso", options)


def cp2k(options: Mapping[str, Any], *, folder: Path) -> "DFTOracle":
    """``cp2k``; options as of `gpaw`."""
    del folder
    return _made("cp2k", options)


def vasp(options: Mapping[str, Any], *, folder: Path) -> "DFTOracle":
    """``vasp``; options as of `gpaw`, and ``code`` must be named."""
    del folder
    return _made("vasp", options)


def _made(engine: str, options: Mapping[str, Any]) -> "DFTOracle":
    if find_spec("aiida") is None:
        raise ImportError(f'oracle {engine} runs through AiiDA: pip install "cgcnn-ase[aiida,dft]"')
    from aiida_plugin.oracles.dft import DFTOracle, DFTSettings
    from cgcnn_ase.core.settings import parse_settings

    return DFTOracle(engine, parse_settings(DFTSettings, options, "oracle"))
