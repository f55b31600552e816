"""Jobs and calcfunctions: prediction, training, ASE calculators, defects, fetching."""
