"""Crystal-graph property prediction with calibrated uncertainty."""
