"""Point defects and cathode materials: make them, find them, and predict what they cost."""
