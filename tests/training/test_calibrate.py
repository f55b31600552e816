"""Calibrate on labels of one's own: in Python, through files and on the command line."""

import json
import shutil

import numpy as np
import pytest
import torch
from ase.io import write
from typer.testing import CliRunner

from cgcnn_ase import calibrate, load_model, predict
from cgcnn_ase.cli.app import app
from cgcnn_ase.core.targets import Scaler
from cgcnn_ase.models.checkpoint import save_model, save_models
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.models.folder import CONFIG, CheckpointError, own_hash, read_config
from cgcnn_ase.prediction.inference import ModelInference
from cgcnn_ase.structures import read_structures
from cgcnn_ase.training.calibrate import RECORD, describe, write_calibrated

from ..conftest import make_model


def labels_of(model, structures, *, shift=0.4, oxygen=0.0, noise=0.05, seed=0):
    """What the model predicts, with a shift."""
    values = predict(model, structures).to_frame()["value"].to_numpy()
    fractions = np.array([np.mean(atoms.numbers == 8) for atoms in structures])
    return values + shift + oxygen * fractions + noise * np.random.default_rng(seed).normal(size=len(values))


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def calibrated(model, crystals):
    return calibrate(model, crystals[:30], labels_of(model, crystals[:30], oxygen=-0.8))


def test_predictions_are_on_the_scale_of_the_labels(model, calibrated, crystals):
    new = crystals[30:]
    labels = labels_of(model, new, oxygen=-0.8, seed=1)
    before, after = (predict(m, new).to_frame() for m in (model, calibrated))
    assert np.abs(after["value"] - labels).mean() < 0.25 * np.abs(before["value"] - labels).mean()
    assert ((after["lower"] <= labels) & (labels <= after["upper"])).mean() > 0.75
    assert set(calibrated.calibration.labels.offsets) == {"Li", "O", "F", "Mg", "Si", "S", "Ti", "Mn", "Fe", "Co", "Ni"}


def test_weights_are_shared_and_the_sha256_is_another(model, calibrated):
    assert calibrated.members is model.members
    assert calibrated.name == f"{model.name}-calibrated"
    assert model.calibration.labels is None
    assert len(calibrated.sha256) == 64 != model.sha256


def test_members_are_shifted_too(calibrated, crystals):
    """Differences between structures are taken member by member."""
    records = list(read_structures(crystals[:4]))
    for ((prediction, members),) in ModelInference([calibrated]).with_members(records):
        assert np.mean(members) == pytest.approx(prediction.value, abs=1e-6)


def test_a_calibrated_model_comes_back_from_its_folder(calibrated, crystals, tmp_path):
    folder = write_calibrated(calibrated, tmp_path / "m")
    again = load_model(folder)
    assert again.sha256 == calibrated.sha256
    assert again.training_record == calibrated.training_record
    assert predict(again, crystals[:5]).to_frame().equals(predict(calibrated, crystals[:5]).to_frame())
    card = (folder / "README.md").read_text()
    for note in describe(calibrated):
        assert note in card
    assert "expect the 90% interval to hold 90% of new labels" in card
    with pytest.raises(ValueError, match="not an empty folder"):
        write_calibrated(calibrated, folder)


def test_only_a_calibrated_model_is_written_over(calibrated, small_model, tmp_path):
    folder = write_calibrated(calibrated, tmp_path / "m")
    (folder / "README.md").write_text("of an earlier calibration")
    assert write_calibrated(calibrated, folder, overwrite=True) == folder
    assert "expect the 90% interval" in (folder / "README.md").read_text()
    assert load_model(folder).sha256 == calibrated.sha256
    with pytest.raises(ValueError, match="is the model to calibrate; name another folder"):
        write_calibrated(calibrated, folder, folder, overwrite=True)
    other = tmp_path / "other"
    shutil.copytree(small_model, other)
    with pytest.raises(ValueError, match="holds a model that `calibrate` did not make"):
        write_calibrated(calibrated, other, overwrite=True)
    (folder / "mine.txt").write_text("kept")
    with pytest.raises(ValueError, match=r"mine\.txt"):
        write_calibrated(calibrated, folder, overwrite=True)
    assert load_model(folder).sha256 == calibrated.sha256


def test_an_older_version_refuses_it_and_folders_without_stay_as_they_were(model, calibrated, tmp_path):
    assert read_config(save_model(calibrated, tmp_path / "new"))["format_version"] == 3
    assert read_config(save_model(model, tmp_path / "old"))["format_version"] == 1


