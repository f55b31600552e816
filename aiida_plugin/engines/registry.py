"""Engines by name."""

from importlib import import_module

from aiida_plugin.engines.base import Engine

#: where each engine's class is; imported when it is asked for, as each needs its own plugin
_ENGINES = {
    "gpaw": "aiida_plugin.engines.gpaw:GPAWEngine",
    "quantumespresso": "aiida_plugin.engines.quantumespresso:QuantumEspressoEngine",
    "cp2k": "aiida_plugin.engines.cp2k:CP2KEngine",
    "vasp": "aiida_plugin.engines.vasp:VASPEngine",
    "ase": "aiida_plugin.engines.ase:ASEEngine",
}


def engine_names() -> tuple[str, ...]:
    """The names that `engine` takes."""
    return tuple(_ENGINES)


def engine(name: str) -> Engine:
    """The engine of a name.

    Raises
    ------
    ValueError
        If there is none of that name, or the AiiDA plugin that it needs is not installed.
    """
    if name not in _ENGINES:
        raise ValueError(f"no engine {name!r}; allowed: {', '.join(_ENGINES)}")
    module, _, cls = _ENGINES[name].partition(":")
    try:
        made: Engine = getattr(import_module(module), cls)()
    except ModuleNotFoundError as error:
        raise ValueError(f'engine {name!r} needs {error.name}: pip install "cgcnn-ase[dft]"') from error
    return made
