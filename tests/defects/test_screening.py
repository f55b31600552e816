"""Screening: costs by either estimate, the ranking, what is written for DFT, and the command."""

import csv
import json
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
from cgcnn_ase.defects.dft_folder import k_points, write_dft_folder, write_pristine_folders
from cgcnn_ase.defects.plan import Manifest
from cgcnn_ase.defects.point import point_defects
from cgcnn_ase.defects.ranking_plot import histogram, ranking, typeset
from cgcnn_ase.defects.screening import (
    Ranking,
    Screened,
    Screening,
    screen,
    screen_hosts,
)
from cgcnn_ase.energies.interface import SHRINKAGE, Energies
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


# Second opinions


def test_a_model_agrees_with_itself_and_another_disagrees(site_model, energy_model):
    host = _perovskite()
    for model in (energy_model, site_model):
        alone, same = (screen(host, model=model, supercell=2, **more) for more in ({}, {"second_opinion": [model]}))
        assert [one.cost.energy for one in same] == [one.cost.energy for one in alone]
        assert [one.cost.second_opinion_std for one in same] == [0.0] * 3
        assert [one.cost.second_opinion_std for one in alone] == [None] * 3
    other = make_model(norm="layer", seed=1)
    columns = [[one.cost.energy for one in screen(host, model=model, supercell=2)] for model in (energy_model, other)]
    result = Ranking(screen(host, model=energy_model, second_opinion=other, supercell=2, name="STO")).to_frame()
    by_hand = dict(zip(columns[0], np.std(columns, axis=0), strict=True))
    assert result["second_opinion_std"].tolist() == pytest.approx([by_hand[energy] for energy in result["energy"]])


def test_an_opinion_of_energies_on_a_model_of_sites(site_model, energy_model):
    """Of differences of unrelaxed supercells it is the same quantity, of other labels not."""
    host, unrelaxed = _perovskite(), make_model(calibration=False, name="vacancy_energy", unit="eV", pooling="site")
    with pytest.raises(ValueError, match=r"no second opinion on small-vacancy-energy by small-formation.* relaxed"):
        screen(host, model=site_model, second_opinion=energy_model, supercell=2)
    unrelaxed.target = replace(site_model.target, name="vacancy_energy", level="site")
    unrelaxed.training_record = {"scale": "other:chgnet"}
    with pytest.raises(ValueError, match=r"it learned other calculations, vacancy_energy \(other:chgnet\)"):
        screen(host, model=site_model, second_opinion=unrelaxed, supercell=2)
    result = screen(host, model=unrelaxed, second_opinion=[energy_model], supercell=2)
    for one, other in zip(result, screen(host, model=energy_model, supercell=2), strict=True):
        assert one.cost.second_opinion_std == pytest.approx(abs(one.cost.energy - other.cost.energy) / 2)
    with pytest.raises(ValueError, match="an energy needs one model of"):
        screen(host, model=energy_model, second_opinion=site_model, supercell=2)


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


@pytest.mark.slow
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


# What can be trusted in the order


def with_members(rows, stds=None):
    """Costs whose members (M, N) are given; the energy is their mean, the std their spread unless given."""
    members = np.array(rows, dtype=float)
    spread = members.std(axis=0) if stds is None else stds
    return [
        Screened(None, replace(cost(k, float(mean), float(std)).cost, members=tuple(column)))
        for k, (mean, std, column) in enumerate(zip(members.mean(axis=0), spread, members.T, strict=True))
    ]


def test_errors_that_all_members_share_do_not_blur_the_order():
    """Members that differ by an offset alone are certain of the order, however large the std of each energy."""
    ranking = Ranking(with_members([[1.0, 1.2, 1.5], [3.0, 3.2, 3.5], [5.0, 5.2, 5.5]]))
    assert [std for _, std in ranking.above_cheapest] == pytest.approx([0.0, 0.0, 0.0], abs=1e-12)
    assert [above for above, _ in ranking.above_cheapest] == pytest.approx([0.0, 0.2, 0.5])
    assert ranking.p_cheapest == [1.0, 0.0, 0.0]
    assert all(one.std > 1.5 for one in ranking.costs)


