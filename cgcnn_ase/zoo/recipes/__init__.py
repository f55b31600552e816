"""YAML recipes of the pretrained models."""
