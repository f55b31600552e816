"""Point defects and cathode materials: make them, find them, and predict what they cost."""

from importlib import import_module
from typing import Any

_HOMES = {
    "Defect": "plan",
    "DefectCost": "costs",
    "Manifest": "manifest",
    "Ranking": "screening",
    "Screening": "screening",
    "as_energy_model": "energy_models",
    "average_voltage": "voltage",
    "build_cathode": "cathodes.build",
    "cost_estimate": "costs",
    "defect_formation_energy": "supercell_energy",
    "point_defects": "point",
    "random_vacancies": "augmentation",
    "screen": "screening",
    "screen_hosts": "screening",
    "voltage_curve": "voltage",
    "write_dft_folder": "dft_folders",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