def test_a_shift_that_is_not_that_of_the_weights_is_refused(calibrated, tmp_path):
    folder = save_model(calibrated, tmp_path / "m")
    config = json.loads((folder / CONFIG).read_text())
    config["trust"]["labels"]["constant"] += 1.0
    config["sha256"][CONFIG] = own_hash(config)
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="not the one that the weights were saved with"):
        load_model(folder)


def test_calibrating_again_starts_from_the_model_before(model, calibrated, crystals):
    labels = labels_of(model, crystals[:30], oxygen=-0.8)
    again = calibrate(calibrated, crystals[:30], labels)
    assert again.calibration.labels == calibrated.calibration.labels
    assert again.name == calibrated.name
    assert again.training_record[RECORD]["from"]["model"] == model.name


def test_one_of_several_targets_is_written_alone(crystals, tmp_path):
    """The networks of a folder with several models stay whole."""
    from dataclasses import replace

    one = make_model()
    config = replace(one.networks[0].config, n_outputs=2)
    networks = torch.nn.ModuleList(type(one.networks[0])(config) for _ in range(2))
    pair = []
    for k, name in enumerate(("formation_energy_per_atom", "efermi")):
        part = CrystalModel(
            networks, graph=one.graph, target=replace(one.target, name=name), scaler=one.scaler,
            calibration=make_model(seed=k).calibration, name=name.replace("_", "-"), first_output=k,
        )  # fmt: skip
        pair.append(part)
    folder = save_models(pair, tmp_path / "pair", name="pair")
    labels = labels_of(pair[1], crystals[:25])
    second = calibrate(folder, crystals[:25], labels, target="efermi")
    assert second.outputs == slice(1, 2)
    again = load_model(write_calibrated(second, tmp_path / "second"))
    assert predict(again, crystals[:5]).to_frame().equals(predict(second, crystals[:5]).to_frame())
    with pytest.raises(ValueError, match="holds several models"):
        calibrate(folder, crystals[:25], labels)


def test_moduli_are_shifted_in_the_logarithm(crystals):
    moduli = make_model(transform="log10", name="bulk_modulus", unit="GPa")
    values = predict(moduli, crystals).to_frame()["value"].to_numpy()
    rng = np.random.default_rng(0)
    labels = values * 10 ** (0.2 + 0.03 * rng.normal(size=len(values)))
    twice = calibrate(moduli, crystals[:40], labels[:40])
    after = predict(twice, crystals[40:]).to_frame()
    assert np.median(after["value"] / values[40:]) == pytest.approx(10**0.2, rel=0.03)
    assert (after["lower"] > 0).all()
    with pytest.raises(ValueError, match=r"1 of 20 labels of bulk_modulus cannot be used: 3 \(-5.0 has no logarithm\)"):
        calibrate(moduli, crystals[:20], np.where(np.arange(20) == 3, -5.0, labels[:20]))


def test_dropout_has_a_shift_of_its_own(dropout_model, crystals):
    old = load_model(dropout_model)
    new = calibrate(old, crystals[:30], labels_of(old, crystals[:30]))
    for options in ({}, {"n_dropout": 50}):
        before, after = (predict(m, crystals[30:], **options).to_frame()["value"] for m in (old, new))
        assert (after - before).mean() == pytest.approx(0.4, abs=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: y[:19], "at least 20 labels, there are 19"),
        (
            lambda y: np.where(np.arange(30) == 4, np.nan, y),
            r"1 of 30 labels .* cannot be used: 4 \(nan is not finite\)",
        ),
        (lambda y: y[:, None], r"30 structures need as many labels, not an array of shape \(30, 1\)"),
        (lambda y: y + 3.0, "more than the 1 that is applied without asking.*--accept-shift"),
    ],
)
def test_labels_that_cannot_be_used(model, crystals, change, message):
    labels = change(labels_of(model, crystals[:30], shift=0.1))
    with pytest.raises(ValueError, match=message):
        calibrate(model, crystals[: len(labels)], labels)


def test_other_units_are_recognised(model, crystals):
    spread = CrystalModel.like(model, model.members)  # random weights make almost the same of all
    spread.scaler = Scaler(0.0, 30.0)
    few = crystals[:30]
    labels = labels_of(spread, few, shift=0.0)
    units = {"eV per cell": [len(atoms) for atoms in few], "meV/atom": 1000.0, "kJ/mol": 96.485, "Ry/atom": 1 / 13.6057}
    for unit, factor in units.items():
        with pytest.raises(ValueError, match=f"applied without asking; the labels look like {unit}"):
            calibrate(spread, few, labels * factor, max_shift=0.1)
    total = labels + np.array([-9.0 * np.mean(atoms.numbers == 8) - 5.0 for atoms in few])
    with pytest.raises(ValueError, match="look like another scale: total energies"):
        calibrate(spread, few, total)


