"""Protocols of the DFT runs: fast, balanced, stringent; what all engines share, and what each adds."""

from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any

import yaml

DEFAULT_PROTOCOL = "balanced"


def protocol_names() -> tuple[str, ...]:
    """The protocols, from the cheapest."""
    return tuple(_read("common")["protocols"])


def resolve(
    engine: str, protocol: str = DEFAULT_PROTOCOL, overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The settings of an engine's runs: shared ones, the engine's own, then the overrides, each over those before.

    Parameters
    ----------
    engine
        Its name; its own settings are those of ``protocols/<engine>.yaml``.
    protocol
        fast (to try things; not converged), balanced (to compare defects), or stringent (to publish).
    overrides
        Settings by name, nested as in the YAML files.

    Raises
    ------
    ValueError
        If there is no such protocol, or an override names no setting.
    """
    shared, engine_settings = _read("common"), _read(engine)
    if protocol not in shared["protocols"]:
        raise ValueError(f"no protocol {protocol!r}; allowed: {', '.join(shared['protocols'])}")
    settings: dict[str, Any] = {}
    for layer in (
        shared["default"],
        engine_settings["default"],
        shared["protocols"][protocol],
        engine_settings["protocols"].get(protocol),
    ):
        settings = _merge(settings, layer or {})
    open_keys = {*shared.get("open", ()), *engine_settings.get("open", ())}
    _check(settings, overrides or {}, open_keys)
    return _merge(settings, overrides or {})


@lru_cache
def _read(name: str) -> dict[str, Any]:
    text = files("aiida_plugin.engines").joinpath("protocols", f"{name}.yaml").read_text(encoding="utf-8")
    result: dict[str, Any] = yaml.safe_load(text)
    return result


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings with others over them."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _check(settings: Mapping[str, Any], overrides: Mapping[str, Any], open_keys: set[str], path: str = "") -> None:
    """Refuse overrides of what is no setting; below a key in ``open_keys`` anything goes (elements, input blocks)."""
    for key, value in overrides.items():
        if key not in settings:
            raise ValueError(f"no setting {path}{key}; allowed: {', '.join(f'{path}{name}' for name in settings)}")
        if isinstance(settings[key], Mapping) and f"{path}{key}" not in open_keys:
            if not isinstance(value, Mapping):
                raise ValueError(f"setting {path}{key} holds several: {', '.join(settings[key])}")
            _check(settings[key], value, open_keys, f"{path}{key}.")
