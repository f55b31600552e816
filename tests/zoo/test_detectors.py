"""Networks that tell perfect from defective supercells: what a small training learns, and what the pretrained know."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.io import read, write

from cgcnn_ase import load_model, predict
from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.models.registry import find_models, model_info, model_names
from cgcnn_ase.nn.cgcnn import CGCNNConfig
from cgcnn_ase.training.config import TrainConfig
from cgcnn_ase.training.member import best_network, train_member
from cgcnn_ase.zoo.defect_data import prepare_cells
from cgcnn_ase.zoo.detection_cells import DetectionConfig, cathode_cells, detection_cells

from ..published_layers import boron_nitride, molybdenum_disulfide

GRAPH = GraphConfig(rule="shell", angular=True, merge=True)
#: lattice constants of rock salts, Å (CRC Handbook of Chemistry and Physics)
ROCKSALT = {
    "LiF": 4.03, "LiCl": 5.14, "LiBr": 5.50, "NaF": 4.62, "NaCl": 5.64, "NaBr": 5.97, "NaI": 6.47, "KF": 5.35,
    "KCl": 6.29, "KBr": 6.60, "KI": 7.07, "RbF": 5.65, "RbCl": 6.58, "RbBr": 6.85, "RbI": 7.34, "CaO": 4.81,
    "SrO": 5.16, "BaO": 5.52, "MgS": 5.20, "CaS": 5.69, "SrS": 6.02, "MnO": 4.44, "FeO": 4.33, "CoO": 4.26,
    "TiC": 4.33, "TiN": 4.24, "VN": 4.14, "ScN": 4.51, "AgCl": 5.55, "AgBr": 5.77, "PbS": 5.94, "MgO": 4.21,
}  # fmt: skip


@pytest.fixture(scope="module")
def salts():
    """Vacancies in rock salts of 54 atoms, a fifth of the hosts for val."""
    hosts = [(name, bulk(name, "rocksalt", a=a)) for name, a in ROCKSALT.items()]
    cells = list(detection_cells(hosts, DetectionConfig(kinds=("vacancy",), supercell=3, n_defects=2)))
    split = {name: "val" if k % 5 == 0 else "train" for k, name in enumerate(ROCKSALT)}
    return prepare_cells(cells, split, GRAPH)


def accuracy(data, pooling, folder):
    """On val, of a network with this pooling, everything else the same."""
    network = CGCNNConfig(n_features=16, n_convolutions=2, n_hidden=32, n_gaussians=20, pooling=pooling)
    config = TrainConfig(graph=GRAPH, network=network, epochs=15, batch_size=16, learning_rate=1e-2, checkpoint="last")
    train_member(data, config, folder, progress=False)
    trained = best_network(data, config, folder).eval()
    rows = data.rows("val")
    with torch.inference_mode():
        classes = trained(data.graphs.batch(rows.tolist())).value.argmax(dim=1).numpy()
    return (classes == data.labels("val")[:, 0]).mean()


@pytest.mark.slow
def test_contrast_learns_what_the_mean_dilutes(salts, tmp_path):
    result = {pooling: accuracy(salts, pooling, tmp_path / pooling) for pooling in ("mean", "contrast")}
    assert result["contrast"] >= 0.95
    assert result["mean"] <= result["contrast"] - 0.15


def test_cathode_cells():
    cells = list(cathode_cells(["LiNiO2"], num=2, n_atoms=48, seed=1))
    again = list(cathode_cells(["LiNiO2"], num=2, n_atoms=48, seed=1))
    assert [cell.kind for cell in cells] == ["vacancy", "perfect", "exchange", "perfect"] * 2
    assert all(a.atoms == b.atoms and a.places == b.places for a, b in zip(cells, again, strict=True))
    for defective, perfect in zip(cells[::2], cells[1::2], strict=True):
        if defective.kind == "vacancy":
            assert len(perfect.atoms) - len(defective.atoms) == 1
            assert set(defective.atoms.symbols[list(defective.places)]) == {"O"}
            assert len(defective.places) == 6  # lithium is in an octahedron of oxygen
        else:
            changed = np.flatnonzero(defective.atoms.numbers != perfect.atoms.numbers)
            assert sorted(defective.places) == changed.tolist()
            assert sorted(defective.atoms.symbols[changed]) == ["Li", "Ni"]
    with pytest.raises(ValueError, match="gold"):
        next(cathode_cells(["gold"]))


# The pretrained models

pretrained = pytest.mark.skipif("defect-detection" not in model_names(), reason="the model is not trained")
of_sites = pytest.mark.skipif("defect-sites" not in model_names(), reason="the model is not trained")
SUPERCELLS = {
    "MoS2": molybdenum_disulfide() * (5, 5, 1),
    "BN": boron_nitride() * (6, 6, 1),
    "MgO": bulk("MgO", "rocksalt", a=4.212) * (4, 4, 4),
}


def probability(atoms):
    return predict("defect-detection", atoms).all[0].value


@pytest.fixture(scope="module")
def lithium_nickelate():
    """192 atoms; no cathode of this composition is in the training set."""
    return read(Path(__file__).resolve().parents[2] / "examples" / "structures" / "LiNiO2.cif") * (4, 4, 1)


@pretrained
@pytest.mark.parametrize("name", SUPERCELLS)
def test_vacancies_in_well_known_crystals(name):
    perfect = SUPERCELLS[name]
    assert probability(perfect) < 0.5
    for symbol in set(perfect.get_chemical_symbols()):
        atoms = perfect.copy()
        del atoms[[atom.index for atom in atoms if atom.symbol == symbol][7]]
        assert probability(atoms) > 0.5, symbol


@pretrained
def test_lithium_vacancy_in_a_cathode(lithium_nickelate):
    atoms = lithium_nickelate.copy()
    assert probability(atoms) < 0.5
    del atoms[[atom.index for atom in atoms if atom.symbol == "Li"][3]]
    assert probability(atoms) > 0.5


@pretrained
def test_order_and_origin_play_no_part():
    atoms = SUPERCELLS["MoS2"].copy()
    del atoms[10]
    expected = probability(atoms)
    rng = np.random.default_rng(0)
    moved = atoms[rng.permutation(len(atoms))]
    moved.positions += [1.3, 0.4, 0.7]
    moved.wrap()
    assert probability(moved) == pytest.approx(expected, abs=1e-3)


@of_sites
def test_a_dopant_is_named():
    atoms = SUPERCELLS["MgO"].copy()
    atoms.symbols[20] = "Be"
    result = predict("defect-sites", atoms).all
    assert max(result, key=lambda p: p.value).site_index == 20
    assert sum(p.multiplicity for p in result) == len(atoms)


@pretrained
def test_on_the_command_line(cgcnn_ase, tmp_path):
    perfect, defective = SUPERCELLS["BN"], SUPERCELLS["BN"].copy()
    del defective[5]
    for name, atoms in (("perfect", perfect), ("defective", defective)):
        write(tmp_path / f"{name}.cif", atoms)
    ran = cgcnn_ase("predict", tmp_path, "--model", "defect-detection", "--json")
    assert ran.code == 0, ran.err
    result = {p["id"]: p for p in json.loads(ran.out)}
    assert result["perfect"]["value"] < 0.5 < result["defective"]["value"]
    assert result["defective"]["unit"] == "probability"


@of_sites
def test_all_are_the_properties_of_the_material():
    assert not {"defect-detection", "defect-sites"} & {ref.name for ref in find_models("all")}


@pytest.mark.slow
@of_sites
@pytest.mark.parametrize("name", ["defect-detection", "defect-sites"])
def test_small_and_documented(name):
    (ref,) = find_models(name)
    assert sum(file.stat().st_size for file in ref.path.iterdir()) < 3e6
    assert load_model(name).calibration is not None
    assert model_info(name).test["auc"] >= 0.97
    assert "2DMatPedia" in (ref.path / "README.md").read_text(encoding="utf-8")
