"""k-fold cross-validation."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from cgcnn_ase.graphs.crystal_graph import composition
from cgcnn_ase.training.fit import cross_validate, k_splits


def test_each_structure_is_tested_once_and_never_beside_its_like(data):
    splits = k_splits(data, 4, seed=2)
    tested, chosen = np.stack([s == "test" for s in splits]), np.stack([s == "val" for s in splits])
    assert (tested.sum(axis=0) == 1).all()
    assert (chosen.sum(axis=0) == 1).all()
    fractions = composition(data.graphs.batch(range(len(data.ids)))).numpy()
    alike = np.abs(fractions[:, None] - fractions[None]).max(axis=2) < 1e-4
    fold = tested.argmax(axis=0)
    assert alike.sum() > len(fold)
    assert (fold[:, None] == fold[None])[alike].all()


def test_figures_are_those_of_the_folds(data, tiny, tmp_path):
    result = cross_validate(data, tiny(epochs=2), tmp_path, 3, progress=False)
    folds = [json.loads((tmp_path / f"fold-{i}" / "metrics.json").read_text())["test"]["mae"] for i in range(3)]
    assert result["mae"]["folds"] == folds
    assert result["mae"]["mean"] == pytest.approx(np.mean(folds))
    assert result["mae"]["std"] == pytest.approx(np.std(folds, ddof=1))
    saved = json.loads((tmp_path / "cross_validation.json").read_text())
    assert saved.pop("k") == 3
    assert saved == result


@pytest.mark.parametrize("k", [2, 10_000])
def test_numbers_of_folds_that_cannot_be(data, tiny, tmp_path, k):
    with pytest.raises(ValueError, match=f"k must lie between 3 and the number of compositions.*got {k}"):
        cross_validate(data, tiny(), tmp_path, k)


@pytest.mark.slow
def test_on_the_command_line(data, tiny, tmp_path, cgcnn_ase):
    import yaml

    data.save(tmp_path / "data")
    settings = asdict(tiny(epochs=1))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"network": settings["network"], "epochs": 1, "batch_size": 16}))
    options = ["--config", tmp_path / "c.yaml", "--k-fold", 3]
    ran = cgcnn_ase("train", tmp_path / "data", "--output", tmp_path / "run", *options)
    assert ran.code == 0, ran.err
    result = json.loads((tmp_path / "run" / "cross_validation.json").read_text())
    assert f"mae: {result['mae']['mean']:.4f} ± {result['mae']['std']:.4f} over the folds" in ran.out
    ran = cgcnn_ase("train", tmp_path / "data", "--output", tmp_path / "run", *options, "--resume", "--json")
    assert json.loads(ran.out)["mae"] == result["mae"]
