"""Fixtures for the tests of pictures."""

import pytest


@pytest.fixture(autouse=True)
def _all_are_drawn(pictures, monkeypatch):
    monkeypatch.setattr(pictures, "all", True)