def test_differences_and_probabilities_against_the_normal_distribution():
    from scipy.stats import norm

    rng = np.random.default_rng(1)
    members = rng.normal([2.0, 2.1], 0.1, size=(8, 2))
    stds = 2 * members.std(axis=0)  # calibration doubles the spread
    ranking = Ranking(with_members(members, stds))
    first, second = np.argsort(members.mean(axis=0))
    by_hand = 2 * (members[:, second] - members[:, first]).std()
    assert ranking.above_cheapest[1][1] == pytest.approx(by_hand)
    p = norm.cdf(ranking.above_cheapest[1][0] / by_hand)
    assert ranking.p_cheapest == pytest.approx([p, 1 - p], abs=0.015)
    assert sum(ranking.p_cheapest) == pytest.approx(1.0)
    table = ranking.to_frame()
    assert table["p_cheapest"].tolist() == ranking.p_cheapest
    assert table["above_cheapest_std"].tolist() == [std for _, std in ranking.above_cheapest]
    assert "members" not in table


def test_probabilities_of_many_defects_come_true():
    """Errors are drawn independently, and four members tell little of that: their covariance alone is too certain."""
    rng = np.random.default_rng(0)
    hits, stated, logs = [], [], {0.0: [], SHRINKAGE: []}
    for _ in range(150):
        truth = rng.normal(0.0, 1.0, 12)
        members = truth + rng.normal(0.0, 0.5, 12) + rng.normal(0.0, 0.5, (4, 12))
        energies = Energies(members.mean(axis=0), members, np.full(12, np.hypot(0.5, 0.25)))
        for shrinkage, values in logs.items():
            p = energies.probability_lowest(shrinkage=shrinkage, n_draws=2000)
            values.append(-np.log(max(p[truth.argmin()], 1e-4)))
        p = energies.probability_lowest(n_draws=2000)
        assert p.sum() == pytest.approx(1.0)
        stated.append(p.max())
        hits.append(p.argmax() == truth.argmin())
    assert np.mean(logs[SHRINKAGE]) < np.mean(logs[0.0]) - 0.05
    assert np.mean(stated) == pytest.approx(np.mean(hits), abs=0.1)


def test_of_two_the_independent_part_changes_nothing():
    members = np.random.default_rng(2).normal([2.0, 2.1], 0.1, size=(8, 2))
    energies = Energies(members.mean(axis=0), members)
    first, *others = [energies.probability_lowest(shrinkage=part) for part in (0.0, 0.5, 1.0)]
    for other in others:
        np.testing.assert_allclose(other, first, atol=0.015)
    with pytest.raises(ValueError, match="shrinkage is 1.5; allowed: 0 to 1"):
        energies.probability_lowest(shrinkage=1.5)


def test_equal_ones_share_and_without_an_ensemble_nothing_is_said():
    ranking = Ranking(with_members([[1.0, 1.0, 9.0], [1.2, 1.2, 9.1]]))
    assert ranking.p_cheapest == [0.5, 0.5, 0.0]
    assert Ranking(with_members([[1.0, 1.0], [1.2, 1.2]])).p_cheapest == [0.5, 0.5]
    ranking = Ranking([cost(0, 1.0), cost(1, 2.0)])
    assert ranking.p_cheapest == [None, None]
    assert ranking.above_cheapest == [(0.0, None), (1.0, None)]


def test_the_ranking_has_the_differences_of_the_energies(site_model, energy_model):
    """As ``Energies.combine`` has them, of both kinds of models."""
    for model in (site_model, energy_model):
        result = screen(_perovskite(), model=model, supercell=2, name="STO")
        ranking = Ranking(result)
        members = np.array([one.cost.members for one in sorted(result, key=lambda one: one.cost.energy)]).T
        assert members.mean(axis=0) == pytest.approx([one.energy for one in ranking.costs], abs=1e-4)
        for k, (above, std) in enumerate(ranking.above_cheapest):
            coefficients = np.zeros(len(ranking))
            coefficients[k] += 1
            coefficients[0] -= 1
            whole = ranking._energies.combine(coefficients)
            assert above == pytest.approx(whole.value)
            assert std == pytest.approx(whole.std)


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


