"""Second opinions: what is left between two models when their scales are one, and who says nothing and why."""

import copy
import json
import pickle
import warnings

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.calculators.emt import EMT

from cgcnn_ase import CGCNNCalculator, Predictor, SecondOpinions, load_model, predict
from cgcnn_ase.core.elements import symbols
from cgcnn_ase.inspection.element_offsets import left_out_residuals
from cgcnn_ase.inspection.second_opinion import SecondOpinionWarning
from cgcnn_ase.models.checkpoint import save_model
from cgcnn_ase.models.registry import model_info
from cgcnn_ase.prediction.results import member_values

from ..conftest import make_model


class Shifted(Calculator):
    """The energy of another calculator, N times an amount for each element more, and by ``by`` for some structures."""

    implemented_properties = ["energy"]  # noqa: RUF012 - as in ASE

    def __init__(self, model, offsets, by=None):
        super().__init__()
        self.other, self.offsets, self.by = CGCNNCalculator(model, reference="none"), offsets, by or {}
        self.asked = 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        self.asked += 1
        energy = self.other.get_potential_energy(atoms) + sum(self.offsets[s] for s in atoms.symbols)
        key = atoms.get_chemical_formula(), round(float(atoms.positions.sum()), 6)
        self.results = {"energy": energy + len(atoms) * self.by.get(key, 0.0)}


def key_of(atoms):
    return atoms.get_chemical_formula(), round(float(atoms.positions.sum()), 6)


@pytest.fixture
def offsets():
    rng = np.random.default_rng(3)
    return {symbol: float(rng.normal(0, 5)) for symbol in symbols()}


@pytest.fixture
def batch():
    """Twenty-four rock salts of four compositions."""
    made = []
    for cation, anion in (("Mg", "O"), ("Ni", "O"), ("Ca", "S"), ("Mg", "S")):
        made += [bulk(cation + anion, "rocksalt", 4.2 + 0.1 * k) for k in range(6)]
    return made


#: nothing is told that a test does not expect
pytestmark = pytest.mark.filterwarnings("error::cgcnn_ase.inspection.second_opinion.SecondOpinionWarning")


def test_offsets_of_the_elements_are_no_disagreement(small_model, batch, offsets):
    results = predict(small_model, batch, second_opinion=[Shifted(small_model, offsets)])
    assert results.to_frame()["second_opinion_std"].to_numpy() == pytest.approx(np.zeros(24), abs=1e-5)
    # a function sees the opinions, and what the members say besides
    opinions = SecondOpinions([Shifted(small_model, offsets)])
    pairs = Predictor(small_model, second_opinion=opinions).stream_with(member_values, batch)
    for (prediction, members), expected in zip(pairs, results.all, strict=True):
        assert prediction == expected
        assert members.mean() == pytest.approx(prediction.value, abs=1e-5)


def test_one_structure_off_is_found_and_the_others_stay(small_model, batch, offsets):
    """Half of the difference is the std of two opinions; an outlier moves the scale of the others by little."""
    other = Shifted(small_model, offsets, {key_of(batch[4]): 7.0})
    std = predict(small_model, batch, second_opinion=[other]).to_frame()["second_opinion_std"].to_numpy()
    assert std[4] == pytest.approx(3.5, rel=0.02)
    assert np.delete(std, 4).max() < 0.05


def test_another_model_of_ours(small_model, batch, tmp_path):
    """Two members of the network's family: what their differences leave of the offsets, over all opinions."""
    other = save_model(make_model(seed=5), tmp_path / "other")
    third = save_model(make_model(seed=6), tmp_path / "third")
    values = [predict(model, batch).to_frame()["value"].to_numpy() for model in (small_model, other, third)]
    fractions = np.zeros((24, 101))
    for k, atoms in enumerate(batch):
        fractions[k, atoms.numbers] = 0.5
    residuals = [left_out_residuals(fractions, value - values[0], robust=True) for value in values[1:]]
    frame = predict(small_model, batch, second_opinion=[other, third]).to_frame()
    np.testing.assert_allclose(frame["second_opinion_std"], np.std([np.zeros(24), *residuals], axis=0), rtol=1e-4)
    np.testing.assert_array_equal(frame["value"], values[0])


def test_the_left_out_residual_is_that_of_a_fit_without_the_structure():
    rng = np.random.default_rng(0)
    fractions = np.zeros((12, 101))
    fractions[:, [3, 8, 28]] = rng.dirichlet(np.ones(3), 12)
    fractions[11] = 0
    fractions[11, [8, 92]] = 0.5  # the only one with U
    difference = rng.normal(size=12)
    residual = left_out_residuals(fractions, difference)
    assert np.isnan(residual[11])
    keep = np.delete(np.arange(12), [4, 11])
    solution = np.linalg.lstsq(fractions[keep][:, [3, 8, 28]], difference[keep], rcond=None)[0]
    assert residual[4] == pytest.approx(difference[4] - fractions[4, [3, 8, 28]] @ solution)


