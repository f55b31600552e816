"""A whole run: its folder, its ensemble, what it refuses."""

import json
from dataclasses import asdict, replace
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from cgcnn_ase import load_model
from cgcnn_ase.data.splits import compositions_of
from cgcnn_ase.prediction.evaluation import embeddings_of, evaluate_model, outputs_of
from cgcnn_ase.training.assemble import N_DROPOUT
from cgcnn_ase.training.run import train


@pytest.fixture(scope="module")
def run(data, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "single"
    assert train(data, tiny(mean_variance=True), folder, progress=False) == folder / "best"
    return folder


@pytest.fixture(scope="module")
def ensemble(data, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "ensemble"
    train(data, tiny(n_members=2, epochs=2), folder, progress=False)
    return folder


def test_the_folder_of_a_run(data, run):
    assert {path.name for path in run.iterdir()} == {
        "config.yaml", "split.csv", "last.ckpt", "best.ckpt", "best", "metrics.json", "test_results.csv", "parity.png",
        "calibration.png", "domain.png", "learning_curve.png", "history.csv", "finished", "environment.json",
    }  # fmt: skip
    settings = yaml.safe_load((run / "config.yaml").read_text())
    record = json.loads((run / "environment.json").read_text())
    assert record["versions"]["torch"] == torch.__version__
    assert (record["device"], record["seeds"]) == ("cpu", {"seed": settings["seed"]})
    assert record["engine"] == ("dgl" if settings["engine"] == "auto" and find_spec("dgl") else settings["engine"])
    assert settings["epochs"] == 4
    assert settings["train_hash"] == data.train_hash
    results = pd.read_csv(run / "test_results.csv")
    assert list(results.columns[:4]) == ["id", "target", "prediction", "std"]
    assert results["id"].tolist() == [data.ids[i] for i in data.rows("test")]
    assert np.allclose(results["target"], data.targets[data.rows("test"), 0])
    assert (results["std"] > 0).all()
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test"]["mae"] == pytest.approx((results["prediction"] - results["target"]).abs().mean())
    assert metrics["test"]["n"] == 24


def test_structures_learned_beside_are_in_the_weights_and_nowhere_else(data, make_data, tiny, run, tmp_path):
    other = make_data(n_train=40, n_val=0, n_test=0, seed=5)
    other = replace(
        other, ids=[f"other-{name}" for name in other.ids], targets=other.targets + 8.0, train_hash="1" * 64
    )
    folder = tmp_path / "run"
    train(data, tiny(mean_variance=True), folder, beside=other, progress=False)
    model, without = load_model(folder), load_model(run)
    record, settings = model.training_record, yaml.safe_load((folder / "config.yaml").read_text())
    assert record["beside"] == {"n": 40, "hash": "1" * 64} == {"n": 40, "hash": settings["beside"]}
    assert {key: record[key] for key in ("n_train", "n_val", "n_test", "train_hash")} == {
        key: without.training_record[key] for key in ("n_train", "n_val", "n_test", "train_hash")
    }
    assert model.scaler == without.scaler  # targets 8 higher are in neither
    graph = data.graphs.batch(data.rows("test").tolist())
    with torch.inference_mode():
        means = [float(each(graph).values.mean()) for each in (model, without)]
    assert means[0] > means[1] + 0.05


def test_tuning_with_structures_beside_keeps_nothing_of_the_old_weights(data, make_data, tiny, run, tmp_path):
    other = replace(make_data(n_train=8, n_val=0, n_test=0, seed=5), ids=[f"other-{k}" for k in range(8)])
    config = tiny(mean_variance=True, epochs=1, learning_rate=1e-5)
    best = train(data, config, tmp_path / "run", start=load_model(run), beside=other, progress=False)
    assert "blend" not in json.loads((tmp_path / "run" / "metrics.json").read_text())
    state = torch.load(tmp_path / "run" / "best.ckpt", map_location="cpu", weights_only=False)["state_dict"]
    for name, tensor in load_model(best).networks[0].state_dict().items():
        assert torch.equal(tensor, state[f"network.{name}"])


def test_the_networks_of_the_folds_may_be_those_of_another_run(data, tiny, tmp_path):
    config = tiny(mean_variance=True, epochs=2, cross_fit_folds=2)
    train(data, config, tmp_path / "first", progress=False)
    train(data, config, tmp_path / "second", folds_of=tmp_path / "first", progress=False)
    assert not list((tmp_path / "second").glob("fold-*"))
    first, second = (load_model(tmp_path / name) for name in ("first", "second"))
    assert first.calibration.interval == second.calibration.interval


def test_the_model_of_a_run_is_loaded_from_the_run_or_its_best_folder(data, run):
    model = load_model(run)
    assert model.name == "single"
    assert model.calibration is not None
    assert model.sha256 == load_model(run / "best").sha256
    rows = data.rows("test")
    evaluation = evaluate_model(model, data.graphs, rows, [data.ids[i] for i in rows], data.targets[rows, 0])
    results = pd.read_csv(run / "test_results.csv")
    assert np.allclose(evaluation.mean, results["prediction"], rtol=1e-6)
    assert np.allclose(evaluation.std, results["std"], rtol=1e-5)


def test_the_record_of_the_training_is_in_the_model(data, run, tiny):
    record = load_model(run).training_record
    assert record["n_train"] == 96
    assert record["train_hash"] == data.train_hash
    assert record["recipe"] == json.loads(json.dumps(asdict(tiny(mean_variance=True))))


def test_members_of_an_ensemble_differ_and_have_folders_of_their_own(ensemble, differing):
    assert differing(ensemble / "member-0" / "last.ckpt", ensemble / "member-1" / "last.ckpt")
    assert len(load_model(ensemble).networks) == 2


@pytest.mark.slow
def test_two_processes_give_the_same_weights_as_one(data, tiny, ensemble, tmp_path, differing, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    train(data, tiny(n_members=2, epochs=2), tmp_path / "run", workers=2, progress=False)
    for k in range(2):
        member = f"member-{k}/last.ckpt"
        assert not differing(ensemble / member, tmp_path / "run" / member)
    assert (tmp_path / "run" / "metrics.json").read_text() == (ensemble / "metrics.json").read_text()


def test_member_k_is_the_single_network_of_seed_plus_k(data, tiny, ensemble, tmp_path, differing):
    train(data, tiny(seed=1, epochs=2), tmp_path / "run", progress=False)
    assert not differing(ensemble / "member-1" / "last.ckpt", tmp_path / "run" / "last.ckpt")


def test_a_run_is_not_overwritten(data, tiny, run):
    before = (run / "last.ckpt").read_bytes()
    words = "holds a training run already; --resume goes on with it, --overwrite replaces it, or name another"
    with pytest.raises(ValueError, match=words):
        train(data, tiny(mean_variance=True), run, progress=False)
    assert (run / "last.ckpt").read_bytes() == before


def test_a_folder_with_other_things_is_not_used(data, tiny, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="is not empty"):
        train(data, tiny(), tmp_path, progress=False)
    with pytest.raises(ValueError, match="holds no training run to resume"):
        train(data, tiny(), tmp_path, resume=True, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("what", ["settings", "data"])
def test_resuming_with_anything_else_is_refused(data, tiny, run, what):
    config = tiny(mean_variance=True, seed=int(what == "settings"))
    other = replace(data, train_hash="1" * 64) if what == "data" else data
    with pytest.raises(ValueError, match="other settings or data; resume with the same"):
        train(other, config, run, resume=True, progress=False)


def test_resuming_a_finished_run_changes_nothing(data, tiny, run):
    names = ["last.ckpt", "history.csv", "metrics.json", "test_results.csv", "best/model.safetensors"]
    before = [(run / name).read_bytes() for name in names]
    train(data, tiny(mean_variance=True), run, resume=True, progress=False)
    assert [(run / name).read_bytes() for name in names] == before


def test_resume_starts_what_was_never_started(data, tiny, tmp_path):
    train(data, tiny(epochs=1), tmp_path / "new", resume=True, progress=False)
    assert (tmp_path / "new" / "best").is_dir()


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_split_is_refused(data, tiny, tmp_path, split):
    with pytest.raises(ValueError, match=f"the {split} split is empty"):
        train(replace(data, split=np.where(data.split == split, "test", data.split)), tiny(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_targets_without_a_logarithm_are_refused_by_name(data, tiny, tmp_path):
    targets = np.abs(data.targets) + 1.0
    targets[7] = -2.0
    moduli = replace(data, targets=targets, specs=(replace(data.specs[0], transform="log10"),))
    with pytest.raises(ValueError, match="crystal-007, ionicity = -2, has no logarithm"):
        train(moduli, tiny(), tmp_path / "run")


def test_other_unusable_arguments(data, tiny, tmp_path):
    with pytest.raises(ValueError, match="workers must be at least 1, not 0"):
        train(data, tiny(), tmp_path / "run", workers=0)
    with pytest.raises(ValueError, match="the settings ask for"):
        train(data, replace(tiny(), graph=replace(tiny().graph, cutoff=6.0)), tmp_path / "run")
    classes = replace(data, specs=(replace(data.specs[0], task="classification"),))
    with pytest.raises(ValueError, match=r"the target of crystal-000, ionicity = .*, is not a class; allowed: 0 to 1"):
        train(classes, tiny(), tmp_path / "run")
    with pytest.raises(ValueError, match="ionicity: class 1 is never seen in the train split"):
        train(replace(classes, targets=0.0 * classes.targets), tiny(), tmp_path / "run")


@pytest.mark.parametrize(("n_val", "changes"), [(19, {}), (3, {"n_members": 2, "epochs": 1})])
def test_too_few_val_structures_to_calibrate_on(make_data, tiny, tmp_path, n_val, changes):
    """The model is there, with a warning that says what it lacks."""
    small = make_data(n_train=32, n_val=n_val, n_test=4)
    with pytest.warns(UserWarning, match=f"not calibrated: .* got {n_val}.*no interval"):
        train(small, tiny(**changes), tmp_path / "run", progress=False)
    model = load_model(tmp_path / "run")
    assert model.calibration is None
    results = pd.read_csv(tmp_path / "run" / "test_results.csv")
    assert results[["lower", "upper", "in_domain"]].isna().all(axis=None)
    assert results["std"].isna().all() == (len(model.networks) == 1)  # an ensemble has its spread
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    assert metrics["mae"] > 0
    assert "in_domain_fraction" not in metrics
    assert (tmp_path / "run" / "parity.png").exists()


def test_without_a_test_split_val_is_what_is_shown(make_data, tiny, tmp_path):
    train(make_data(n_train=32, n_val=24, n_test=0), tiny(epochs=1), tmp_path / "run", progress=False)
    assert len(pd.read_csv(tmp_path / "run" / "val_results.csv")) == 24
    assert not (tmp_path / "run" / "test_results.csv").exists()
    assert list(json.loads((tmp_path / "run" / "metrics.json").read_text())) == ["val"]


def test_no_pictures_without_matplotlib(data, tiny, tmp_path, monkeypatch):
    from cgcnn_ase.plotting import prediction_plots
    from cgcnn_ase.training import assemble as finish

    for module in (prediction_plots, finish):
        monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.warns(UserWarning, match="no pictures: matplotlib is missing"):
        train(data, tiny(epochs=1), tmp_path / "run", progress=False)
    assert not list((tmp_path / "run").glob("*.png"))
    assert (tmp_path / "run" / "test_results.csv").exists()


def test_the_best_epoch_is_the_one_in_the_model(worse_every_epoch, tiny, tmp_path):
    train(worse_every_epoch, tiny(learning_rate=2e-2, norm="none"), tmp_path / "run", progress=False)
    best = torch.load(tmp_path / "run" / "best.ckpt", weights_only=False)["state_dict"]
    model = load_model(tmp_path / "run")
    assert torch.equal(model.networks[0].head.out.weight, best["network.head.out.weight"])


def test_dropout_has_a_calibration_of_its_own(make_data, tiny, tmp_path):
    data = make_data(n_train=160, n_val=120)
    model = load_model(train(data, tiny(dropout=0.4, epochs=8), tmp_path / "run", progress=False))
    val = data.rows("val")
    for calibration, n in ((model.calibration, None), (model.dropout_calibration, N_DROPOUT)):
        out = outputs_of(model, embeddings_of(model, data.graphs, val), n_dropout=n)
        judged = calibration.apply(out, compositions_of(data.graphs, val))
        error = judged.value - data.targets[val, 0]
        assert np.sqrt(np.mean((error / judged.std) ** 2)) == pytest.approx(1, abs=0.1)
        assert judged.std.std() > 0
    assert model.calibration.calibrator.exponents[0] == 0  # one network that drops nothing has no spread
    assert model.dropout_calibration.calibrator.floors[0] > 1e-6
    assert load_model(train(data, tiny(), tmp_path / "plain", progress=False)).dropout_calibration is None
