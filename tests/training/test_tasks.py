"""Every kind of target learns, alone and beside others, and what is said of it keeps its promises."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from cgcnn_ase import Predictor, load_model
from cgcnn_ase.core.targets import Scaler, TargetSpec, output_slices
from cgcnn_ase.data.graph_store import build_store
from cgcnn_ase.graphs.crystal_graph import geometry
from cgcnn_ase.models.checkpoint import load_models, save_models
from cgcnn_ase.models.folder import CheckpointError
from cgcnn_ase.models.registry import find_models
from cgcnn_ase.nn.network import Head, Output
from cgcnn_ase.prediction.evaluation import evaluate_model
from cgcnn_ase.training.callbacks import read_history
from cgcnn_ase.training.module import pinball, target_loss
from cgcnn_ase.training.run import train
from cgcnn_ase.uncertainty import ClassificationCalibration

HARD = TargetSpec(name="is_hard", unit="probability", task="classification")
KIND = TargetSpec(name="kind", unit="class", task="classification", n_classes=3)


@pytest.fixture(scope="module")
def multi(make_data):
    """Ionicity of some, whether it is above its median, its third, and its exponential, of others."""
    data = make_data(n_train=160, n_val=60, n_test=40)
    x = data.targets[:, 0]
    hard, kind = (x > np.median(x)).astype(float), np.digitize(x, np.quantile(x, [1 / 3, 2 / 3])).astype(float)
    power = 10.0**x
    rng = np.random.default_rng(0)
    values = np.column_stack([x, hard, kind, power])
    values[rng.random(values.shape) < 0.2] = np.nan
    values[np.isnan(values).all(axis=1), 0] = 1.0
    specs = (*data.specs, HARD, KIND, TargetSpec(name="power", unit="GPa", transform="log10"))
    return replace(data, targets=values, specs=specs)


@pytest.fixture(scope="module")
def multi_run(multi, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks") / "run"
    train(multi, tiny(epochs=12, n_members=2, mean_variance=True), folder, progress=False)
    return folder


def alone(multi, k):
    """One of the targets, where it is known."""
    known = np.isfinite(multi.targets[:, k])
    rows = np.flatnonzero(known)
    return replace(
        multi,
        ids=[multi.ids[i] for i in rows],
        targets=multi.targets[rows][:, [k]],
        split=multi.split[rows],
        graphs=type(multi.graphs).from_graphs([multi.graphs.batch([i]) for i in rows]),
        specs=(multi.specs[k],),
    )


# Several targets


def test_outputs_are_dealt_out_in_order(multi):
    assert output_slices(multi.specs) == [slice(0, 1), slice(1, 3), slice(3, 6), slice(6, 7)]


def test_a_run_with_several_targets(multi, multi_run):
    models = load_models(multi_run / "best")
    assert [model.name for model in models] == ["ionicity", "is-hard", "kind", "power"]
    assert all(model.members is models[0].members for model in models)
    metrics = json.loads((multi_run / "metrics.json").read_text())
    assert list(metrics) == [spec.name for spec in multi.specs]
    labelled = np.isfinite(multi.labels("test")).sum(axis=0)
    for spec, n in zip(multi.specs, labelled, strict=True):
        path = multi_run / spec.name
        assert metrics[spec.name]["test"]["n"] == n == len(pd.read_csv(path / "test_results.csv"))
        pictures = {"regression": "parity.png", "classification": "confusion.png"}
        assert (path / pictures[spec.task]).exists()
    assert metrics["is_hard"]["test"]["auc"] > 0.8
    assert metrics["kind"]["test"]["accuracy"] > 0.45
    assert metrics["ionicity"]["test"]["r2"] > 0.5


def test_the_error_of_the_record_is_the_weighted_sum(multi, tiny, tmp_path):
    run = tmp_path / "run"
    train(multi, tiny(epochs=2, cls_weight=0.25), run, progress=False)
    row = read_history(run / "history.csv")[-1]
    scale = [Scaler.of(s, torch.tensor(v[np.isfinite(v)])).std for s, v in zip(multi.specs, multi.labels("train").T)]  # noqa: B905
    weights = [1 / scale[0], 0.25, 0.25, 1 / scale[3]]
    parts = [float(row[f"val_{spec.name}"]) for spec in multi.specs]
    assert float(row["val_error"]) == pytest.approx(np.dot(weights, parts), rel=1e-5)


def test_what_is_saved_is_read_back(multi, multi_run, tmp_path):
    models = load_models(multi_run / "best")
    again = load_models(save_models(models, tmp_path / "copy", name="copy"))
    for old, new in zip(models, again, strict=True):
        rows = multi.rows("test")
        column = multi.specs.index(old.target)
        both = [
            evaluate_model(m, multi.graphs, rows, [multi.ids[i] for i in rows], multi.targets[rows, column])
            for m in (old, new)
        ]
        pd.testing.assert_frame_equal(both[0].to_frame(), both[1].to_frame())
    with pytest.raises(ValueError, match="need names that differ"):
        save_models([models[0], models[0]], tmp_path / "twice", name="twice")


def test_a_folder_of_several_predicts_all_and_asks_which_one_is_meant(multi_run, make_crystals):
    structures, _ = make_crystals(3)
    together = Predictor(multi_run)(structures).all
    assert [p.model for p in together[:4]] == ["ionicity", "is-hard", "kind", "power"]
    assert len(together) == 12
    each = [Predictor(model)(structures).all for model in load_models(multi_run / "best")]
    for k, prediction in enumerate(together):
        assert prediction.value == pytest.approx(each[k % 4][k // 4].value, rel=1e-5)
    with pytest.raises(CheckpointError, match="holds several models, name one: ionicity, is-hard, kind, power"):
        load_model(multi_run)
    assert [ref.name for ref in find_models(multi_run)] == ["ionicity", "is-hard", "kind", "power"]


def test_shared_networks_run_once(multi_run, make_crystals, monkeypatch):
    from cgcnn_ase.prediction import fused_cgcnn as blocked

    passes = []
    plain = blocked.BlockedCGCNN.atoms_of_blocks
    monkeypatch.setattr(blocked.BlockedCGCNN, "atoms_of_blocks", lambda self, *a: passes.append(1) or plain(self, *a))
    structures, _ = make_crystals(3)
    Predictor(multi_run)(structures)
    assert len(passes) == 2  # one for each member, not for each of four targets


def test_missing_labels_change_nothing_for_the_others(multi, tiny, tmp_path):
    """A target that nobody knows the label of gives the same loss and gradient as if it were not there."""
    out = Output(torch.randn(4, 1, requires_grad=True))
    values = torch.tensor([1.0, float("nan"), 3.0, float("nan")])
    loss = target_loss(out, values, multi.specs[0], Scaler(2.0, 2.0), "l1")
    scaled = torch.tensor([-0.5, 0.5])
    assert loss.item() == pytest.approx(F.l1_loss(out.value[[0, 2], 0], scaled).item())
    loss.backward()
    assert (out.value.grad[[1, 3]] == 0).all()
    nobody = target_loss(out, torch.full((4,), float("nan")), multi.specs[0], Scaler(), "l1")
    assert nobody.item() == 0.0
    assert torch.isfinite(torch.autograd.grad(nobody, out.value)[0]).all()


# Classification


def test_probabilities_are_calibrated_and_sets_cover(multi, multi_run):
    model = next(m for m in load_models(multi_run / "best") if m.name == "kind")
    assert isinstance(model.calibration, ClassificationCalibration)
    rows = multi.rows("val")
    result = evaluate_model(model, multi.graphs, rows, [multi.ids[i] for i in rows], multi.targets[rows, 2])
    p = result.probabilities
    assert np.allclose(p.sum(axis=1), 1.0)
    assert result.metrics()["coverage"] >= 0.9

    def nll(t):
        x = logits / t
        q = np.exp(x - x.max(axis=2, keepdims=True))
        q = (q / q.sum(axis=2, keepdims=True)).mean(axis=0)
        return -np.log(q[np.arange(len(y)), y]).mean()

    from cgcnn_ase.prediction.evaluation import embeddings_of, outputs_of

    known = np.isfinite(multi.targets[rows, 2])
    logits = outputs_of(model, embeddings_of(model, multi.graphs, rows[known])).logits.double().numpy()
    y = multi.targets[rows[known], 2].astype(int)
    t = model.calibration.temperature
    assert nll(t) <= min(nll(t * 1.05), nll(t / 1.05)) + 1e-9


def test_figures_of_a_classification_against_scikit_learn(multi, multi_run):
    from sklearn.metrics import accuracy_score, f1_score, log_loss, roc_auc_score

    metrics = json.loads((multi_run / "metrics.json").read_text())["is_hard"]["test"]
    results = pd.read_csv(multi_run / "is_hard" / "test_results.csv")
    p, y = results["probability_1"], results["target"]
    assert metrics["auc"] == pytest.approx(roc_auc_score(y, p))
    assert metrics["accuracy"] == pytest.approx(accuracy_score(y, p > 0.5))
    assert metrics["f1"] == pytest.approx(f1_score(y, p > 0.5))
    assert metrics["nll"] == pytest.approx(log_loss(y, p), rel=1e-5)
    assert np.sum(metrics["confusion"]) == len(y)
    inside = [str(label) in str(classes).split() for label, classes in zip(y, results["class_set"], strict=True)]
    assert metrics["coverage"] == pytest.approx(np.mean(inside))


def test_predictions_of_classes(multi_run, make_crystals):
    structures, _ = make_crystals(6)
    for p in Predictor(multi_run)(structures).all:
        if p.property == "is_hard":
            assert p.value == pytest.approx(p.probabilities[1])
            assert p.std == pytest.approx(np.sqrt(p.value * (1 - p.value)))
        elif p.property == "kind":
            assert p.value == np.argmax(p.probabilities)
            assert p.value in p.class_set
            assert (p.lower, p.upper) == (None, None)
            assert sum(p.probabilities) == pytest.approx(1.0)
        else:
            assert p.probabilities is None


def test_classes_that_cannot_be(multi, tiny, tmp_path):
    data = alone(multi, 1)
    bad = data.targets.copy()
    bad[5] = 2
    with pytest.raises(ValueError, match=r"the target of crystal-\d+, is_hard = 2, is not a class; allowed: 0 to 1"):
        train(replace(data, targets=bad), tiny(), tmp_path / "run")
    bad[5] = 0.5
    with pytest.raises(ValueError, match=r"is_hard = 0.5, is not a class"):
        train(replace(data, targets=bad), tiny(), tmp_path / "run")


# Limits


def test_a_prediction_stays_within_its_limits(make_data, tiny, tmp_path, make_crystals):
    data = make_data(n_train=64, n_val=40)
    low = float(np.quantile(data.targets, 0.6))
    spec = replace(data.specs[0], minimum=low)
    clipped = replace(data, targets=np.maximum(data.targets, low), specs=(spec,))
    run = train(clipped, tiny(epochs=6), tmp_path / "run", progress=False)
    structures, _ = make_crystals(40, seed=5)
    model = load_model(run)
    free = Predictor(model)(structures).all
    limit = float(np.median([p.value for p in free]))
    model.target = replace(model.target, minimum=limit)
    held = Predictor(model)(structures).all
    assert sum(p.value < limit for p in free) == 20
    assert min(min(p.value, p.lower) for p in held) >= limit - 1e-6
    assert sum(p.value <= limit + 1e-6 for p in held) == 20
    results = pd.read_csv(tmp_path / "run" / "test_results.csv")
    assert results[["prediction", "lower"]].min(axis=None) >= low - 1e-6
    with pytest.raises(ValueError, match=rf"ionicity = .*, is below {low:g}, the least possible"):
        train(replace(data, specs=(spec,)), tiny(), tmp_path / "other")


def test_limits_of_a_logarithm():
    spec = TargetSpec(name="K", unit="GPa", transform="log10", minimum=1.0, maximum=1000.0)
    assert spec.clamp(torch.tensor([-1.0, 2.0, 4.0])).tolist() == [0.0, 2.0, 3.0]
    with pytest.raises(ValueError, match="minimum 2 is not below maximum 1"):
        TargetSpec(name="x", unit="", minimum=2.0, maximum=1.0)


# Quantiles


def test_pinball_is_least_at_the_quantile():
    x = torch.randn(4001, generator=torch.Generator().manual_seed(0)).double()
    for q in (0.05, 0.5, 0.95):
        at = torch.quantile(x, q)
        losses = [pinball(x - (at + shift), q) for shift in (-0.1, 0.0, 0.1)]
        assert losses[1] == min(losses)


def test_quantile_heads_learn_the_spread():
    """Of data whose noise depends on the input, a head learns both quantiles and leaves the value alone."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4000, 1, generator=generator)
    y = (0.1 + x[:, 0]) * torch.randn(4000, generator=generator)
    torch.manual_seed(0)
    head = Head(8, 1, error="quantile")
    crystal = torch.cat([x**k for k in range(8)], dim=1)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    from cgcnn_ase.training.module import regression_loss

    for _ in range(300):
        optimizer.zero_grad()
        regression_loss(head(crystal), y, "mse").backward()
        optimizer.step()
    with torch.no_grad():
        out = head(crystal)
    inside = (y >= out.value[:, 0] - out.below[:, 0]) & (y <= out.value[:, 0] + out.above[:, 0])
    assert inside.float().mean().item() == pytest.approx(0.9, abs=0.02)
    std = 2.0**0.5 * out.scale[:, 0]
    assert torch.corrcoef(torch.stack([std, 0.1 + x[:, 0]]))[0, 1] > 0.95
    assert (std / (0.1 + x[:, 0])).median().item() == pytest.approx(1.0, abs=0.15)
    gradients = torch.autograd.grad(head(crystal.requires_grad_()).below.sum(), crystal, allow_unused=True)
    assert gradients == (None,)


