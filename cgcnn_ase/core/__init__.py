"""Foundations of every room: elements, targets, settings, errors, parallel workers, the cache folder."""
