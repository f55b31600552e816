"""DFT codes behind one small interface, one file a code."""
