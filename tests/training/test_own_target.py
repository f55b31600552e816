"""Which column a fine-tuning learns: other names of the model's target keep its head, any other name is told."""

import json

import numpy as np
import pytest
import torch
from ase.io import write

from cgcnn_ase import load_model, predict
from cgcnn_ase.core.targets import Scaler, TargetSpec, column_of, is_name_of, known_targets
from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.models.checkpoint import save_model
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.models.registry import model_info, model_names
from cgcnn_ase.nn.cgcnn import CGCNNConfig
from cgcnn_ase.nn.network import Network, NetworkConfig
from cgcnn_ase.training import finetune
from cgcnn_ase.training.run_data import DataSource

FORMATION = TargetSpec(name="formation_energy_per_atom", unit="eV/atom", per_atom=True)
MODULUS = TargetSpec(name="bulk_modulus", unit="GPa", transform="log10")
METAL = TargetSpec(name="is_metal", unit="probability", task="classification")
SHIFT = -4.875


def model_of(target):
    torch.manual_seed(0)
    network = CGCNNConfig(n_features=8, n_convolutions=2, n_hidden=8, n_gaussians=8)
    return CrystalModel(
        [Network(NetworkConfig(architecture=network, n_outputs=target.n_outputs))],
        graph=GraphConfig(cutoff=5.0, n_neighbors=6, merge=True), target=target, scaler=Scaler(-1.0, 2.0), name="base",
    )  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_model(model_of(FORMATION), tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def structures(make_crystals):
    return make_crystals(32)[0]


@pytest.fixture(scope="module")
def folder(structures, base, tmp_path_factory):
    """A data set whose labels are the model's own predictions and a constant; each test names its column."""
    path = tmp_path_factory.mktemp("own") / "set"
    path.mkdir()
    for k, atoms in enumerate(structures):
        write(path / f"c{k}.cif", atoms)
    labels = predict(base, [str(path / f"c{k}.cif") for k in range(len(structures))]).to_frame()["value"] + SHIFT

    def named(*names):
        rows = [",".join([f"c{k}", *[repr(float(label))] * len(names)]) for k, label in enumerate(labels)]
        (path / "id_prop.csv").write_text("\n".join([",".join(["cif_id", *names]), *rows]) + "\n")
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CGCNN_ASE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield named


@pytest.fixture
def tune(cgcnn_ase, base, tmp_path):
    def run(data, *options):
        return cgcnn_ase("finetune", base, data, "--output", tmp_path / "run", "--epochs", 1, *options)

    return run


NAMES = {
    "formation_energy_per_atom": ["formation_energy", "Formation Energy (eV/atom)", "e_form", "Eform", "Ef", "delta_e"],
    "band_gap": ["gap", "bandgap", "Band-Gap", "band_gap [eV]"],
    "bulk_modulus": ["K_VRH"],
    "efermi": ["fermi_energy", "E_f"],
}


@pytest.mark.parametrize("target", NAMES)
def test_names_of_targets(target):
    for name in NAMES[target]:
        assert is_name_of(name, target), name
        assert target in known_targets(name)
        assert not is_name_of(name, "poisson_ratio")


def test_every_pretrained_target_of_crystals_is_known_by_its_own_name():
    targets = {model_info(name).target for name in model_names()}
    unknown = {t for t in targets if not known_targets(t)}
    assert {t for t in unknown if "vacancy" not in t} == {"is_defective", "is_defect_site"}


def test_its_own_name_comes_before_another():
    assert column_of("band_gap", ["gap", "band_gap"]) == ["band_gap"]
    assert column_of("band_gap", ["gap", "bandgap", "x"]) == ["gap", "bandgap"]


def test_the_name_in_the_docs_keeps_head_and_scale_and_before_is_shown_without_the_constant(
    tune, folder, base, tmp_path
):
    """The labels are the model's predictions less 4.875 eV/atom: beside that constant there is nothing to learn."""
    ran = tune(folder("formation_energy"), "--target", "formation_energy", "--unit", "eV/atom")
    assert ran.code == 0, ran.err
    tuned = load_model(tmp_path / "run")
    assert (tuned.target, tuned.scaler) == (FORMATION, load_model(base).scaler)
    assert "formation_energy is learned as formation_energy_per_atom (eV/atom)" in ran.err
    assert "new head" not in ran.err
    (row,) = json.loads((tmp_path / "run" / "before_after.json").read_text())
    assert row["knew"]
    assert row["before"]["mae"] == pytest.approx(-SHIFT, abs=1e-4)
    assert row["offset"] == pytest.approx(SHIFT, abs=1e-4)
    assert row["before_without_offset"]["mae"] == pytest.approx(0.0, abs=1e-4)
    assert "before with the constant -4.8750 added: 0.0000" in ran.out


def test_the_same_from_python(structures, base, tmp_path):
    labelled = [atoms.copy() for atoms in structures]
    for k, atoms in enumerate(labelled):
        atoms.info["formation_energy"] = -1.0 - k / 50
    result = finetune(base, labelled, tmp_path / "run", target="formation_energy", settings={"epochs": 1})
    assert result.targets == (FORMATION,)
    assert result.before_after[0]["knew"]
    source = DataSource(labelled, model=load_model(base))
    assert (source.columns, source.target) == (("formation_energy",), FORMATION)


def test_another_name_is_told(tune, folder, tmp_path):
    ran = tune(folder("energy"), "--target", "energy")
    assert ran.code == 0, ran.err
    assert load_model(tmp_path / "run").target.name == "energy"
    assert "energy (regression): not the target of base, formation_energy_per_atom (regression, eV/atom)" in ran.err
    assert "so a new head is learned" in ran.err
    assert "names of that target: formation_energy_per_atom, formation_energy, " in ran.err


@pytest.mark.parametrize(
    ("columns", "options", "words"),
    [
        (["band_gap"], [], "'band_gap' is band_gap; say which column is meant with --target"),
        (["gap", "volume"], [], "'gap' is band_gap"),
        (["formation_energy", "e_form", "x"], [], "formation_energy, e_form are names of formation_energy_per_atom"),
        (["formation_energy_per_atom"], ["--target", "formation_energy_per_atom", "--unit", "meV/atom"],
         "unit 'meV/atom': the model to tune has formation_energy_per_atom in eV/atom; convert the labels"),
    ],
)  # fmt: skip
def test_what_would_be_learned_as_something_else_is_refused(tune, folder, tmp_path, columns, options, words):
    ran = tune(folder(*columns), *options)
    assert ran.code == 2
    assert words in ran.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("target", "column", "options", "same"),
    [
        (FORMATION, "formation_energy", {}, True),
        (FORMATION, "formation_energy:regression", {}, True),
        (FORMATION, "formation_energy:log10", {}, False),
        (FORMATION, "formation_energy", {"unit": "eV"}, False),  # of the cell
        (MODULUS, "K_VRH", {"unit": "GPa"}, True),
        (MODULUS, "K_VRH:log10", {}, True),
        (MODULUS, "K_VRH:regression", {}, False),
        (METAL, "is_metal", {}, True),
        (METAL, "is_metal:regression", {}, False),
        (METAL, "gap", {}, False),
    ],
)
def test_what_a_column_is_learned_as(folder, target, column, options, same):
    source = DataSource(folder(column.partition(":")[0], "other"), column, **options, model=model_of(target))
    assert source.target == (target if same else None)