def test_a_run_with_quantiles(data, tiny, tmp_path):
    model = load_model(train(data, tiny(quantiles=True), tmp_path / "run", progress=False))
    assert "aleatoric" in model.calibration.calibrator.names
    with pytest.raises(ValueError, match="mean_variance or quantiles, not both"):
        train(data, tiny(quantiles=True, mean_variance=True), tmp_path / "both", progress=False)


# Sites


def site_data(data, make_crystals, **graph):
    """The target of a site is its atomic number over ten, plus the mean of its neighbours' over a hundred."""
    structures, _ = make_crystals(len(data.ids))
    config = replace(data.graph_config, merge=False, **graph)
    store = build_store([geometry(atoms) for atoms in structures], config, workers=1)
    every = store.batch(range(len(store)))
    z = every.numbers.double()
    total = torch.zeros(len(z), dtype=torch.float64).index_add(0, every.centers, z[every.neighbors])
    count = torch.bincount(every.centers, minlength=len(z))
    values = (z / 10 + total / count / 100).numpy()[:, None]
    spec = TargetSpec(name="site_energy", unit="eV", level="site")
    return replace(data, targets=values, graphs=store, graph_config=config, specs=(spec,))


def test_targets_of_sites(make_data, make_crystals, tiny, tmp_path):
    data = site_data(make_data(n_train=80, n_val=40, n_test=20), make_crystals)
    rng = np.random.default_rng(1)
    known = data.targets.copy()
    known[rng.random(known.shape) < 0.3] = np.nan
    data = replace(data, targets=known)
    config = replace(tiny(epochs=24, pooling="site"), graph=data.graph_config)
    train(data, config, tmp_path / "run", progress=False)
    results = pd.read_csv(tmp_path / "run" / "test_results.csv")
    labelled = np.isfinite(data.labels("test")[:, 0])
    names = np.array(data.sample_names("test"))[labelled]
    assert results["id"].tolist() == names.tolist()
    assert np.allclose(results["target"], data.labels("test")[labelled, 0])
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    assert metrics["r2"] > 0.9
    assert 0.75 <= metrics["coverage"] <= 1.0


