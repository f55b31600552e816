"""Clients of reference data: the Materials Project, OPTIMADE; units, page cache, fetching into a folder."""
