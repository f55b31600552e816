"""Point defects: make them, and predict their energies."""

from importlib import import_module

_HOMES = {
    "Defect": "cgcnn_ase.defects.plan",
    "DefectCost": "cgcnn_ase.defects.costs",
    "Manifest": "cgcnn_ase.defects.plan",
    "Ranking": "cgcnn_ase.defects.screening",
    "Relaxation": "cgcnn_ase.defects.costs",
    "Screening": "cgcnn_ase.defects.screening",
    "cost_estimate": "cgcnn_ase.defects.costs",
    "defect_formation_energy": "cgcnn_ase.defects.supercell_energy",
    "point_defects": "cgcnn_ase.defects.point",
    "pristine_supercell": "cgcnn_ase.defects.dft_folder",
    "random_vacancies": "cgcnn_ase.defects.generate",
    "screen": "cgcnn_ase.defects.screening",
    "screen_hosts": "cgcnn_ase.defects.screening",
    "write_dft_folder": "cgcnn_ase.defects.dft_folder",
    "write_pristine_folders": "cgcnn_ase.defects.dft_folder",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    """Import a public name on first use."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names, those not imported yet too."""
    return sorted({*globals(), *__all__})
