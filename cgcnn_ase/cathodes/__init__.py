"""Cathode materials: layered oxides and their mixtures, olivine, spinel and lithium-rich, and their voltages."""

from cgcnn_ase.cathodes.build import build_cathode, cathode_ids, cathodes
from cgcnn_ase.cathodes.composition import parse_cathode
from cgcnn_ase.cathodes.lattices import cathode_names
from cgcnn_ase.cathodes.voltage import average_voltage, voltage_curve

__all__ = [
    "average_voltage",
    "build_cathode",
    "cathode_ids",
    "cathode_names",
    "cathodes",
    "parse_cathode",
    "voltage_curve",
]
