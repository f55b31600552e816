"""Energies above the hull against pymatgen's, probabilities against the interval, and what is refused."""

import json
import warnings

import numpy as np
import pytest
from ase.build import bulk
from ase.io import write
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition
from pymatgen.entries.computed_entries import ComputedEntry
from scipy.stats import norm

from cgcnn_ase import load_model, predict, stability
from cgcnn_ase.energies.scales import convert_formation_energy
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.prediction.predictor import Predictor
from cgcnn_ase.stability.phases import CompetingPhase, CompetingPhases, known_phases, read_phases
from cgcnn_ase.stability.predicted_phases import Competition, PredictedPhase
from cgcnn_ase.stability.predictor import StabilityPredictor
from cgcnn_ase.stability.results import DFTGains, Stability, expected_gain, probability_below
from cgcnn_ase.structures import StructureError, StructureRecord

PHASES = {"Li2O": -2.0, "NiO": -1.2, "LiNiO2": -1.55, "Li2NiO3": -1.6, "MgO": -3.0}


@pytest.fixture(scope="module")
def phases():
    rows = tuple(CompetingPhase(f"id-{formula}", formula, energy) for formula, energy in PHASES.items())
    return CompetingPhases(rows, "mp2020", "made up", "0" * 64)


@pytest.fixture(scope="module")
def structures():
    nickel = bulk("NiO", "rocksalt", a=4.19)
    mixed = bulk("NiO", "rocksalt", a=4.15, cubic=True)
    mixed.symbols[0] = "Li"
    return {"NiO": nickel, "LiNi3O4": mixed}


def of_pymatgen(formula, energy, without=None):
    """Energy above the hull by pymatgen, eV/atom."""
    compounds = {name: e for name, e in PHASES.items() if name != without}
    entries = [PDEntry(Composition(name), e * Composition(name).num_atoms) for name, e in compounds.items()]
    diagram = PhaseDiagram(entries + [PDEntry(Composition(name), 0.0) for name in ("Li", "Ni", "O", "Mg")])
    return energy - diagram.get_hull_energy_per_atom(Composition(formula))


def test_energy_above_the_hull_is_pymatgens_of_the_predicted_formation_energy(phases, structures):
    results = stability(list(structures.values()), entries=phases)
    predictions = predict("formation-energy-per-atom", list(structures.values()), population="hypothetical").all
    for row, prediction, formula in zip(results.all, predictions, structures, strict=True):
        energy = convert_formation_energy(prediction.value, formula, source="mp-legacy", to="mp2020")
        assert row.formation_energy_per_atom == pytest.approx(energy, abs=1e-9)
        assert row.e_above_hull == pytest.approx(of_pymatgen(formula, energy), abs=1e-9)
        assert (row.e_above_hull_std, row.scale, row.population) == (prediction.std, "mp2020", "hypothetical")
        assert row.upper - row.e_above_hull == pytest.approx(prediction.upper - prediction.value)
        assert sum(part.fraction for part in row.decomposition) == pytest.approx(1.0)
        assert row.p_stable == pytest.approx(float(probability_below(*(
            np.array([x]) for x in (0.05, row.e_above_hull, row.lower, row.upper)
        ))[0]))  # fmt: skip
    mixed = results.all[1]
    assert {part.formula: round(part.fraction, 4) for part in mixed.decomposition} == {"NiO": 0.5, "LiNiO2": 0.5}


def test_its_own_formula_may_be_left_out(phases, structures):
    (row,) = stability([structures["NiO"]], entries=phases, leave_out=True).all
    expected = of_pymatgen("NiO", row.formation_energy_per_atom, without="NiO")
    assert row.e_above_hull == pytest.approx(expected, abs=1e-9)
    assert "NiO" not in {part.formula for part in row.decomposition}


def test_a_bad_structure_costs_no_other(phases, structures, tmp_path):
    write(tmp_path / "good.cif", structures["NiO"])
    (tmp_path / "bad.cif").write_text("data_x\n")
    results = stability(tmp_path, entries=phases)
    assert list(results) == ["good"]
    assert [row.id for row in results.failures] == ["bad"]
    assert results.failures[0].error


