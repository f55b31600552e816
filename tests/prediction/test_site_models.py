"""Models of sites: a prediction for each symmetry-distinct site, with the trust in it."""

import csv
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.io import write

from cgcnn_ase import CGCNNCalculator, Predictor, predict
from cgcnn_ase.explain.explain import explain
from cgcnn_ase.graphs.builder import build_graphs, graphs_and_nodes
from cgcnn_ase.graphs.crystal_graph import composition, crystal_index
from cgcnn_ase.models.checkpoint import load_models, save_model
from cgcnn_ase.models.registry import ALIASES, UnknownModelError, find_models, model_level, with_fidelity
from cgcnn_ase.prediction.results import COLUMNS, SITE_COLUMNS
from cgcnn_ase.uncertainty import CalibrationData, RegressionCalibration

from ..conftest import make_model, random_crystal


@pytest.fixture(scope="module")
def site_model():
    """An ensemble of three that knows magnesium, oxygen and nickel, and vacancies of oxygen and magnesium only."""
    model = make_model(calibration=False, name="vacancy_energy", unit="eV", pooling="site", norm="layer")
    model.target = replace(model.target, level="site")
    rng = np.random.default_rng(0)
    graph = build_graphs([random_crystal(rng) for _ in range(60)], model.graph)
    with torch.inference_mode():
        out = model(graph)
    fractions = composition(graph)[crystal_index(graph)].numpy()
    data = CalibrationData(
        labels=out.estimate.mean + rng.laplace(scale=0.05, size=len(fractions)),
        composition=fractions,
        training_embedding=out.embedding.numpy(),
        training_composition=fractions,
        site_elements={8, 12},
    )
    model.calibration = RegressionCalibration.fit(out, data)
    return model


@pytest.fixture
def rock_salts():
    cells = [bulk("MgO", "rocksalt", a=4.21, cubic=True), bulk("NiO", "rocksalt", a=4.18).repeat((2, 1, 1))]
    for cell in cells:
        cell.rattle(1e-6, seed=1)
    return cells


def test_one_row_a_distinct_site(site_model, rock_salts):
    results = predict(site_model, rock_salts)
    assert list(results) == ["0:0", "0:1", "1:0", "1:1"]
    frame = results.to_frame()
    assert list(frame.columns) == list(SITE_COLUMNS)
    assert frame.site_index.tolist() == [0, 1, 0, 1]
    assert frame.element.tolist() == ["Mg", "O", "Ni", "O"]
    assert frame.multiplicity.tolist() == [4, 4, 2, 2]
    assert (frame["std"] > 0).all()
    assert ((frame.lower < frame.value) & (frame.value < frame.upper)).all()
    assert set(predict(make_model(), rock_salts).to_frame().columns) == set(COLUMNS)


def test_every_site_has_the_value_that_the_network_gives_it(site_model):
    """Atom by atom, on graphs that hold every atom."""
    rng = np.random.default_rng(5)
    crystals = [random_crystal(rng) for _ in range(6)] + [bulk("MgO", "rocksalt", a=4.21, cubic=True)]
    result = predict(site_model, crystals)
    for k, atoms in enumerate(crystals):
        with torch.inference_mode():
            values = site_model(build_graphs([atoms], replace(site_model.graph, merge=False))).values.mean(dim=0)
        for name, (value, _) in result.items():
            structure, _, site = name.partition(":")
            if int(structure) == k:
                assert value == pytest.approx(float(values[int(site)]), rel=1e-4, abs=1e-5)


def test_equivalent_cells_have_the_same_sites(site_model):
    """A larger cell, with its atoms in another order, has the same values and more of each site."""
    cell = bulk("MgO", "rocksalt", a=4.21, cubic=True)
    large = cell.repeat(2)[np.random.default_rng(0).permutation(64)]
    small, big = (predict(site_model, [atoms]).to_frame().sort_values("element") for atoms in (cell, large))
    assert np.allclose(small.value, big.value, rtol=1e-4)
    assert (big.multiplicity.to_numpy() == 8 * small.multiplicity.to_numpy()).all()


