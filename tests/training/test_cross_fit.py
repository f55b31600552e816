"""Networks that are trained on parts of the training split, and the errors that they make on the rest."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cgcnn_ase.graphs.crystal_graph import composition
from cgcnn_ase.models.checkpoint import load_folder
from cgcnn_ase.training.member import fold_config, fold_splits, out_of_fold_errors, train_member
from cgcnn_ase.training.run import train


def test_folds_part_the_training_split_by_composition(data):
    splits = fold_splits(data, 3, seed=1)
    train_rows, others = data.rows("train"), np.flatnonzero(data.split != "train")
    held_out = np.stack([split == "val" for split in splits])
    assert (held_out[:, train_rows].sum(axis=0) == 1).all()
    assert (np.stack(splits)[:, others] == "none").all()
    assert held_out.any(axis=1).all()
    fractions = composition(data.graphs.batch(train_rows.tolist())).numpy()
    fold = held_out[:, train_rows].argmax(axis=0)
    same = np.abs(fractions[:, None] - fractions[None]).max(axis=2) < 1e-4
    assert same.sum() > len(train_rows)  # some compositions occur twice
    assert (fold[:, None] == fold[None])[same].all()
    assert all((a == b).all() for a, b in zip(splits, fold_splits(data, 3, seed=1), strict=True))


def test_each_error_is_made_by_the_network_that_had_not_seen_the_structure(data, tiny, tmp_path):
    config = tiny(cross_fit_folds=2, seed=4)
    folders = [tmp_path / "a", tmp_path / "b"]
    splits = fold_splits(data, 2, seed=4)
    for k, folder in enumerate(folders):
        assert fold_config(config, k).epochs == 1
        train_member(replace(data, split=splits[k]), fold_config(config, k), folder, progress=False)
    errors = out_of_fold_errors(data, config, folders)
    rows = data.rows("train")
    assert errors.shape == (len(rows), 1)
    for k, folder in enumerate(folders):
        mine = splits[k][rows] == "val"
        checkpoint = torch.load(folder / "best.ckpt", weights_only=False)
        history = (folder / "history.csv").read_text().splitlines()[-1].split(",")
        assert checkpoint["epoch"] == 0
        assert np.abs(errors[mine]).mean() == pytest.approx(float(history[2]), rel=1e-4)


def test_a_run_with_folds_gives_a_model_with_an_error_model(make_data, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("cgcnn_ase.uncertainty.regression_calibration.MIN_SAMPLES", 30)
    data = make_data(n_train=160, n_val=80, n_test=24)
    best = train(data, tiny(cross_fit_folds=2, n_members=2), tmp_path / "run", progress=False)
    assert (tmp_path / "run" / "fold-1" / "finished").exists()
    model = load_folder(best)
    assert model.calibration.errors.difficulty is not None
    assert model.calibration.calibrator.names[-1] == "expected"


def test_the_error_model_may_do_without_folds(make_data, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("cgcnn_ase.uncertainty.regression_calibration.MIN_SAMPLES", 30)
    model = load_folder(train(make_data(n_val=80), tiny(), tmp_path / "run", progress=False))
    assert model.calibration.errors is not None
    assert model.calibration.errors.difficulty is None


def test_few_structures_teach_no_error_model(data, tiny, tmp_path):
    model = load_folder(train(data, tiny(), tmp_path / "run", progress=False))
    assert model.calibration.errors is None
    assert "expected" not in model.calibration.calibrator.names


@pytest.mark.parametrize("n", [1, -2])
def test_numbers_of_folds_that_make_no_sense(tiny, n):
    with pytest.raises(ValueError, match=f"cross_fit_folds must be 0 or at least 2, not {n}"):
        tiny(cross_fit_folds=n)