def test_probabilities_go_by_the_interval():
    value, lower, upper = np.zeros(4), np.full(4, -0.1), np.full(4, 0.3)
    p = probability_below(np.array([-0.1, 0.0, 0.3, 100.0]), value, lower, upper)
    np.testing.assert_allclose(p, [0.05, 0.5, 0.95, 1.0], atol=1e-6)
    assert np.isnan(probability_below(np.zeros(1), np.ones(1), np.array([np.nan]), np.array([np.nan]))[0])


def test_what_dft_would_decide_most_is_nearest_to_a_half(phases, structures):
    results = stability(list(structures.values()), entries=phases)
    (first,) = results.worth_computing(1)
    assert abs(first.p_stable - 0.5) == min(abs(row.p_stable - 0.5) for row in results.all)
    assert first.rows == (first.id,)
    assert first.gain == pytest.approx(first.p_stable * (1 - first.p_stable))


def test_the_packages_table_and_its_scales():
    new, old = known_phases(), known_phases("mp-legacy")
    assert [phase.id for phase in new.phases] == [phase.id for phase in old.phases]
    assert len(new.phases) > 25_000
    assert len({phase.formula for phase in new.phases}) == len(new.phases)
    rows = {phase.formula: phase.energy for phase in new.phases}
    before = {phase.formula: phase.energy for phase in old.phases}
    for formula in ("NiO", "Li2O", "NaCl", "MgO"):
        converted = convert_formation_energy(before[formula], formula, source="mp-legacy", to="mp2020")
        assert rows[formula] == pytest.approx(converted, abs=2e-6)
    # measured heats of formation, -601.6 and -597.9 kJ/mol (NIST-JANAF): the corrections are fitted to such
    assert rows["MgO"] == pytest.approx(-601.6 / 96.485 / 2, abs=0.1)
    assert rows["Li2O"] == pytest.approx(-597.9 / 96.485 / 3, abs=0.1)


def entries(tmp_path, *more, elements=(("Li", -1.9), ("O", -4.9), ("Ni", -5.7))):
    """A file of pymatgen's entries: elements and Li2O at -2 eV/atom, and more."""
    made = [ComputedEntry(Composition(name), energy, entry_id=name) for name, energy in elements]
    made.append(ComputedEntry("Li2O", 2 * -1.9 - 4.9 - 6.0 + 0.5, correction=-0.5, entry_id="mp-1960"))
    file = tmp_path / "entries.json"
    file.write_text(json.dumps([entry.as_dict() for entry in [*made, *more]]))
    return file


def test_entries_of_pymatgen_with_their_corrections(tmp_path):
    higher = ComputedEntry("Li4O2", -20.0, entry_id="mp-2")
    phases = read_phases(entries(tmp_path, higher))
    assert {phase.formula: phase.id for phase in phases.phases}["Li2O"] == "mp-1960"
    assert {phase.formula: phase.energy for phase in phases.phases}["Li2O"] == pytest.approx(-2.0)
    assert phases.n_higher == 1


@pytest.mark.parametrize(
    ("more", "elements", "message"),
    [
        ([ComputedEntry("NiO", -10.0)], (("Li", -1.9), ("O", -4.9)), "no entry of the element Ni itself"),
        ([ComputedEntry("NiO", -100.0, entry_id="mp-19009")], (("Li", -1.9), ("O", -4.9), ("Ni", -5.7)),
         "NiO .mp-19009. would have a formation energy of -44.7 eV/atom"),
        ([ComputedEntry("NiO", -12.0, parameters={"run_type": "GGA+U"}),
          ComputedEntry("Ni", -9.0, parameters={"run_type": "R2SCAN"})],
         (("Li", -1.9), ("O", -4.9), ("Ni", -5.7)), "entries of GGA.U and R2SCAN, whose energies never mix"),
    ],
)  # fmt: skip
def test_entries_that_make_no_hull_are_told(tmp_path, more, elements, message):
    with pytest.raises(ValueError, match=message):
        read_phases(entries(tmp_path, *more, elements=elements))


def test_what_is_no_list_of_entries_is_told(tmp_path):
    file = tmp_path / "entries.json"
    file.write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"entries\.json: no list of pymatgen's entries"):
        read_phases(file)
    file.write_text("energy")
    with pytest.raises(ValueError, match="neither a folder of cgcnn-ase fetch nor entries in JSON"):
        read_phases(file)


@pytest.mark.parametrize("model", ["band-gap", "cathode-potential"])
def test_a_model_of_something_else_is_refused(model, phases):
    with pytest.raises(ValueError, match="read off a formation energy per atom"):
        StabilityPredictor(model, entries=phases)


