"""Point defects and cathode materials: make them, find them, and predict what they cost."""

from importlib import import_module
from typing import Any

_HOMES = {
    "Defect": "cgcnn_ase.defects.plan",
    "DefectCost": "cgcnn_ase.defects.costs",
    "Manifest": "cgcnn_ase.defects.manifest",
    "Ranking": "cgcnn_ase.defects.screening",
    "Screening": "cgcnn_ase.defects.screening",
    "as_energy_model": "cgcnn_ase.energies.energy_model",
    "average_voltage": "cgcnn_ase.cathodes.voltage",
    "build_cathode": "cgcnn_ase.cathodes.build",
    "cost_estimate": "cgcnn_ase.defects.costs",
    "defect_formation_energy": "cgcnn_ase.defects.supercell_energy",
    "point_defects": "cgcnn_ase.defects.point",
    "random_vacancies": "cgcnn_ase.defects.augmentation",
    "screen": "cgcnn_ase.defects.screening",
    "screen_hosts": "cgcnn_ase.defects.screening",
    "voltage_curve": "cgcnn_ase.cathodes.voltage",
    "write_dft_folder": "cgcnn_ase.defects.dft_folders",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