def test_inputs_of_an_oxide_hold_what_runs(energy_model, tmp_path):
    """VASP's files agree with one another, both codes have the same U, and the pristine cell is there once."""
    from pymatgen.io.vasp.inputs import Incar, Kpoints, Poscar

    host = bulk("NiO", "rocksalt", a=4.18)
    result = screen(host, model=energy_model, supercell=2, name="NiO")
    folder = write_dft_folder(tmp_path / "one", result[1])
    assert sorted(path.name for path in folder.iterdir()) == [
        "INCAR", "KPOINTS", "POSCAR", "espresso.in", "espresso_before_7.1.in", "origin.json", "structure.extxyz",
    ]  # fmt: skip
    incar, poscar = Incar.from_file(folder / "INCAR"), Poscar.from_file(folder / "POSCAR")
    assert poscar.structure.composition.as_dict() == {"Ni": 8, "O": 7}
    assert (incar["ISIF"], incar["IBRION"] >= 1, incar["NSW"] > 1) == (2, True, True)
    assert len(incar["MAGMOM"]) == 15
    assert dict(zip(poscar.site_symbols, incar["LDAUU"], strict=True)) == {"Ni": 6.2, "O": 0}
    assert incar["LDAU"] is True
    assert np.prod(Kpoints.from_file(folder / "KPOINTS").kpts[0]) >= 8
    text = (folder / "espresso.in").read_text()
    assert "nspin" in text
    assert "starting_magnetization" in text
    assert text.split("HUBBARD {ortho-atomic}\n")[1].split() == ["U", "Ni-3d", "6.2"]
    assert "trism" in text  # at which versions stop that would pass over the card
    old = "".join((folder / "espresso_before_7.1.in").read_text().lower().split())
    assert "lda_plus_u=.true." in old
    assert "hubbard_u(1)=6.2" in old
    assert "hubbard{" not in old
    pristine = write_pristine_folders(tmp_path / "pristine", [(one.defect.manifest, one.pristine) for one in result])
    assert [path.name for path in pristine] == ["NiO"]
    cell = Poscar.from_file(pristine[0] / "POSCAR").structure
    assert cell.composition.as_dict() == {"Ni": 8, "O": 8}
    assert np.allclose(cell.lattice.matrix, poscar.structure.lattice.matrix)
    assert Incar.from_file(pristine[0] / "INCAR")["LDAUU"] == incar["LDAUU"]


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


@pytest.mark.parametrize(
    ("defect", "text"),
    [
        ("v_Li", r"$v_\mathrm{Li}$"), ("Ni_Li", r"$\mathrm{Ni}_\mathrm{Li}$"), ("Li_i", r"$\mathrm{Li}_i$"),
        ("Li_Ni+Ni_Li", r"$\mathrm{Li}_\mathrm{Ni}$ + $\mathrm{Ni}_\mathrm{Li}$"), ("3 others", "3 others"),
    ],
)  # fmt: skip
def test_defects_are_typeset(defect, text):
    assert typeset(defect) == text


def test_labels_of_a_ranking():
    costs = [replace(cost(k, float(k)).cost, id=f"h-v_Li-{k}", defect="v_Li") for k in range(3)]
    (axes,) = ranking(costs).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == [rf"$v_\mathrm{{Li}}$-{k}" for k in range(3)]
    assert axes.get_ylabel() == "formation energy (eV per defect)"
    assert histogram(costs).axes[0].get_legend().get_texts()[0].get_text() == r"$v_\mathrm{Li}$"
    costs[0] = replace(costs[0], host="g", id="g-v_Li-0")
    assert ranking(costs).axes[0].get_xticklabels()[0].get_text() == r"g-$v_\mathrm{Li}$-0"


# The command


@pytest.fixture(scope="module")
def model_folder(energy_model, tmp_path_factory):
    return save_model(energy_model, tmp_path_factory.mktemp("models") / "energies")


