"""DFT codes, each behind the same small interface."""
