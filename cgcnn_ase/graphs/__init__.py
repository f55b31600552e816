"""Crystals as graphs: atoms are nodes, bonds are directed edges."""

from cgcnn_ase.graphs.builder import GraphConfig, build_graph, build_graphs
from cgcnn_ase.graphs.crystal_graph import CrystalGraph, batch, unbatch

__all__ = ["CrystalGraph", "GraphConfig", "batch", "build_graph", "build_graphs", "unbatch"]