def test_a_larger_shift_can_be_accepted(model, crystals):
    labels = labels_of(model, crystals[:30], shift=3.0)
    for options in ({"accept_shift": True}, {"max_shift": 5.0}):
        shift = calibrate(model, crystals[:30], labels, **options).calibration.labels
        assert shift.shift(np.eye(101)[[8]])[0] == pytest.approx(3.0, abs=0.2)


def test_a_column_of_another_name_or_unit_is_told(model, crystals):
    labels = labels_of(model, crystals[:30], shift=0.1)
    with pytest.warns(UserWarning, match="'energy_per_atom' is called like total_energy_per_atom"):
        calibrate(model, crystals[:30], labels, target="energy_per_atom")
    with pytest.warns(
        UserWarning, match="the labels are in kJ/mol, the model predicts formation_energy_per_atom in eV"
    ):
        calibrate(model, crystals[:30], labels, target="formation energy [kJ/mol]")


def test_models_that_cannot_be_calibrated(crystals, original_weights):
    classes = make_model(task="classification", name="is_metal", unit="probability")
    with pytest.raises(ValueError, match="predicts classes"):
        calibrate(classes, crystals[:20], np.ones(20))
    with pytest.raises(ValueError, match="has no std and no interval"):
        calibrate(make_model(calibration=False), crystals[:20], np.ones(20))
    with pytest.raises(ValueError, match="predicts sites; calibrate needs one of crystals"):
        calibrate("vacancy-formation-energy", crystals[:20], np.ones(20))


def run(*arguments):
    return CliRunner().invoke(app, ["calibrate", *map(str, arguments)])


@pytest.fixture(scope="module")
def dataset(model, crystals, tmp_path_factory):
    """A folder of 24 structures with labels."""
    folder = tmp_path_factory.mktemp("labelled") / "set"
    folder.mkdir()
    for k, atoms in enumerate(crystals[:24]):
        write(folder / f"c{k}.cif", atoms)
    write_labels(folder, labels_of(model, crystals[:24]))
    return folder


def write_labels(folder, labels, header="formation_energy_per_atom"):
    rows = [f"c{k},{value}" for k, value in enumerate(labels)]
    (folder / "id_prop.csv").write_text("\n".join([f"id,{header}", *rows]) + "\n")


def test_the_command_writes_a_model(dataset, small_model, crystals, tmp_path):
    result = run(small_model, dataset, "--output", tmp_path / "mine", "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["shift"]["n_labels"] == 24
    assert record["shift"]["constant"] == pytest.approx(0.4, abs=0.1)
    assert record["expected_coverage"]["low"] < record["expected_coverage"]["mean"] == pytest.approx(23 / 25)
    assert "expect the 90% interval to hold 92% of new labels" in result.stderr
    again = load_model(tmp_path / "mine")
    assert again.sha256 == record["sha256"]
    shown = CliRunner().invoke(app, ["predict", str(dataset / "c0.cif"), "--model", str(tmp_path / "mine"), "--json"])
    assert json.loads(shown.stdout)[0]["model_sha256"] == again.sha256


def test_the_command_asks_about_a_large_shift(dataset, small_model, model, crystals, tmp_path):
    folder = shutil.copytree(dataset, tmp_path / "set")
    write_labels(folder, labels_of(model, crystals[:24], shift=-4.0))
    result = run(small_model, folder, "-o", tmp_path / "mine")
    assert result.exit_code == 2
    assert "more than the 1 that is applied without asking" in result.stderr
    assert not (tmp_path / "mine").exists()
    result = run(small_model, folder, "-o", tmp_path / "mine", "--accept-shift")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"model: {tmp_path / 'mine'}\n"


def test_the_command_names_what_is_wrong(dataset, small_model, tmp_path):
    folder = shutil.copytree(dataset, tmp_path / "set")
    write_labels(folder, [0.1] * 23 + ["nan"])
    result = run(small_model, folder, "-o", tmp_path / "mine")
    assert result.exit_code == 2
    assert "'nan' is not finite" in result.stderr
    write_labels(folder, [0.1] * 12)
    result = run(small_model, folder, "-o", tmp_path / "mine")
    assert result.exit_code == 2
    assert "calibration needs at least 20 labels, there are 12" in result.stderr
    write_labels(folder, [0.1] * 24, header="band_gap")
    result = run(small_model, folder, "-o", tmp_path / "mine")
    assert result.exit_code == 2
    assert "'band_gap' is band_gap; say which column is meant with --target" in result.stderr
