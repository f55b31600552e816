"""Reference data of every provider that speaks OPTIMADE."""

from cgcnn_ase.data.optimade.client import Optimade

__all__ = ["Optimade"]
