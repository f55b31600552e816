"""Predictions with calibrated uncertainty, from structures or files, and their evaluation against known values."""
