"""Parsers of what the calculation jobs leave."""
