"""Cathode materials: layered oxides and their mixtures, olivine, spinel and lithium-rich, from published structures."""

from cgcnn_ase.cathodes.build import build_cathode, cathode_ids, cathodes
from cgcnn_ase.cathodes.composition import parse_cathode
from cgcnn_ase.cathodes.lattices import cathode_names

__all__ = ["build_cathode", "cathode_ids", "cathode_names", "cathodes", "parse_cathode"]
