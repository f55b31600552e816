"""Trained models: loading, saving, the registry of pretrained ones, the original CGCNN's weights."""