def test_too_few_structures_for_a_scale(small_model, batch, offsets, tmp_path):
    few = batch[:2]
    unknown = Shifted(small_model, offsets)
    with pytest.warns(SecondOpinionWarning, match=r"2 structures are too few .* Mg \(4 are needed\); it gives no"):
        results = predict(small_model, few, second_opinion=[unknown])
    assert results.to_frame()["second_opinion_std"].isna().all()
    other = save_model(make_model(seed=5), tmp_path / "other")
    with pytest.warns(SecondOpinionWarning, match="its energies are compared as they are"):
        frame = predict(small_model, few, second_opinion=[other]).to_frame()
    difference = predict(other, few).to_frame()["value"] - frame["value"]
    np.testing.assert_allclose(frame["second_opinion_std"], difference.abs() / 2, rtol=1e-6)


def test_offsets_of_another_batch(small_model, batch, offsets):
    fitted = SecondOpinions([Shifted(small_model, offsets, {key_of(batch[0]): 2.0})]).fit(batch[1:], small_model)
    frame = predict(small_model, [batch[0]], second_opinion=fitted).to_frame()
    assert frame["second_opinion_std"][0] == pytest.approx(1.0, abs=1e-4)
    with pytest.warns(SecondOpinionWarning, match=r"no second opinion on 1 of 1 structures: .*no offset of Zn"):
        frame = predict(small_model, [bulk("ZnS", "zincblende", 5.4)], second_opinion=fitted).to_frame()
    assert frame["second_opinion_std"].isna().all()
    with pytest.raises(ValueError, match="2 structures are too few"):
        SecondOpinions([Shifted(small_model, offsets)]).fit(batch[:2], small_model)


def test_a_structure_that_another_cannot_treat(small_model, batch, offsets):
    """EMT knows Ni and O, no Mg or Ca: it says nothing on these, and is named; the other opinion stays."""
    with pytest.warns(SecondOpinionWarning, match=r"EMT: no second opinion on 18 of 24 structures: .*; and 15 more"):
        frame = predict(small_model, batch, second_opinion=[EMT(), Shifted(small_model, offsets)]).to_frame()
    assert frame["second_opinion_std"].notna().all()
    close = Atoms("OO", positions=[[0, 0, 0], [0, 0, 0.1]], cell=[5, 5, 5], pbc=True)
    results = predict(small_model, [*batch, close], second_opinion=[Shifted(small_model, offsets)])
    assert [p.error is None for p in results.failures] == [False]
    assert len(results) == 24


def test_the_only_structure_with_an_element(small_model, batch, offsets):
    lone = bulk("FeO", "rocksalt", 4.3)
    with pytest.warns(SecondOpinionWarning, match="no other structure tells the offset of an element in it"):
        frame = predict(small_model, [*batch, lone], second_opinion=[Shifted(small_model, offsets)]).to_frame()
    assert frame["second_opinion_std"].isna().tolist() == [False] * 24 + [True]


def test_several_models_and_other_properties(small_model, batch, tmp_path):
    gap = save_model(make_model(name="band_gap", unit="eV"), tmp_path / "gap")
    other_gap = save_model(make_model(name="band_gap", unit="eV", seed=4), tmp_path / "gap2")
    frame = predict([small_model, gap], batch, second_opinion=[other_gap]).to_frame()
    of_gap = frame["property"] == "band_gap"
    assert frame.loc[~of_gap, "second_opinion_std"].isna().all()
    difference = predict(other_gap, batch).to_frame()["value"].to_numpy() - frame.loc[of_gap, "value"].to_numpy()
    np.testing.assert_allclose(frame.loc[of_gap, "second_opinion_std"], np.abs(difference) / 2, rtol=1e-5)
    with pytest.raises(ValueError, match=r"no second opinion on band_gap by EMT, which gives energies"):
        predict(gap, batch, second_opinion=[EMT()])


def test_of_several_models_in_a_folder_the_one_of_the_property_is_asked(batch, tmp_path):
    gap = save_model(make_model(name="band_gap", unit="eV"), tmp_path / "gap")
    frame = predict(gap, batch[:3], second_opinion=["electronic"]).to_frame()
    difference = predict("band-gap", batch[:3]).to_frame()["value"].to_numpy() - frame["value"].to_numpy()
    np.testing.assert_allclose(frame["second_opinion_std"], np.abs(difference) / 2, rtol=1e-5)
    folder = model_info("band-gap").path
    assert SecondOpinions([folder]).names[0].startswith("band-gap and is-metal and ")


