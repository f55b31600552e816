"""Screening: costs by either estimate, the ranking, what is written for DFT, and the command."""

import csv
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk, mx2
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.io import read, write
from ase.io.espresso import read_espresso_in

from cgcnn_ase import predict
from cgcnn_ase.defects.costs import DefectEnergyEstimate, SiteModelEstimator, SupercellEstimator, cost_estimate
from cgcnn_ase.defects.manifest import Manifest
from cgcnn_ase.defects.point import point_defects
from cgcnn_ase.defects.ranking_plot import histogram, ranking
from cgcnn_ase.defects.screening import (
    Ranking,
    Screened,
    Screening,
    k_points,
    screen,
    screen_hosts,
    write_dft_folder,
)
from cgcnn_ase.models.checkpoint import save_model

from ..conftest import make_model


@pytest.fixture(scope="module")
def site_model():
    model = make_model(calibration=False, name="vacancy_energy", unit="eV", pooling="site", norm="layer")
    model.target = replace(model.target, level="site")
    return model


@pytest.fixture(scope="module")
def energy_model():
    return make_model(norm="layer")


def _perovskite():
    from ase import Atoms

    places = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
    return Atoms("SrTiO3", scaled_positions=places, cell=[3.905] * 3, pbc=True)


# Costs


def test_from_sites_each_vacancy_has_the_energy_of_its_site(site_model):
    host = _perovskite()
    result = screen(host, model=site_model, supercell=2, name="STO")
    prediction = predict(site_model, [host])
    assert [s.cost.defect for s in result] == ["v_Sr", "v_Ti", "v_O"]
    for one in result:
        value, std = prediction[f"0:{one.cost.site_index}"]
        assert (one.cost.energy, one.cost.std) == (value, std)
        assert len(one.defect.atoms) == 39
    assert sum(s.cost.multiplicity for s in result) == 5


def test_from_supercells_is_the_difference_with_the_chemical_potential():
    """Of an ASE calculator, by hand."""
    host = bulk("Cu", cubic=True)
    result = screen(host, supercell=2, estimate=SupercellEstimator(EMT(), {"Cu": -0.5}), name="Cu")
    assert len(result) == 1
    pristine, defective = host.repeat(2), host.repeat(2)
    del defective[0]
    pristine.calc = defective.calc = EMT()
    by_hand = defective.get_potential_energy() - pristine.get_potential_energy() - 0.5
    assert result[0].cost.energy == pytest.approx(by_hand, abs=1e-9)
    assert result[0].cost.std is None
    assert result[0].cost.in_domain is None


def test_the_estimate_follows_the_model(site_model, energy_model, tmp_path):
    save_model(site_model, tmp_path / "sites")
    save_model(energy_model, tmp_path / "energies")
    assert isinstance(cost_estimate(site_model), SiteModelEstimator)
    assert isinstance(cost_estimate(str(tmp_path / "sites")), SiteModelEstimator)
    for model in (energy_model, str(tmp_path / "energies"), LennardJones()):
        assert isinstance(cost_estimate(model), SupercellEstimator)
    with pytest.raises(ValueError, match="chemical potentials are of models of energies"):
        cost_estimate(site_model, chemical_potentials={"O": -5.0})
    with pytest.raises(ValueError, match="an energy needs one model of formation_energy_per_atom"):
        cost_estimate(make_model(name="band_gap", unit="eV"))
    with pytest.raises(ValueError, match="fidelity"):
        cost_estimate("band-gap", fidelity="witman")


def test_a_model_of_sites_knows_vacancies_only(site_model):
    with pytest.raises(ValueError, match=r"STO-Ti_Sr-0.* knows vacancies, not the kind 'antisite'"):
        screen(_perovskite(), "antisite", model=site_model, supercell=2, elements=["Sr"], name="STO")


def test_all_single_kinds_with_a_model_of_energies(energy_model):
    kinds = ["vacancy", "antisite", "substitution", "interstitial"]
    result = screen(_perovskite(), kinds, model=energy_model, supercell=2, dopants=["Mg"], name="STO")
    assert {s.cost.kind for s in result} == set(kinds)
    assert all(np.isfinite(s.cost.energy) and s.cost.std > 0 for s in result)
    # what is wrong by eV (docs/concepts/defect_energies) is marked, row by row
    trusted = {s.cost.defect for s in result if s.cost.in_domain is not False or "wrong by eV" not in s.cost.reason}
    assert trusted == {"v_O"}
    reasons = {s.cost.defect: s.cost.reason for s in result}
    assert "wrong by eV for Sr vacancies, with too small a std; take --model chgnet, or DFT" in reasons["v_Sr"]
    assert "wrong by eV for the kind antisite" in next(s.cost.reason for s in result if s.cost.kind == "antisite")
    assert Ranking(s for s in result if s.cost.kind == "antisite").warning().startswith("all ")
    assert [Manifest.from_info(s.defect.atoms.info).id for s in result] == [s.cost.id for s in result]


