"""Surrogates: what predicts the objectives of points that have not been evaluated."""