def test_phases_of_another_scale_are_refused(phases):
    with pytest.raises(ValueError, match="competing phases are on the scale mp2020, not on mp-legacy"):
        StabilityPredictor(entries=phases, scale="mp-legacy")
    with pytest.raises(ValueError, match="not on uncorrected"):
        known_phases("uncorrected")


def test_a_disordered_structure_is_told(phases, tmp_path):
    text = (
        "data_x\n_cell_length_a 4.2\n_cell_length_b 4.2\n_cell_length_c 4.2\n_cell_angle_alpha 90\n"
        "_cell_angle_beta 90\n_cell_angle_gamma 90\n_symmetry_space_group_name_H-M 'F m -3 m'\nloop_\n"
        "_atom_site_label\n_atom_site_type_symbol\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n"
        "_atom_site_occupancy\nLi1 Li 0 0 0 0.5\nNi1 Ni 0 0 0 0.5\nO1 O 0.5 0.5 0.5 1\n"
    )
    (tmp_path / "mixed.cif").write_text(text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = stability(tmp_path, entries=phases)
    assert "occup" in results.failures[0].error


def similar(scale, symbol="Li"):
    """A rock salt of nickel and oxygen with one other atom, which may be larger."""
    atoms = bulk("NiO", "rocksalt", a=4.15 * scale, cubic=True)
    atoms.symbols[0] = symbol
    return atoms


NONE = CompetingPhases((), "mp2020", "none", "0" * 64)


def test_a_structure_that_competes_with_itself_lies_on_the_hull_for_certain():
    (row,) = stability([similar(1.0)], entries=NONE, competing=[similar(1.0)]).all
    assert (row.e_above_hull, row.e_above_hull_std) == (pytest.approx(0.0, abs=1e-6), pytest.approx(0.0, abs=1e-6))
    assert row.p_stable == 1.0
    (part,) = row.decomposition
    assert (part.formula, part.predicted, part.fraction) == ("LiNi3O4", True, pytest.approx(1.0))
    assert row.hull_source == "none; 1 predicted structures"
    assert "LiNi3O4 (predicted: " in row.decomposition_in_words


def test_std_against_predicted_phases_is_that_of_the_difference_within_each_member():
    """By hand, from what each member predicts of three crystals of one formula."""
    candidates = [similar(1.0), similar(1.03), similar(1.02)]
    results = stability(candidates, entries=NONE, together=True).all
    inference = Predictor("formation-energy-per-atom", population="hypothetical").inference()
    records = [StructureRecord(str(k), "", atoms, None) for k, atoms in enumerate(candidates)]
    predicted = [row[0] for row in inference.with_members(records)]
    values = np.array([each.prediction.value for each in predicted])
    lowest = int(values.argmin())
    other = next(k for k in range(3) if k != lowest)
    row, a, b = results[other], predicted[other], predicted[lowest]
    (part,) = row.decomposition
    assert (part.id, part.predicted) == (results[lowest].id, True)
    assert row.e_above_hull == pytest.approx(values[other] - values[lowest], abs=1e-9)
    spread = np.std(a.members.astype(float) - b.members.astype(float))
    widened = np.hypot(a.prediction.std, b.prediction.std) / np.hypot(a.members.std(), b.members.std())
    assert row.e_above_hull_std == pytest.approx(widened * spread, rel=1e-5)
    shrunk = row.e_above_hull_std / np.hypot(a.prediction.std, b.prediction.std)
    assert shrunk < 0.9  # two lattice parameters of one crystal have errors alike
    up = np.hypot(a.prediction.upper - a.prediction.value, b.prediction.value - b.prediction.lower)
    assert row.upper - row.e_above_hull == pytest.approx(shrunk * up, rel=1e-6)
    # the lowest itself is held against the others
    second = np.sort(values)[1]
    assert results[lowest].e_above_hull == pytest.approx(values[lowest] - second, abs=1e-9)


def test_mixtures_of_known_and_predicted_phases(phases):
    """A crystal between a known phase and a predicted one, against pymatgen's phase diagram."""
    members = np.array([-2.2, -2.1, -2.3])
    predicted = PredictedPhase("new", "LiNi3O4", -2.2, 0.1, -2.35, -2.0, members)
    crystal = PredictedPhase("x", "Li3Ni5O8", -1.9, 0.2, -2.2, -1.5, members + np.array([0.4, 0.3, 0.2]))
    above = Competition(phases, [predicted]).above_hull(crystal)
    entries = [PDEntry(Composition(name), e * Composition(name).num_atoms) for name, e in PHASES.items()]
    entries += [PDEntry(Composition(name), 0.0) for name in ("Li", "Ni", "O", "Mg")]
    entries.append(PDEntry(Composition("LiNi3O4"), -2.2 * 8))
    diagram = PhaseDiagram(entries)
    composition = Composition("Li3Ni5O8")
    assert above.value == pytest.approx(-1.9 - diagram.get_hull_energy_per_atom(composition), abs=1e-9)
    fractions = {
        entry.name.replace("O2", "O") if entry.is_element else entry.name: x
        for entry, x in diagram.get_decomposition(composition).items()
    }
    assert {part.formula: part.fraction for part in above.decomposition} == pytest.approx(fractions)
    (x,) = [part.fraction for part in above.decomposition if part.predicted]
    c, stds = np.array([1.0, -x]), np.array([0.2, 0.1])
    by_member = np.stack([crystal.members, predicted.members])
    expected = np.sqrt(c**2 @ stds**2 / (c**2 @ by_member.var(axis=1))) * (c @ by_member).std()
    assert above.std == pytest.approx(expected)


def test_what_lies_outside_the_domain_competes_with_nothing(phases):
    squeezed = similar(0.75)
    with pytest.warns(UserWarning, match="outside the domain, and so no competing phase: .*Å"):
        rows = stability([similar(1.0)], entries=phases, competing=[squeezed]).all
    assert not any(part.predicted for part in rows[0].decomposition)


def test_what_a_model_without_calibration_predicts_competes_without_a_warning(phases):
    """Its domain is not known, which is not the same as outside of it."""
    model = load_model("formation-energy-per-atom")
    bare = CrystalModel.like(model, model.networks)
    bare.calibration = None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (row,) = stability([similar(1.0)], bare, entries=phases, competing=[similar(1.02)]).all
    assert row.hull_source.endswith("; 1 predicted structures")


def test_a_competing_structure_that_fails_is_told(phases, tmp_path):
    (tmp_path / "bad.cif").write_text("data_x\n")
    with pytest.raises(StructureError, match=r"bad\.cif: as a competing phase: "):
        stability([similar(1.0)], entries=phases, competing=tmp_path)


def test_what_to_compute_next_counts_what_it_decides_for_others():
    """The gain by drawing: p (1 - p) before, and its mean after the shared part of the error is known."""
    rng = np.random.default_rng(0)
    z, r2 = 0.3, 0.6
    known = np.sqrt(r2) * rng.standard_normal(400_000)
    after = norm.cdf((z - known) / np.sqrt(1 - r2))
    p = norm.cdf(z)
    assert expected_gain(p, r2) == pytest.approx(p * (1 - p) - (after * (1 - after)).mean(), abs=1e-3)
    assert expected_gain(p, 1.0) == pytest.approx(p * (1 - p))
    assert expected_gain(p, 0.0) == pytest.approx(0.0, abs=1e-12)


def test_dft_of_a_competing_phase_may_decide_more_than_that_of_a_candidate(phases):
    """Many crystals that fall apart into one predicted phase, whose error is all that matters."""
    members = np.array([-2.4, -2.2, -2.0, -2.2])
    shared = PredictedPhase("shared", "LiNi3O4", -2.2, 0.15, -2.45, -1.95, members)
    gains = DFTGains()
    of_members = np.array([-2.1499, -2.15, -2.15, -2.1501])
    for k in range(3):
        crystal = PredictedPhase(f"x{k}", "LiNi3O4", -2.15, 0.001, -2.152, -2.148, of_members)
        above = Competition(phases, [shared]).above_hull(crystal)
        gains.add(Stability(
            id=crystal.id, source="", within=0.05, scale="mp2020", hull_source="", hull_sha256="", model="",
            model_sha256="", p_stable=0.5, gains={n: expected_gain(0.5, r2) for n, r2 in above.explained.items()},
        ))  # fmt: skip
    best = gains.best(1)[0]
    assert (best.id, best.rows, best.p_stable) == ("shared", ("x0", "x1", "x2"), None)
    assert best.gain == pytest.approx(3 * 0.25, abs=0.01)
