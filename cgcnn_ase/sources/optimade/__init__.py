"""Reference data of every provider that speaks OPTIMADE."""

from cgcnn_ase.sources.optimade.client import Optimade

__all__ = ["Optimade"]
