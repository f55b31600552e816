"""Calculation jobs."""
