"""Calculation functions: the steps that leave one node each in the provenance graph."""
