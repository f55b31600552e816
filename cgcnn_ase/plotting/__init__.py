"""Pictures of predictions and of data sets."""
