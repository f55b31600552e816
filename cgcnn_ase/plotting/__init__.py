"""Pictures of predictions, of their uncertainty and of data sets."""