def test_wrong_settings(small_model, batch):
    with pytest.raises(ValueError, match="name at least one model"):
        SecondOpinions([])
    with pytest.raises(ValueError, match="no model 'chgnett'"):
        SecondOpinions(["chgnett"])
    with pytest.raises(ValueError, match="must be SecondOpinions"):
        Predictor(small_model, second_opinion=["chgnet"])
    with pytest.raises(ValueError, match="2 workers with a second opinion"):
        Predictor(small_model, second_opinion=SecondOpinions(small_model), workers=2)


def test_the_calculator(small_model, batch, offsets, tmp_path):
    other = Shifted(small_model, offsets, {key_of(batch[0]): 2.0})
    with pytest.raises(ValueError, match=r"Shifted are on a scale of their own.*\.fit\(structures\)"):
        CGCNNCalculator(small_model, second_opinion=[other])
    calculator = CGCNNCalculator(small_model, second_opinion=SecondOpinions([other]).fit(batch[1:], small_model))
    assert calculator.parameters["second_opinion"] == ["Shifted"]
    atoms = batch[0].copy()
    atoms.calc = calculator
    atoms.get_potential_energy()
    assert calculator.results["second_opinion_std"] == pytest.approx(1.0, abs=1e-4)
    assert calculator.annotate(atoms).info["second_opinion_std"] == pytest.approx(1.0, abs=1e-4)
    for copied in (copy.deepcopy(calculator), pickle.loads(pickle.dumps(calculator))):
        assert copied.get_property("second_opinion_std", batch[1]) == pytest.approx(0.0, abs=1e-4)
    with pytest.warns(SecondOpinionWarning, match="no offset of Zn"):
        assert np.isfinite(calculator.get_potential_energy(bulk("ZnS", "zincblende", 5.4)))
    with pytest.raises(PropertyNotImplementedError), pytest.warns(SecondOpinionWarning, match="no offset of Zn"):
        calculator.get_property("second_opinion_std")
    same = CGCNNCalculator(small_model, second_opinion=small_model)
    assert same.get_property("second_opinion_std", batch[0]) == pytest.approx(0.0, abs=1e-9)
    assert "second_opinion_std" not in CGCNNCalculator(small_model).implemented_properties


def test_chgnet_has_offsets_of_the_pretrained_models():
    """One crystal, no fit: the scale was measured. A crystal at a third of its volume is where they differ by eV."""
    calculator = CGCNNCalculator(second_opinion=["chgnet"])
    atoms = bulk("MgO", "rocksalt", 4.21)
    assert calculator.get_property("second_opinion_std", atoms) < 0.1
    atoms.set_cell(atoms.cell * 0.7, scale_atoms=True)
    assert calculator.get_property("second_opinion_std", atoms) > 0.5


def test_on_the_command_line(cgcnn_ase, cif_folder, small_model, tmp_path):
    other = save_model(make_model(seed=5), tmp_path / "other")
    folder = cif_folder(12)
    ran = cgcnn_ase("predict", folder, "--model", small_model, "--second-opinion", other)
    assert (ran.code, ran.err) == (0, "")
    assert all(float(row["second_opinion_std"]) > 0 for row in ran.rows())
    shown = json.loads(cgcnn_ase("predict", folder, "--model", small_model, "--second-opinion", other, "--json").out)
    assert [repr(row["second_opinion_std"]) for row in shown] == [row["second_opinion_std"] for row in ran.rows()]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        few = cgcnn_ase("predict", folder / "c000.cif", "--model", small_model, "--second-opinion", other)
    assert few.code == 0
    assert "1 structure is too few for one offset each of O, Mg" in few.err
    resumed = cgcnn_ase("predict", folder, "--second-opinion", other, "--resume", "--output", tmp_path / "a.csv")
    assert resumed.code == 2
    assert "--resume with --second-opinion" in resumed.err


def test_models_of_two_scales_are_converted_before_they_disagree(small_model):
    """By hand, for each atom of NiO: half of -0.702 - 2.164 and -0.687 - 2.541 eV, which are 0.181 eV/atom apart."""
    models = []
    for scale in ("mp-legacy", "mp2020", "other:mine"):
        model = load_model(small_model)
        model.training_record = {**model.training_record, "scale": scale}
        models.append(model)
    nickel_oxide = [bulk("NiO", "rocksalt", a=4.2)]
    with pytest.warns(SecondOpinionWarning, match="converted from mp2020 to mp-legacy"):
        (row,) = predict(models[0], nickel_oxide, second_opinion=[models[1]]).all
    assert row.second_opinion_std == pytest.approx((0.687 + 2.541 - 0.70229 - 2.164) / 2 / 2, abs=1e-6)
    with pytest.warns(SecondOpinionWarning, match="on the scale other:mine, and not on mp-legacy; it gives no second"):
        (row,) = predict(models[0], nickel_oxide, second_opinion=[models[2]]).all
    assert row.second_opinion_std is None