def test_a_layer(energy_model):
    layer = mx2("MoS2", a=3.18, thickness=3.19, vacuum=8.0)
    result = screen(layer, model=energy_model, supercell=3, name="MoS2")
    assert [(s.cost.defect, s.cost.n_atoms) for s in result] == [("v_Mo", 26), ("v_S", 26)]


# Ranking


def cost(k, energy, std=0.1, *, in_domain=True, reason="") -> Screened:
    made = DefectEnergyEstimate(
        id=f"d{k}", host="h", kind="vacancy", defect="v_O", site_index=k, multiplicity=1, energy=energy, std=std,
        lower=None, upper=None, in_domain=in_domain, reason=reason, formula="X", n_atoms=1, model="m",
    )  # fmt: skip
    return Screened(None, made)


def test_a_ranking_of_which_no_row_is_in_domain_says_so_in_one_line():
    outside = [cost(k, 1.0, in_domain=False, reason=f"no {'Li' if k < 2 else 'Ni'}") for k in range(3)]
    words = "all 3 defects are out of the domain of the model: no Li (2), and no Ni (1)"
    assert Ranking(outside).warning() == words
    assert Ranking(outside[:1]).warning() == "the only defect is out of the domain of the model: no Li"
    for other in (True, None):
        assert Ranking([*outside, cost(9, 1.0, in_domain=other)]).warning() is None
    assert Ranking([]).warning() is None


def test_the_ranking_against_sorting():
    rng = np.random.default_rng(0)
    rows = [cost(k, float(e), float(s)) for k, (e, s) in enumerate(rng.normal(size=(200, 2)) ** 2)]
    result = Ranking(iter(rows), n_lowest=7, n_uncertain=5)
    by_energy = sorted(rows, key=lambda row: row.cost.energy)
    assert result.costs == [row.cost for row in by_energy]
    assert result.lowest == by_energy[:7]
    assert result.uncertain == sorted(rows, key=lambda row: -row.cost.std)[:5]
    assert result.to_frame()["id"].tolist() == [row.cost.id for row in by_energy]


def test_ties_and_nothing_kept():
    rows = [cost(k, 1.0) for k in (3, 1, 2)]
    assert [c.id for c in Ranking(rows).costs] == ["d1", "d2", "d3"]
    assert [s.cost.id for s in Ranking(rows, n_lowest=2).lowest] == ["d3", "d1"]  # of equal ones the first
    assert Ranking(rows, n_lowest=0, n_uncertain=0).lowest == []
    assert Ranking([cost(0, 1.0, None)]).uncertain == []
    with pytest.raises(ValueError, match="n_lowest must be 0 or more, not -1"):
        Ranking(rows, n_lowest=-1)


def test_hosts_in_one_process_or_several(energy_model, tmp_path):
    """The same, in order; a host that cannot be screened says why and costs the others nothing."""
    save_model(energy_model, tmp_path / "model")
    hosts = [("STO", _perovskite()), ("Cu", bulk("Cu")), ("STO-2", _perovskite())]
    screening = Screening(model=str(tmp_path / "model"), options={"elements": ["O"], "supercell": 2})
    one, two = (list(screen_hosts(hosts, screening, workers=n)) for n in (1, 2))
    for results in (one, two):
        assert [r.name for r in results] == ["STO", "Cu", "STO-2"]
        assert results[1].defects == []
        assert "Cu" in results[1].error
        assert "O" in results[1].error
        assert [len(r.defects) for r in results] == [1, 0, 1]
    for a, b in zip(one, two, strict=True):
        assert [s.cost.energy for s in a.defects] == pytest.approx([s.cost.energy for s in b.defects], rel=1e-4)


# For DFT


def test_a_dft_folder(energy_model, tmp_path):
    (result,) = screen(_perovskite(), model=energy_model, supercell=2, elements=["O"], name="STO")
    folder = write_dft_folder(tmp_path / "one", result, pseudopotentials={"O": "O_pbe.upf"})
    atoms = result.defect.atoms
    for name, options in (("structure.extxyz", {}), ("POSCAR", {"format": "vasp"})):
        again = read(folder / name, **options)
        assert again.get_chemical_formula() == atoms.get_chemical_formula()
        assert np.allclose(again.cell, atoms.cell)
        distances = again.get_all_distances(mic=True)
        assert np.allclose(
            np.sort(distances, axis=None), np.sort(atoms.get_all_distances(mic=True), axis=None), atol=1e-6
        )
    with (folder / "espresso.in").open() as file:
        again = read_espresso_in(file)
    assert again.get_chemical_symbols() == atoms.get_chemical_symbols()
    assert np.allclose(again.positions, atoms.positions, atol=1e-6)
    text = (folder / "espresso.in").read_text()
    assert "O_pbe.upf" in text
    assert "Sr.upf" in text
    assert "nspin" not in text  # no open d or f shell
    origin = json.loads((folder / "origin.json").read_text())
    assert origin["cost"]["id"] == origin["manifest"]["id"] == "STO-v_O-0"


def test_magnetic_elements_start_with_a_moment(energy_model, tmp_path):
    (result,) = screen(bulk("NiO", "rocksalt", a=4.18), model=energy_model, supercell=2, elements=["O"], name="NiO")
    text = (write_dft_folder(tmp_path / "one", result) / "espresso.in").read_text()
    assert "nspin" in text
    assert "starting_magnetization" in text


