"""Bayesian optimisation: the candidates to compute next, and the loop that computes them."""