def test_of_several_columns_the_models_own_is_taken(folder):
    source = DataSource(folder("volume", "Formation Energy (eV/atom)", "gap"), model=model_of(FORMATION))
    assert source.columns == ("Formation Energy (eV/atom)",)
    assert source.target == FORMATION


@pytest.mark.parametrize("options", [["--target", "formation_energy"], []])
def test_prepared_data_of_another_name(folder, cgcnn_ase, base, tmp_path, options):
    (tmp_path / "c.yaml").write_text("graph: {cutoff: 5.0, n_neighbors: 6, merge: true}\n")
    data, output = folder("formation_energy"), tmp_path / "prepared"
    ran = cgcnn_ase("prepare", data, "--config", tmp_path / "c.yaml", "--output", output, *options)
    assert ran.code == 0, ran.err
    source = DataSource(tmp_path / "prepared", model=load_model(base))
    assert source.prepared.specs == (FORMATION,)
    assert np.isfinite(source.prepared.targets).all()


def test_evaluate_takes_the_column_of_the_models_target(folder, base, cgcnn_ase):
    ran = cgcnn_ase("evaluate", base, folder("volume", "gap", "formation_energy"), "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["mae"] == pytest.approx(-SHIFT, abs=1e-4)
    ran = cgcnn_ase("evaluate", base, folder("gap"))
    assert ran.code == 2
    assert "no column is formation_energy_per_atom, the model's target" in ran.err


def test_parts_of_data_with_a_split_are_refused(structures, base, cgcnn_ase, tmp_path):
    """They would have no effect."""
    np.savez(
        tmp_path / "structures.npz",
        ids=np.array([str(k) for k in range(32)]),
        lattice=np.array([atoms.cell.array for atoms in structures]),
        offsets=np.cumsum([0, *(len(atoms) for atoms in structures)]),
        numbers=np.concatenate([atoms.numbers for atoms in structures]),
        frac=np.concatenate([atoms.get_scaled_positions() for atoms in structures]),
    )
    rows = [f"{k},{k / 10},{'val' if k % 4 == 0 else 'train'}" for k in range(32)]
    (tmp_path / "properties.csv").write_text("\n".join(["id,formation_energy,split", *rows]) + "\n")
    ran = cgcnn_ase("finetune", base, tmp_path, "--output", tmp_path / "run", "--val", 0.2)
    assert ran.code == 2
    assert "has a split of its own, so --val would have no effect; leave it out" in ran.err