def test_targets_of_sites_and_of_crystals_are_not_mixed(data):
    spec = replace(data.specs[0], level="site")
    with pytest.raises(ValueError, match="cannot be learned together"):
        replace(data, specs=(spec, data.specs[0]))


# What a step is


@pytest.mark.slow
def test_accumulated_batches_are_one_large_batch(data, tiny, tmp_path):
    """Without a norm over the batch, two batches of 8 make the step of one of 16."""
    errors = {}
    for name, changes in {"large": {"batch_size": 16}, "small": {"batch_size": 8, "accumulate": 2}}.items():
        train(data, tiny(epochs=2, norm="layer", **changes), tmp_path / name, progress=False)
        errors[name] = [float(row["val_error"]) for row in read_history(tmp_path / name / "history.csv")]
    assert errors["small"] == pytest.approx(errors["large"], rel=1e-3)


@pytest.mark.slow
def test_the_trunk_may_learn_more_slowly(data, tiny, tmp_path):
    start = load_model(train(data, tiny(epochs=2), tmp_path / "start", progress=False))
    moved = {}
    for rate in (1.0, 1e-6):
        run = train(data, tiny(epochs=1, backbone_lr_scale=rate), tmp_path / f"{rate}", start=start, progress=False)
        after, before = load_model(run).networks[0].state_dict(), start.networks[0].state_dict()
        for part in ("convolutions.0.full.weight", "to_crystal.weight"):
            moved[rate, part] = (after[f"architecture.{part}"] - before[f"architecture.{part}"]).abs().max().item()
    assert moved[1e-6, "convolutions.0.full.weight"] < 1e-3 * moved[1.0, "convolutions.0.full.weight"]
    assert moved[1e-6, "to_crystal.weight"] > 0.1 * moved[1.0, "to_crystal.weight"] > 0
