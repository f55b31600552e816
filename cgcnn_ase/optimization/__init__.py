"""Which candidates to compute next."""