def test_a_folder_of_hosts(shell, model_folder, tmp_path):
    hosts = tmp_path / "hosts"
    hosts.mkdir()
    write(hosts / "STO.cif", _perovskite())
    write(hosts / "MgO.cif", bulk("MgO", "rocksalt", a=4.21, cubic=True))
    (hosts / "broken.cif").write_text("nothing")
    done = shell("screen", hosts, "--model", model_folder, "--output", tmp_path / "out", "--supercell", "2",
                 "--top", "2", "--uncertain", "1", "--json")  # fmt: skip
    assert done.code == 1, done.err
    assert "broken.cif" in done.err
    rows = json.loads(done.out)
    with (tmp_path / "out" / "ranking.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [row["id"] for row in table]
    assert {row["host"] for row in rows} == {"STO", "MgO"}
    assert [row["energy"] for row in rows] == sorted(row["energy"] for row in rows)
    lowest = sorted(path.name for path in (tmp_path / "out" / "dft" / "lowest").iterdir())
    assert lowest == [f"{k:03d}_{row['id']}" for k, row in enumerate(rows[:2], start=1)]
    assert len(list((tmp_path / "out" / "dft" / "uncertain").iterdir())) == 1
    pristine = {path.name for path in (tmp_path / "out" / "dft" / "pristine").iterdir()}
    assert {row["host"] for row in rows[:2]} <= pristine <= {"STO", "MgO"}
    assert sum(row["p_cheapest"] for row in rows) == pytest.approx(1.0)
    for name in ("ranking.png", "histogram.png"):
        assert (tmp_path / "out" / name).stat().st_size > 10_000


def test_second_opinions_on_the_command_line(cgcnn_ase, model_folder, small_model, tmp_path):
    write(tmp_path / "STO.cif", _perovskite())
    arguments = ("screen", tmp_path / "STO.cif", "--model", model_folder, "--supercell", "2")
    done = cgcnn_ase(*arguments, "--second-opinion", small_model, "--output", tmp_path / "out")
    assert done.code == 0, done.err
    assert "disagreement" in done.out
    with (tmp_path / "out" / "ranking.csv").open() as file:
        assert all(float(row["second_opinion_std"]) > 0 for row in csv.DictReader(file))
    wrong = cgcnn_ase(*arguments, "--second-opinion", "gold-price", "--output", tmp_path / "two")
    assert wrong.code == 2
    assert "gold-price" in wrong.err


@pytest.mark.slow
def test_a_cathode_by_name(shell, model_folder, tmp_path):
    done = shell("screen", "NCM811", "--element", "Li", "--num", "2", "--n-atoms", "40", "--model", model_folder,
                 "--output", tmp_path / "out")  # fmt: skip
    assert done.code == 0, done.err
    with (tmp_path / "out" / "ranking.csv").open() as file:
        table = list(csv.DictReader(file))
    assert {row["host"] for row in table} == {"NCM811-0", "NCM811-1"}
    assert {row["defect"] for row in table} == {"v_Li"}
    again = shell("screen", "NCM811", "--element", "Li", "--model", model_folder, "--output", tmp_path / "out")
    assert again.code == 2
    assert "holds a ranking.csv already" in again.err


def test_a_disordered_host_is_ordered_on_request(cgcnn_ase, model_folder, tmp_path):
    from pymatgen.core import Lattice, Structure

    structure = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.2), [{"Mg": 0.5}, "O"], [[0, 0, 0], [0.5] * 3])
    structure.to(str(tmp_path / "half.cif"))
    arguments = ("--element", "Mg", "--model", model_folder, "--output", tmp_path / "out", "--supercell", "1")
    refused = cgcnn_ase("screen", tmp_path / "half.cif", *arguments)
    assert refused.code == 2
    assert "partially occupied sites" in refused.err
    options = ("--ordering", "random", "--ordering-atoms", 24, "--ordering-num", 2, "--ordering-seed", 1)
    done = cgcnn_ase("screen", tmp_path / "half.cif", *arguments, *options)
    assert done.code == 0, done.err
    assert "half.cif: ordered as" in done.err
    with (tmp_path / "out" / "ranking.csv").open() as file:
        assert {row["host"] for row in csv.DictReader(file)} == {"half:0", "half:1"}


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
def test_bad_input(shell, arguments, words, model_folder, tmp_path):
    model = [] if "--model" in arguments else ["--model", model_folder]
    done = shell("screen", *arguments, *model, "--output", tmp_path / "out", cwd=tmp_path)  # no traceback
    assert done.code == 2, done.err
    assert words in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_an_own_estimate():
    def estimate(name, host, defects):
        return [replace(cost(k, float(k)).cost, id=manifest.id) for k, (_, manifest) in enumerate(defects)]

    result = screen(_perovskite(), estimate=estimate, supercell=2, name="STO")
    assert [s.cost.energy for s in result] == [0.0, 1.0, 2.0]
    assert len(result) == len(list(point_defects(_perovskite(), supercell=2)))
