"""Protocols of the DFT runs: fast, balanced, stringent; what all engines share, and what each adds."""

import inspect
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from aiida_plugin.engines.base import Inputs
from aiida_plugin.engines.base import engine as engine_of
from cgcnn_ase.core.yaml_settings import merged, read_yaml

DEFAULT_PROTOCOL = "balanced"
_COMMON = Path(__file__).with_name("common.yaml")


def protocol_names() -> tuple[str, ...]:
    """Return the names of the protocols, from the cheapest."""
    return tuple(_read(_COMMON)["protocols"])


def resolve(engine: str, protocol: str = DEFAULT_PROTOCOL, overrides: Mapping[str, Any] | None = None) -> Inputs:
    """Merge the settings of an engine's runs: shared ones, the engine's own, then the overrides, each over the last.

    Parameters
    ----------
    engine
        Its name; its own settings are in the YAML file beside its module.
    protocol
        fast (to try things; not converged), balanced (to compare defects), or stringent (to publish).
    overrides
        Settings by name, nested as in the YAML files; one that names no setting is a ValueError.
    """
    shared, special = _read(_COMMON), _read(Path(inspect.getfile(type(engine_of(engine)))).with_suffix(".yaml"))
    if protocol not in shared["protocols"]:
        raise ValueError(f"no protocol {protocol!r}; allowed: {', '.join(shared['protocols'])}")
    chosen = [part.get("protocols", {}).get(protocol, {}) for part in (shared, special)]
    settings = merged(shared["default"], special.get("default", {}), *chosen)
    _check(settings, overrides or {}, {*shared.get("open", ()), *special.get("open", ())})
    resolved = merged(settings, overrides or {})
    if any((overrides or {}).get("hubbard_u", {}).values()) and not resolved["hubbard"]:
        raise ValueError(
            f"hubbard_u is set, but hubbard is false (protocol {protocol}), so that it would not be used; set hubbard: "
            "true, or leave hubbard_u out"
        )
    return resolved


def shared_default(name: str) -> Any:
    """Return the default of a setting that all engines share; settings of an earlier version may lack it."""
    return _read(_COMMON)["default"][name]


@lru_cache
def _read(file: Path) -> Inputs:
    return read_yaml(file)


def _check(settings: Inputs, overrides: Mapping[str, Any], open_keys: set[str], path: str = "") -> None:
    """Refuse overrides of what is no setting; below a key in ``open_keys`` anything goes (elements, input blocks)."""
    for key, value in overrides.items():
        if key not in settings:
            raise ValueError(f"no setting {path}{key}; allowed: {', '.join(f'{path}{name}' for name in settings)}")
        if isinstance(settings[key], Mapping) and f"{path}{key}" not in open_keys:
            if not isinstance(value, Mapping):
                raise ValueError(f"setting {path}{key} holds several: {', '.join(settings[key])}")
            _check(settings[key], value, open_keys, f"{path}{key}.")
