"""Reference data of the Materials Project, through its own client."""

from cgcnn_ase.sources.materials_project.client import MaterialsProject

__all__ = ["MaterialsProject"]
