"""Active learning and Bayesian optimisation: spaces, surrogates, acquisitions, oracles, run folders."""
