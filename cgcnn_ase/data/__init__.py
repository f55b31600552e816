"""Data sets on disk, their splits, and the graphs that training reads."""