def test_k_points():
    """At most the spacing apart, and one fewer would be farther."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        atoms = bulk("Cu", cubic=True)
        atoms.set_cell(np.diag(rng.uniform(3, 20, 3)) + rng.uniform(-1, 1, (3, 3)))
        lengths = np.linalg.norm(atoms.cell.reciprocal(), axis=1) * 2 * np.pi
        counts = np.array(k_points(atoms, spacing=0.25))
        assert (lengths / counts <= 0.25 + 1e-9).all()
        assert (lengths[counts > 1] / (counts[counts > 1] - 1) > 0.25).all()
    atoms.pbc = (True, True, False)
    assert k_points(atoms)[2] == 1


# Pictures


@pytest.mark.parametrize("n", [1, 5, 400])
def test_pictures(n, tmp_path):
    rng = np.random.default_rng(0)
    costs = [
        replace(cost(k, float(rng.normal(3, 1))).cost, in_domain=bool(k % 7), defect=f"v_{k % 9}") for k in range(n)
    ]
    (axes,) = ranking(costs).axes
    drawn = sum(len(line.get_xdata()) for line in axes.lines if line.get_marker() == "o")
    assert drawn == n
    (axes,) = histogram(costs).axes
    assert sum(patch.get_height() for patch in axes.patches) >= 0
    assert sum(int(bar.get_height()) for container in axes.containers for bar in container) == n


# The command


def run(*arguments, cwd=None):
    command = [sys.executable, "-m", "cgcnn_ase.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=cwd)


@pytest.fixture(scope="module")
def model_folder(energy_model, tmp_path_factory):
    return save_model(energy_model, tmp_path_factory.mktemp("models") / "energies")


def test_a_folder_of_hosts(model_folder, tmp_path):
    hosts = tmp_path / "hosts"
    hosts.mkdir()
    write(hosts / "STO.cif", _perovskite())
    write(hosts / "MgO.cif", bulk("MgO", "rocksalt", a=4.21, cubic=True))
    (hosts / "broken.cif").write_text("nothing")
    done = run("screen", hosts, "--model", model_folder, "--output", tmp_path / "out", "--supercell", "2", "--top", "2",
               "--uncertain", "1", "--json")  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "broken.cif" in done.stderr
    rows = json.loads(done.stdout)
    with (tmp_path / "out" / "ranking.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [row["id"] for row in table]
    assert {row["host"] for row in rows} == {"STO", "MgO"}
    assert [row["energy"] for row in rows] == sorted(row["energy"] for row in rows)
    lowest = sorted(path.name for path in (tmp_path / "out" / "dft" / "lowest").iterdir())
    assert lowest == [f"{k:03d}_{row['id']}" for k, row in enumerate(rows[:2], start=1)]
    assert len(list((tmp_path / "out" / "dft" / "uncertain").iterdir())) == 1
    for name in ("ranking.png", "histogram.png"):
        assert (tmp_path / "out" / name).stat().st_size > 10_000


def test_a_cathode_by_name(model_folder, tmp_path):
    done = run("screen", "NCM811", "--element", "Li", "--num", "2", "--n-atoms", "40", "--model", model_folder,
               "--output", tmp_path / "out")  # fmt: skip
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out" / "ranking.csv").open() as file:
        table = list(csv.DictReader(file))
    assert {row["host"] for row in table} == {"NCM811-0", "NCM811-1"}
    assert {row["defect"] for row in table} == {"v_Li"}
    again = run("screen", "NCM811", "--element", "Li", "--model", model_folder, "--output", tmp_path / "out")
    assert again.returncode == 2
    assert "holds a ranking.csv already" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.cif"], "nowhere.cif: no such file or folder"),
        (["Unobtainium"], "no such file or folder, and no cathode"),
        (["LiNiO2", "--kind", "hole"], "hole"),
        (["LiNiO2", "--element", "Fe"], "Fe"),
        (["LiNiO2", "--mu", "O:-5"], "--mu O:-5: give an element and its energy"),
        (["LiNiO2", "--mu", "Xx=-5"], "'Xx' is no element"),
        (["LiNiO2", "--supercell", "2x2"], "--supercell 2x2"),
        (["LiNiO2", "--model", "gold-price"], "no model 'gold-price'"),
        (["LiNiO2", "--num", "0"], "num must be at least 1"),
        (["LiNiO2", "--top", "-1"], "n_lowest must be 0 or more"),
    ],
)
def test_bad_input(arguments, words, model_folder, tmp_path):
    model = [] if "--model" in arguments else ["--model", model_folder]
    done = run("screen", *arguments, *model, "--output", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_an_own_estimate():
    def estimate(name, host, defects):
        return [replace(cost(k, float(k)).cost, id=manifest.id) for k, (_, manifest) in enumerate(defects)]

    result = screen(_perovskite(), estimate=estimate, supercell=2, name="STO")
    assert [s.cost.energy for s in result] == [0.0, 1.0, 2.0]
    assert len(result) == len(list(point_defects(_perovskite(), supercell=2)))
