"""Fixtures for all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of shared data sets, ``../shared/data`` or CGCNN_ASE_SHARED; without one the test is skipped."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("CGCNN_ASE_SHARED", default))
    if not folder.is_dir():
        pytest.skip(f"no shared data sets in {folder} (set CGCNN_ASE_SHARED)")
    return folder
