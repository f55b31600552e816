"""Recipes and data of the pretrained models; nothing outside this package imports it."""
