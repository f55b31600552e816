"""Labels that are marked as not converged (AiiDA's protocol fast): the mark goes with them into the model's card."""

import json
import warnings

import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from cgcnn_ase import finetune
from cgcnn_ase.data.calculations import read_calculations
from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.models.checkpoint import load_folder, save_model

from ..conftest import random_crystal

CARD = "**Not converged:** the energies of its labels are not converged (protocol fast)"
# and what the card says of the std
STD = "Its std is against labels of that kind, and does not count how far these are from converged ones"
FAST = {"engine": "gpaw", "functional": "PBE", "kpoints_distance": 0.5, "converged": False}
ROUGH = {"epochs": 1, "engine": "torch"}


def labelled(scheme):
    """As a labelled set of AiiDA gives its structures."""
    rng = np.random.default_rng(4)
    for k in range(40):
        atoms = random_crystal(rng)
        atoms.calc = SinglePointCalculator(atoms, energy=-0.3 * float(atoms.numbers.sum()))
        atoms.info = {"id": f"s{k}", "label_scheme": scheme, "formation_energy_per_atom": k / 40 - 1}
        yield atoms


@pytest.fixture
def exported(tmp_path):
    """A maker of the file that `verdi data cgcnn-structures export` writes."""

    def make(scheme):
        write(tmp_path / "set.extxyz", list(labelled(scheme)), "extxyz")
        return tmp_path / "set.extxyz"

    return make


@pytest.mark.parametrize("prepared", [False, True])
def test_finetune_on_the_command_line(cgcnn_ase, exported, small_model, tmp_path, prepared):
    data, column = exported(FAST), ["--target", "formation_energy_per_atom"]
    if prepared:
        (tmp_path / "c.yaml").write_text(
            json.dumps({"graph": json.loads((small_model / "config.json").read_text())["graph"]})
        )
        ran = cgcnn_ase("prepare", data, *column, "--config", tmp_path / "c.yaml", "--output", tmp_path / "P")
        assert ran.code == 0, ran.err
        data = tmp_path / "P"
        assert not PreparedData.load(data).labels_converged
    ran = cgcnn_ase("finetune", small_model, data, *column, "--epochs", "1", "--output", tmp_path / "RUN")
    assert ran.code == 0, ran.err
    assert prepared or "set.extxyz: of 40 of 40 calculations is marked that the energies of its labels are" in ran.err
    best = tmp_path / "RUN" / "best"
    card = (best / "README.md").read_text()
    assert CARD in card
    assert STD in card
    assert json.loads((best / "config.json").read_text())["training"]["labels_converged"] is False


def test_what_is_tuned_from_a_marked_model_has_its_mark(cgcnn_ase, exported, small_model, tmp_path):
    """The labels of the second step are converged, those of the first are not."""
    model = load_folder(small_model)
    model.training_record = {**model.training_record, "labels_converged": False}
    save_model(model, tmp_path / "marked")
    ran = cgcnn_ase(
        "finetune", tmp_path / "marked", exported({**FAST, "converged": True}), "--target",
        "formation_energy_per_atom", "--epochs", "1", "--output", tmp_path / "RUN",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    best = tmp_path / "RUN" / "best"
    assert CARD in (best / "README.md").read_text()
    assert json.loads((best / "config.json").read_text())["training"]["labels_converged"] is False


def test_labels_without_the_mark(cgcnn_ase, exported, small_model, tmp_path):
    data = exported({**FAST, "converged": True})
    ran = cgcnn_ase(
        "finetune", small_model, data, "--target", "formation_energy_per_atom", "--epochs", "1",
        "--output", tmp_path / "RUN",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    card = (tmp_path / "RUN" / "best" / "README.md").read_text()
    assert "onverged" not in card + ran.err
    assert "3 networks together, tuned from small" in card
    assert "| formation_energy_per_atom | eV/atom | – | 32 | 4 | 4 |" in card
    assert "labels_converged" not in json.loads((tmp_path / "RUN" / "best" / "config.json").read_text())["training"]


def test_structures_in_python(small_model, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = finetune(small_model, list(labelled(FAST)), tmp_path / "RUN", settings=ROUGH)
    assert CARD in (result.model / "README.md").read_text()


def test_a_self_consistent_field_that_did_not_converge_is_another_matter(tmp_path):
    """It makes an energy useless, and the structure is left out; rough settings do not."""
    atoms = next(labelled(FAST))
    write(tmp_path / "rough.extxyz", atoms)
    (record,) = read_calculations(tmp_path / "rough.extxyz").calculations
    assert (record.converged, record.settings_converged) == (None, False)
    atoms.info = {"converged": False}
    write(tmp_path / "failed.extxyz", atoms)
    (failure,) = read_calculations(tmp_path / "failed.extxyz").failures
    assert failure.error == "its last self-consistent field did not converge"
