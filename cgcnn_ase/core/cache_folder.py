"""Where this package keeps what it need not compute or fetch twice."""

import os
from pathlib import Path


def default_cache_folder() -> Path:
    """``$CGCNN_ASE_CACHE``, or ``cgcnn-ase`` in the user's cache folder."""
    if folder := os.environ.get("CGCNN_ASE_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cgcnn-ase"
