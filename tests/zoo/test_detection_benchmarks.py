"""The benchmarks of the detection of defects: their tables and figures say what was measured."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_the_table_shows_the_mean_of_several_runs():
    import defect_detection

    rows = [
        {"kind": "vacancy", "cell": 6, "pooling": "max", "seed": k, "test": {"accuracy": a, "n": 100}}
        for k, a in enumerate((80.0, 100.0))
    ]
    rows.append({"kind": "all", "cell": 6, "pooling": "mean", "seed": 0, "test": {"accuracy": 50.0, "n": 400}})
    (table,) = defect_detection.tables({"rows": rows})
    by_kind = {row["defect"]: row for row in table.records()}
    assert by_kind["vacancy"] == {
        "defect": "vacancy",
        "published, max": "91.8",
        "mean": None,
        "max": "90.0 ± 3.0 (2 runs)",
    }
    assert by_kind["all"]["mean"] == "50.0 ± 2.5"


def test_the_shift_is_in_units_of_the_spread_over_hosts():
    import defect_dilution

    perfect = torch.tensor([[0.0, 0.0], [2.0, 0.0]]).double()  # a variance of 2
    pooled = torch.stack([perfect + torch.tensor([0.0, 4.0]), perfect], dim=1).reshape(4, 2)
    assert defect_dilution.moved(pooled) == pytest.approx([4 / 2**0.5] * 2)


@pytest.mark.slow
def test_the_record_of_the_dilution():
    """By a mean a vacancy shifts the vector as 1/N, by a maximum the same in any cell but the smallest."""
    rows = json.loads((BENCHMARKS.parent / "docs" / "data" / "defect_dilution.json").read_text())["rows"]
    by_pooling = {name: [row for row in rows if row["pooling"] == name] for name in ("mean", "max")}
    product = [row["distance"] * row["atoms"] for row in by_pooling["mean"]]
    assert np.ptp(product) < 0.1 * np.mean(product)
    assert np.ptp([row["distance"] for row in by_pooling["max"][1:]]) < 0.01


@pytest.mark.slow
def test_the_table_can_be_remade(shared_data, tmp_path):
    command = [sys.executable, "defect_detection.py", "--quick", "--kinds", "vacancy", "--cells", "2"]
    command += ["--poolings", "contrast", "--data", str(shared_data), "--output", str(tmp_path / "found.json")]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert (row["kind"], row["cell"], row["pooling"]) == ("vacancy", 2, "contrast")
    assert 0 <= row["test"]["accuracy"] <= 100
