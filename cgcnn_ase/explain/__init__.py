"""Explanations of a prediction: shares of atoms, elements and distances, and the training crystals next to it."""
