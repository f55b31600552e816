"""What an engine with its settings is, in words that stand in every output of an optimisation."""

from collections.abc import Mapping
from typing import Any

_TITLES = {"gpaw": "GPAW", "quantumespresso": "Quantum ESPRESSO", "cp2k": "CP2K", "vasp": "VASP"}


def engine_in_words(engine: str, version: str | None, protocol: str, settings: Mapping[str, Any]) -> str:
    """Such as ``GPAW 26.7.0 (PBE+U, plane waves 500 eV, protocol balanced) through AiiDA``.

    Parameters
    ----------
    engine
        Its name.
    version
        Where it is known before a run.
    protocol, settings
        The protocol's name, and the settings that it and the overrides give.
    """
    if engine == "ase":
        return f"the ASE calculator {settings['calculator']} through AiiDA"
    title = _TITLES[engine] + (f" {version}" if version else "")
    parts = [_functional(settings), *_basis(engine, settings), f"protocol {protocol}"]
    if settings["relax"]:
        parts.append(f"positions relaxed to {settings['fmax']:g} eV/Å")
    return f"{title} ({', '.join(parts)}) through AiiDA"


def _functional(settings: Mapping[str, Any]) -> str:
    return str(settings["functional"]) + ("+U" if settings["hubbard"] and settings["hubbard_u"] else "")


def _basis(engine: str, settings: Mapping[str, Any]) -> list[str]:
    if engine == "cp2k":
        return [str(settings["basis_set"])]
    cutoff = settings["cutoff" if engine == "gpaw" else "cutoff_wavefunctions"]
    return ["plane waves" if cutoff is None else f"plane waves {float(cutoff):g} eV"]
