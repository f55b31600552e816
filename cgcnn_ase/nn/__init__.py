"""Architectures, one a file, their layers, and the two engines that pass messages."""
