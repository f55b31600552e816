"""The model that comes with the package: found by name, documented, and right about well-known crystals."""

import hashlib
import json
from pathlib import Path

import pytest
from ase.io import read

from cgcnn_ase import CGCNNCalculator, load_model, predict
from cgcnn_ase.models.folder import CONFIG, WEIGHTS, model_entries, read_config
from cgcnn_ase.models.registry import (
    ALIASES,
    DEFAULT_MODEL,
    ModelRef,
    find_models,
    model_info,
    model_names,
    pretrained_folder,
)

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "structures"

#: formation energies of the Materials Project's PBE(+U) data of about 2020, eV/atom, within which the model should be
KNOWN = {
    "MgO": (-3.06, 0.15),
    "Si": (0.0, 0.15),
    "GaAs": (-0.40, 0.15),
    "Li2O": (-2.06, 0.15),
    "LiCoO2": (-1.75, 0.25),
    "LiNiO2": (-1.40, 0.25),
    "LiFePO4": (-2.55, 0.25),
    "NiO": (-1.20, 0.35),
    "SrTiO3": (-3.55, 0.2),
    "TiO2-rutile": (-3.45, 0.25),
}


@pytest.fixture(scope="module")
def results():
    return predict(DEFAULT_MODEL, EXAMPLES)


def test_all_examples_are_predicted(results):
    assert results.failures == []
    assert set(results) == set(KNOWN)


@pytest.mark.parametrize("name", KNOWN)
def test_well_known_formation_energies(results, name):
    expected, tolerance = KNOWN[name]
    value, std = results[name]
    assert value == pytest.approx(expected, abs=tolerance)
    assert std is not None
    assert 0.001 < std < 0.5


def test_well_known_crystals_are_in_the_domain(results):
    frame = results.to_frame()
    assert frame.in_domain.mean() > 0.7, frame[["id", "reason"]]


def test_default_calculator():
    atoms = read(EXAMPLES / "MgO.cif")
    atoms.calc = CGCNNCalculator()
    assert atoms.get_potential_energy() / len(atoms) == pytest.approx(-6.27, abs=0.15)  # refs: (-1.6 - 4.95) / 2
    assert 0 < atoms.calc.get_energy_uncertainty(per_atom=True) < 0.3
    assert set(atoms.calc.results) == set(atoms.calc.implemented_properties)


def test_an_element_that_it_has_never_seen_is_out_of_domain():
    atoms = read(EXAMPLES / "MgO.cif")
    atoms.numbers[atoms.numbers == 12] = 86  # radon
    (prediction,) = predict(DEFAULT_MODEL, atoms).all
    assert prediction.in_domain is False
    assert "Rn" in prediction.reason


def test_found_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert DEFAULT_MODEL in model_names()
    assert find_models(DEFAULT_MODEL) == [ModelRef(pretrained_folder() / DEFAULT_MODEL, DEFAULT_MODEL)]
    model = load_model()
    assert (model.target.name, model.target.unit) == ("formation_energy_per_atom", "eV/atom")
    assert len(model.members) >= 4
    assert model.calibration is not None


@pytest.mark.parametrize("name", model_names() or [DEFAULT_MODEL])
def test_card_and_hashes(name):
    (ref,) = find_models(name)
    folder = ref.path
    sha256 = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    config = read_config(folder)
    card = (folder / "README.md").read_text(encoding="utf-8")
    entry = next(entry for entry in model_entries(config) if entry["name"] == ref.name)
    assert ref.name == name
    assert config["sha256"][WEIGHTS] == sha256
    assert sha256 in card
    assert entry["training"]["train_hash"] in card
    assert "CC BY 4.0" in card
    test = entry["training"]["test"]
    assert f"{test['mae' if 'mae' in test else 'auc']:.4f}" in card
    assert {file.name for file in folder.iterdir()} >= {WEIGHTS, CONFIG, "README.md"}


def test_listed_on_the_command_line(cgcnn_ase):
    ran = cgcnn_ase("models", "--json")
    assert ran.code == 0
    entry = next(entry for entry in json.loads(ran.out) if entry["name"] == DEFAULT_MODEL)
    info = model_info(DEFAULT_MODEL)
    assert (entry["sha256"], entry["test_mae"], entry["n_members"]) == (info.sha256, info.test_mae, info.n_members)
    assert entry["test_mae"] < 0.040
    assert DEFAULT_MODEL in cgcnn_ase("models").out


def test_accuracy_of_the_record():
    """What the card says was measured. The ENCE is not held to a bound: wrong labels among the 3,028 set it.

    The Spearman correlation was 0.50 before the model learned distorted crystals (docs/reference/accuracy.md).
    """
    test = read_config(pretrained_folder() / DEFAULT_MODEL)["training"]["test"]
    assert test["mae"] <= 0.035
    assert 0.88 <= test["coverage"] <= 0.92
    assert test["spearman"] >= 0.48
    assert test["member_mae_min"] > test["mae"]


#: figure of the test split and its bound, and the bounds of the coverage
BOUNDS = {
    "band-gap": ("mae", 0.30),
    "efermi": ("mae", 0.36),
    "total-energy-per-atom": ("mae", 0.065),
    "bulk-modulus": ("mae", 0.065),
    "shear-modulus": ("mae", 0.100),
    "poisson-ratio": ("mae", 0.031),
    "is-metal": ("auc", 0.95),
    "band-gap-alignn": ("mae", 0.30),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_figures_of_the_record(name):
    test = model_info(name).test
    key, bound = BOUNDS[name]
    assert test[key] >= bound if key == "auc" else test[key] <= bound
    assert 0.87 <= test["coverage"] <= 0.93


def test_all_models_at_once(cgcnn_ase):
    """Three trunks run; each value is that of its model alone."""
    ran = cgcnn_ase("predict", EXAMPLES / "MgO.cif", "--model", "all", "--json")
    assert ran.code == 0, ran.err
    result = {p["model"]: p for p in json.loads(ran.out)}
    others = {
        name
        for name in model_names()
        if name.endswith("-alignn") or name.startswith(("defect-", "vacancy-")) or name.endswith("-potential")
    }
    assert set(result) == set(model_names()) - others
    alone = predict("band-gap", EXAMPLES / "MgO.cif").all[0]
    assert result["band-gap"]["value"] == pytest.approx(alone.value, rel=1e-5)
    assert result["is-metal"]["value"] < 0.5 < result["band-gap"]["value"]
    assert result["is-metal"]["probabilities"][1] == result["is-metal"]["value"]
    assert 100 < result["bulk-modulus"]["value"] < 200  # GPa; 155 to 165 are measured
    assert -1 < result["poisson-ratio"]["lower"] < result["poisson-ratio"]["upper"] < 0.5


def test_old_names_are_aliases():
    for old, name in ALIASES.items():
        assert find_models(old) == find_models(name)


def test_predict_without_naming_a_model(cgcnn_ase):
    ran = cgcnn_ase("predict", EXAMPLES)
    assert (ran.code, ran.err) == (0, "")
    assert {row["model"] for row in ran.rows()} == {DEFAULT_MODEL}