def test_a_site_of_an_element_without_labels_is_not_in_the_domain(site_model, rock_salts, tmp_path):
    save_model(site_model, tmp_path / "model")
    for model in (site_model, tmp_path / "model"):
        frame = predict(model, rock_salts).to_frame()
        nickel = frame.element == "Ni"
        assert not frame.in_domain[nickel].any()
        assert frame.reason[nickel].str.contains("no training structure has a labelled site of Ni").all()
        assert not frame.reason[~nickel].str.contains("labelled").any()
    assert load_models(tmp_path / "model")[0].calibration.domain.site_elements == {8, 12}


def test_nodes_of_atoms(site_model):
    """The node of an atom has its element; a merged graph gives equivalent atoms one node."""
    cell = bulk("MgO", "rocksalt", a=4.21, cubic=True)
    other = random_crystal(np.random.default_rng(2))
    for merge in (True, False):
        graph, nodes = graphs_and_nodes([cell, other], replace(site_model.graph, merge=merge))
        numbers = np.concatenate([cell.numbers, other.numbers])
        assert (graph.numbers.numpy()[nodes] == numbers).all()
        assert len(set(nodes[:8].tolist())) == (2 if merge else 8)


def test_files_and_workers(site_model, rock_salts, tmp_path):
    """In one process or in several: the same rows, a broken file among them, and one output line for each site."""
    save_model(site_model, tmp_path / "model")
    folder = tmp_path / "files"
    folder.mkdir()
    for k in range(6):
        write(folder / f"s{k}.cif", rock_salts[k % 2])
    (folder / "s3.cif").write_text("nothing")
    one, two = (Predictor(tmp_path / "model", workers=n)(folder) for n in (1, 2))
    assert list(one) == list(two)
    assert [name.partition(":")[0] for name in one] == [f"s{k}" for k in (0, 1, 2, 4, 5) for _ in range(2)]
    assert [p.id for p in two.failures] == ["s3"]


def test_with_a_model_of_crystals_beside_it(site_model, rock_salts):
    crystal_model = make_model()
    result = predict([crystal_model, site_model], rock_salts)
    assert [p.site_index for p in result.all] == [None, 0, 1] * 2
    assert list(result)[:3] == [
        f"0/{crystal_model.name}",
        f"0:0/{site_model.name}",
        f"0:1/{site_model.name}",
    ]


def run(*arguments):
    command = [sys.executable, "-m", "cgcnn_ase.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_command_line(site_model, rock_salts, tmp_path):
    save_model(site_model, tmp_path / "model")
    write(tmp_path / "MgO.cif", rock_salts[0])
    done = run("predict", tmp_path / "MgO.cif", "--model", tmp_path / "model")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(done.stdout.splitlines()))
    written = [(row["site_index"], row["element"], row["multiplicity"]) for row in rows]
    assert written == [("0", "Mg", "4"), ("4", "O", "4")]  # the writer puts equal elements together
    done = run("predict", tmp_path / "MgO.cif", "--model", tmp_path / "model", "--output", tmp_path / "out.extxyz")
    assert done.returncode == 2
    assert "of sites take .csv or .json" in done.stderr


def test_what_reads_one_value_a_structure_refuses_a_model_of_sites(site_model):
    with pytest.raises(ValueError, match="predicts sites"):
        CGCNNCalculator(site_model)
    with pytest.raises(ValueError, match="predicts sites|each site"):
        explain(bulk("MgO", "rocksalt", a=4.21), model=site_model)


def test_fidelity():
    name = "vacancy-formation-energy"
    assert [with_fidelity(name, each) for each in (None, "witman", "kumagai")] == [name, name, f"{name}-kumagai"]
    assert ALIASES["vacancy-formation-energy-witman"] == name
    with pytest.raises(UnknownModelError, match="'gold' of vacancy-formation-energy; allowed: witman, kumagai, jarvis"):
        with_fidelity(name, "gold")
    with pytest.raises(UnknownModelError, match="band-gap was trained on one set"):
        with_fidelity("band-gap", "witman")


def test_all_leaves_models_of_sites_out():
    assert {model_level(ref) for ref in find_models("all")} == {"crystal"}
