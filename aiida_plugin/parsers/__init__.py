"""Parsers of the files that a job leaves."""
