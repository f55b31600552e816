"""Networks on crystal graphs."""
