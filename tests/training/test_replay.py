"""Fine-tuning that does not forget: what is replayed, what is measured before and after, and the defaults."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.io import write

from cgcnn_ase.core.targets import Scaler
from cgcnn_ase.data.splits import composition_groups
from cgcnn_ase.models.checkpoint import load_models, save_model
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.nn.network import Network, NetworkConfig
from cgcnn_ase.prediction.evaluation import evaluate_model
from cgcnn_ase.training.finetune_recipe import (
    FILE,
    OLD_TEST,
    UNUSED,
    describe,
    recipe_for,
    with_replay,
    write_before_after,
)
from cgcnn_ase.training.start_model import eval_frozen_modules


@pytest.fixture(scope="module")
def old(make_data):
    return make_data(60, seed=1)


@pytest.fixture(scope="module")
def new(make_data, old):
    """Other crystals, the first two of which have ids of old ones."""
    made = make_data(30, seed=2)
    return replace(made, ids=[*old.ids[:2], *(f"new-{k}" for k in range(2, len(made.ids)))])


def test_what_is_replayed(new, old):
    both = with_replay(new, old, n=12, seed=3)
    n = len(new.ids)
    assert both.split[:n].tolist() == new.split.tolist()
    assert (both.split[n:] == "train").sum() == 12
    assert 0 < (both.split[n:] == "val").sum() <= len(new.rows("val"))
    assert set(both.split[n:]) <= {"train", "val", OLD_TEST, UNUSED}
    assert set(both.split[n : n + 2]) == {UNUSED}  # in both sets
    group = composition_groups(both.graphs, np.arange(len(both.ids)))
    held = group[:n][np.isin(new.split, ["val", "test"])]
    learned = group[n:][np.isin(both.split[n:], ["train", "val"])]
    assert not set(held.tolist()) & set(learned.tolist())
    for name, then in ((OLD_TEST, "test"), ("train", "train"), ("val", "val")):
        assert set(old.split[both.split[n:] == name]) == {then}


def test_the_seed_decides(new, old):
    draws = [with_replay(new, old, n=12, seed=s).split.tolist() for s in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_nothing_to_replay(new, old):
    with pytest.raises(ValueError, match="at least 1"):
        with_replay(new, old, n=0)
    with pytest.raises(ValueError, match=r"train split can be replayed"):
        with_replay(new, replace(old, split=np.full(len(old.ids), "test")))
    with pytest.raises(ValueError, match="different targets"):
        with_replay(new, replace(old, specs=(replace(old.specs[0], name="gap"),)))


def a_model(data, tiny, seed):
    torch.manual_seed(seed)
    config = NetworkConfig(architecture=tiny().network)
    return CrystalModel(
        [Network(config).eval()], graph=data.graph_config, target=data.specs[0], scaler=Scaler(-1.0, 2.0), name="m"
    )


def test_before_and_after_are_the_errors_of_the_two_models(new, old, tiny, tmp_path):
    data = with_replay(new, old, n=12)
    start, tuned = a_model(data, tiny, 0), a_model(data, tiny, 1)
    rows = write_before_after(data, start, load_models(save_model(tuned, tmp_path / "best")), tmp_path)
    assert [(row["set"], row["n"]) for row in rows] == [
        ("new", len(data.rows("test"))), ("old", len(data.rows(OLD_TEST)))
    ]  # fmt: skip
    for row, split in zip(rows, ("test", OLD_TEST), strict=True):
        for model, key in ((start, "before"), (load_models(tmp_path / "best")[0], "after")):
            result = evaluate_model(
                model, data.graphs, data.rows(split), data.sample_names(split), data.labels(split)[:, 0]
            )
            error = result.mean - data.labels(split)[:, 0]
            assert row[key]["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-5)
            assert row[key]["bias"] == pytest.approx(error.mean(), rel=1e-4, abs=1e-6)
        assert f"before: {row['before']['mae']:.4f}" in describe(row)
    assert json.loads((tmp_path / FILE).read_text()) == rows
    assert (tmp_path / "before_after_new.png").stat().st_size > 5000


def test_a_property_that_the_model_did_not_know(new, tiny, tmp_path):
    """Before stands what the mean of the training labels gives."""
    start = a_model(new, tiny, 0)
    other = replace(new, specs=(replace(new.specs[0], name="gap"),))
    tuned = a_model(other, tiny, 1)
    (row,) = write_before_after(other, start, load_models(save_model(tuned, tmp_path / "best")), tmp_path)
    train, test = other.labels("train")[:, 0], other.labels("test")[:, 0]
    assert not row["knew"]
    assert row["before"]["mae"] == pytest.approx(np.abs(train.mean() - test).mean())
    assert "labels' mean" in describe(row)


def test_batch_norms_that_keep_their_statistics():
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).train()
    eval_frozen_modules(network)
    assert network[1].training
    eval_frozen_modules(network, norms=True)
    network(torch.randn(8, 3))
    assert network[1].running_mean.abs().max() == 0.0
    assert network[0].training
    assert network[1].weight.requires_grad


def test_defaults_by_the_number_of_labels():
    few, some, many = (recipe_for(n, same_target=True) for n in (10, 1000, 10_000))
    assert (few.frozen, some.frozen, many.frozen) == ("convolutions", "none", "none")
    assert few.settings["checkpoint"] == "last"
    assert few.settings["freeze_batchnorm_stats"]
    assert "freeze_batchnorm_stats" not in many.settings
    assert recipe_for(50, same_target=False).settings["network"] == {"pooling": "layers"}
    assert "network" not in recipe_for(50, same_target=False, pooling="max").settings
    assert "network" not in recipe_for(10_000, same_target=False).settings
    with pytest.raises(ValueError, match="needs labels"):
        recipe_for(0, same_target=True)


def folder_of(make_crystals, path, n, seed):
    path.mkdir()
    structures, targets = make_crystals(n, seed)
    for k, atoms in enumerate(structures):
        write(path / f"s{seed}-{k}.cif", atoms)
    lines = ["cif_id,energy", *(f"s{seed}-{k},{e!r}" for k, e in enumerate(targets))]
    (path / "id_prop.csv").write_text("\n".join(lines) + "\n")
    return path


def test_on_the_command_line(make_crystals, cgcnn_ase, tiny, data, tmp_path, monkeypatch):
    monkeypatch.setenv("CGCNN_ASE_CACHE", str(tmp_path / "cache"))
    start = replace(a_model(data, tiny, 0).target, name="energy")
    model = a_model(data, tiny, 0)
    model.target = start
    base = save_model(model, tmp_path / "base")
    new, past = (folder_of(make_crystals, tmp_path / f"set{s}", 40, s) for s in (4, 5))
    ran = cgcnn_ase(
        "train", new, "--from", base, "--replay", past, "--n-replay", 10, "--epochs", 1, "--output", tmp_path / "run"
    )
    assert ran.code == 0, ran.err
    assert "energy, new test set of" in ran.out
    assert "energy, old test set of" in ran.out
    again = cgcnn_ase("train", new, "--from", base, "--output", tmp_path / "run")
    assert again.code == 2
    assert "holds a training run already" in again.err
    for options, message in (
        (["--replay", past], "--from"),
        (["--from", base, "--n-replay", 5], "--n-replay says how many of --replay"),
        (["--from", base, "--replay", past, "--k-fold", 3], "do not go together"),
    ):
        refused = cgcnn_ase("train", new, *options, "--output", tmp_path / "other")
        assert refused.code == 2
        assert message in refused.err
