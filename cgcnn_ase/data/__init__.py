"""Structures and targets for training."""
