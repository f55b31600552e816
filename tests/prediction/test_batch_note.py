"""A word for the whole batch, in Python, on stderr and in JSON."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
from ase.io import write
from scipy.stats import binomtest

from cgcnn_ase import Predictor, predict
from cgcnn_ase.models.checkpoint import load_folder, save_model
from cgcnn_ase.models.registry import load_model
from cgcnn_ase.prediction.results import MIN_BATCH, SHARE, BatchTally, BatchWarning, Prediction
from cgcnn_ase.uncertainty.conformal import HeldOutSignals, PopulationFactors

from ..conftest import make_model, random_crystal


def with_limits(domain_score=0.9, epistemic=0.1, *, populations=True, **more):
    model = make_model(**more)
    limits = HeldOutSignals(domain_score=domain_score, epistemic=epistemic, n_samples=100)
    factors = PopulationFactors(std_factor=2.0, upper_factor=2.0, above_hull=(0.05, 0.5), n_samples=100)
    model.calibration = replace(model.calibration, held_out=limits, hypothetical=factors if populations else None)
    return model


def predictions(model, scores, spreads, value=1.0, population="known"):
    return [
        Prediction(
            id=str(k), source="s", value=value, epistemic=float(spread), in_domain=True, domain_score=float(score),
            population=population, unit="eV/atom", property=model.target.name, model=model.name,
            model_sha256=model.sha256,
        )
        for k, (score, spread) in enumerate(zip(scores, spreads, strict=True))
    ]  # fmt: skip


def notes(model, *arguments, **options):
    tally = BatchTally([model])
    assert len(list(tally.counted(predictions(model, *arguments, **options)))) == len(arguments[0])
    return tally.notes()


@pytest.mark.parametrize("n", [MIN_BATCH, 50, 400])
def test_told_where_the_share_is_certainly_above_the_limit(n):
    """Against scipy's exact binomial test, but for the shares at its very edge."""
    model = with_limits()
    for k in range(n + 1):
        p = binomtest(k, n, SHARE, alternative="greater").pvalue
        told = notes(model, [2.0] * k + [0.1] * (n - k), np.zeros(n))
        if p < 0.005 or p > 0.02:
            assert bool(told) == (p < 0.01), (k, n, p)
            assert not told or f"{100 * k / n:.0f} % of them have a larger domain score" in told[0]


def test_spreads_alone_are_enough_and_small_batches_say_nothing():
    model = with_limits()
    (told,) = notes(model, np.zeros(30), np.full(30, 0.2))
    assert "100 % of them have a larger spread of the members" in told
    assert "domain score" not in told
    assert notes(model, np.full(MIN_BATCH - 1, 9.0), np.ones(MIN_BATCH - 1)) == []


def test_what_is_advised_depends_on_the_population():
    model = with_limits()
    (known,) = notes(model, np.full(30, 2.0), np.zeros(30))
    assert "--population" in known
    (hypothetical,) = notes(model, np.full(30, 2.0), np.zeros(30), population="hypothetical")
    assert "--population" not in hypothetical
    (only_known,) = notes(with_limits(populations=False), np.full(30, 2.0), np.zeros(30))
    assert "--population" not in only_known  # it would change nothing
    assert "cgcnn-ase calibrate" in known
    assert "cgcnn-ase calibrate" in hypothetical


def test_spreads_of_a_modulus_are_compared_as_the_network_learned_them():
    """A spread of 0.05 log10(GPa) of 100 GPa is 11.5 GPa."""
    model = with_limits(epistemic=0.1, transform="log10", name="bulk_modulus", unit="GPa")
    assert notes(model, np.zeros(30), np.full(30, 11.5), value=100.0) == []
    assert notes(model, np.zeros(30), np.full(30, 25.0), value=100.0)


def test_limits_are_what_nine_in_ten_stay_below():
    rng = np.random.default_rng(0)
    score, spread = rng.uniform(0, 2, 1000), rng.gamma(2.0, size=1000)
    fitted = HeldOutSignals.fit(score, spread)
    assert np.mean(score > fitted.domain_score) == pytest.approx(0.1, abs=0.001)
    assert np.mean(spread > fitted.epistemic) == pytest.approx(0.1, abs=0.001)
    assert HeldOutSignals.fit(score, np.zeros(1000)).epistemic is None  # a single network


def test_a_batch_like_the_held_out_crystals_and_one_that_is_not(small_model):
    """Crystals of the same distribution as the calibration's, and the same pressed together."""
    rng = np.random.default_rng(11)
    crystals = [random_crystal(rng) for _ in range(60)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", BatchWarning)
        assert predict(str(small_model), crystals).notes == []
    for atoms in crystals:
        atoms.set_cell(atoms.cell * 0.5, scale_atoms=True)
    with pytest.warns(BatchWarning, match="these 60 structures, as a set, are unlike those"):
        pressed = predict(str(small_model), crystals)
    with pytest.warns(BatchWarning):
        assert pressed.notes == Predictor(load_folder(small_model))(crystals).notes  # loaded, or read by the parent


def test_one_line_on_stderr_and_the_last_object_of_the_json(cgcnn_ase, small_model, tmp_path):
    rng = np.random.default_rng(11)
    crystals = [random_crystal(rng) for _ in range(30)]
    for atoms in crystals:
        atoms.set_cell(atoms.cell * 0.5, scale_atoms=True)
    write(tmp_path / "pressed.extxyz", crystals)
    ran = cgcnn_ase("predict", tmp_path / "pressed.extxyz", "--model", small_model, "--json")
    *others, last = json.loads(ran.out)
    assert ran.code == 0
    assert last["batch_note"].startswith("these 30 structures, as a set, are unlike")
    assert len(others) == 29
    assert not any("batch_note" in each for each in others)
    assert ran.err.count(last["batch_note"]) == 1
    one = cgcnn_ase("predict", tmp_path / "pressed.extxyz", "--model", small_model)
    assert "batch_note" not in one.out  # a CSV has no place for it


def test_an_older_model_says_that_geometry_is_not_checked(cgcnn_ase, cif_folder, tmp_path):
    model = make_model()
    model.calibration = replace(model.calibration, held_out=None)
    save_model(model, tmp_path / "old")
    ran = cgcnn_ase("predict", cif_folder(2), "--model", tmp_path / "old")
    assert ran.code == 0
    assert "was saved before contacts and volumes were checked" in ran.err
    assert len(ran.rows()) == 2


@pytest.mark.parametrize("name", ["formation-energy-per-atom", "band-gap", "is-metal", "vacancy-formation-energy"])
def test_pretrained_models_know_their_held_out_signals(name):
    model = load_model(name)
    assert model.calibration.held_out.n_samples >= 20
    assert 0 < model.calibration.held_out.domain_score < 1.5
    assert model.calibration.held_out.epistemic > 0
