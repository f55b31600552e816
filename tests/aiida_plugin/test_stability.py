"""Energies above the hull as one node, which are those of `cgcnn_ase.stability`."""

import dataclasses
import json
from io import BytesIO

import pandas as pd
import pytest

pytest.importorskip("aiida")

from aiida import orm
from aiida.plugins import CalculationFactory, DataFactory
from ase.build import bulk, make_supercell
from click.testing import CliRunner
from pandas.testing import assert_frame_equal
from pymatgen.core import Composition
from pymatgen.entries.computed_entries import ComputedEntry

import cgcnn_ase
from aiida_plugin.calculations.functions.predictions import predict_in_process
from aiida_plugin.calculations.functions.stability import stability
from aiida_plugin.cli.app import main
from aiida_plugin.cli.data import predictions as predictions_command
from aiida_plugin.data.predictions import PredictionsData
from aiida_plugin.data.stability import StabilityData
from cgcnn_ase.energies.scales import convert_formation_energy
from cgcnn_ase.stability.phases import read_phases
from cgcnn_ase.stability.predictor import HullComparison

ENERGY = "formation_energy_per_atom"


@pytest.fixture(scope="module")
def structures():
    """Three that compete with nothing but the elements, one of a formula that is there."""
    rocksalt = {name: bulk(name, "rocksalt", a) for name, a in (("NiO", 4.18), ("MgO", 4.21), ("LiF", 4.03))}
    return rocksalt | {"CuAu": make_supercell(bulk("Cu", a=3.8), [[1, 1, 0], [0, 1, 0], [0, 0, 1]])}


@pytest.fixture(scope="module")
def predicted(aiida_profile, small_model, structures):
    """The predictions of a small model of ours, made by a calcfunction from the model's node."""
    aiida_profile.reset_storage()
    model = DataFactory("cgcnn.model").get_or_create(small_model)
    of_set = DataFactory("cgcnn.structures").from_ase(structures.values(), list(structures))
    return predict_in_process(model, of_set, orm.Dict({"population": "known"}))


@pytest.fixture(scope="module")
def expected(small_model, structures):
    return cgcnn_ase.stability(structures, small_model)


@pytest.fixture(scope="module")
def entries():
    """A file of pymatgen's entries: elements, and NiO 1.2 eV/atom below them."""
    elements = {"Ni": -5.7, "O": -4.9, "Mg": -1.5, "Li": -1.9, "F": -1.8, "Cu": -3.7}
    made = [ComputedEntry(Composition(name), energy, entry_id=name) for name, energy in elements.items()]
    made.append(ComputedEntry("NiO", -5.7 - 4.9 - 2.4, entry_id="mp-19009"))
    return json.dumps([entry.as_dict() for entry in made]).encode()


def model_of(predicted):
    return predicted.creator.inputs.model


def without_source(rows):
    return [dataclasses.replace(row, source="") for row in rows]


def test_the_rows_are_those_of_the_function(predicted, expected):
    node = stability(predicted, model=model_of(predicted))
    assert type(node) is DataFactory("cgcnn.stability")
    loaded = orm.load_node(node.pk)
    assert loaded.results().all == without_source(expected.all)
    assert_frame_equal(loaded.to_frame(), expected.to_frame())
    assert_frame_equal(loaded.to_frame(["LiF"]), expected.to_frame().query("id == 'LiF'").reset_index(drop=True))
    assert len(loaded) == 4


def test_links_lead_to_prediction_model_and_table(predicted, expected):
    node = stability(predicted, model=model_of(predicted))
    inputs = node.creator.inputs
    assert (inputs.predictions, inputs.model) == (predicted, model_of(predicted))
    assert node.creator.process_type == "aiida.calculations:cgcnn.stability"
    assert inputs.package_versions["competing_phases"] == node.base.attributes.get("hull_sha256")
    assert expected["NiO"].hull_sha256 == node.base.attributes.get("hull_sha256")
    # one node for the whole set
    assert (
        orm.QueryBuilder().append(orm.CalcFunctionNode, filters={"id": node.creator.pk}).append(orm.Data).count() == 1
    )


def test_the_figures_can_be_queried(predicted, expected):
    node = stability(predicted, model=model_of(predicted))
    lowest = min(row.e_above_hull for row in expected.all)
    query = orm.QueryBuilder().append(
        StabilityData, filters={"attributes.e_above_hull_min": {"<": lowest + 1e-9}}, project="attributes.p_stable"
    )
    assert query.all(flat=True)[-1] == pytest.approx([row.p_stable for row in expected.all], rel=1e-10)
    assert node.base.attributes.get("n_likely") == sum(row.p_stable > 0.5 for row in expected.all)


def test_settings_are_those_of_the_function(predicted, small_model, structures):
    settings = {"within": 0.2, "scale": "mp-legacy", "leave_out": True, "population": "known"}
    node = stability(predicted, orm.Dict(settings), model=model_of(predicted))
    options = {"within": 0.2, "scale": "mp-legacy", "leave_out": True}
    assert node.results().all == without_source(cgcnn_ase.stability(structures, small_model, **options).all)


def test_entries_of_a_file(predicted, entries, small_model, structures, tmp_path):
    (tmp_path / "entries.json").write_bytes(entries)
    file = orm.SinglefileData(BytesIO(entries), filename="entries.json")
    node = stability(predicted, phases=file, model=model_of(predicted))
    result = cgcnn_ase.stability(structures, small_model, entries=tmp_path / "entries.json")
    assert node.to_frame()["e_above_hull"].tolist() == [row.e_above_hull for row in result.all]
    assert node.base.attributes.get("hull_sha256") == read_phases(tmp_path / "entries.json").sha256
    assert node.base.attributes.get("hull_source") == f"7 entries of node {file.uuid}"
    assert [part.id for part in node.results()["NiO"].decomposition] == ["mp-19009"]


@pytest.fixture(scope="module")
def others():
    """Structures without known energies that compete: their formulas are new."""
    cells = {"Li2NiO3": bulk("NiO", "rocksalt", 4.18) * (1, 1, 3), "CuAu3": bulk("Cu", cubic=True, a=3.9)}
    cells["Li2NiO3"].set_chemical_symbols(["Li", "O", "Li", "O", "Ni", "O"])
    cells["CuAu3"].set_chemical_symbols(["Cu", "Au", "Au", "Au"])
    return cells


@pytest.mark.filterwarnings("ignore:outside the domain")
def test_predicted_phases_compete_with_the_std_of_the_difference(predicted, others, small_model, structures):
    """The numbers are those of the function: with each other, with others, and with both."""
    model = model_of(predicted)
    of_set = DataFactory("cgcnn.structures").from_ase(others.values(), list(others))
    competing = predict_in_process(model, of_set, orm.Dict({"population": "known"}))
    polymorphs = structures | {"NiO-2": bulk("NiO", "zincblende", 4.4)}
    of_set = DataFactory("cgcnn.structures").from_ase(polymorphs.values(), list(polymorphs))
    again = predict_in_process(model, of_set, orm.Dict({"population": "known"}))
    for together, input_ in ((True, None), (False, competing), (True, competing)):
        node = stability(again, orm.Dict({"together": together}), model=model, competing=input_)
        options = {"together": together, "competing": None if input_ is None else others, "population": "known"}
        result = cgcnn_ase.stability(polymorphs, small_model, **options)
        assert orm.load_node(node.pk).results().all == without_source(result.all)
        if together:
            higher = max((node.results()[name] for name in ("NiO", "NiO-2")), key=lambda row: row.e_above_hull)
            assert [part.predicted for part in higher.decomposition] == [True]
            alone = stability(again, model=model).results()[higher.id]
            assert higher.e_above_hull_std != pytest.approx(alone.e_above_hull_std, rel=1e-3)
            assert set(higher.gains) == {"NiO", "NiO-2"}
            assert node.results().worth_computing() == result.worth_computing()
    assert node.creator.inputs.competing == competing


def test_predicted_phases_that_cannot_compete_are_refused(predicted, dropout_model, structures):
    model = model_of(predicted)
    bare = PredictionsData(columns(), unit="eV/atom", property=ENERGY, model="m", model_sha256="5" * 64).store()
    with pytest.raises(ValueError, match=rf"node {bare.pk} does not hold what each network of the ensemble predicts"):
        stability(bare, orm.Dict({"model_scale": "mp2020", "together": True}))
    with pytest.raises(ValueError, match=rf"predicted by the same model; node {bare.pk} holds predictions of form.* m"):
        stability(predicted, model=model, competing=bare)
    of_set = DataFactory("cgcnn.structures").from_ase([structures["NiO"]], ["NiO"])
    small = {"unit": "eV/atom", "property": ENERGY, "model": "m", "model_sha256": model.sha256}
    hypothetical = PredictionsData(columns(population="hypothetical"), **small).store()
    with pytest.raises(ValueError, match="of the population hypothetical, the structures of known"):
        stability(predicted, model=model, competing=hypothetical)
    with pytest.raises(ValueError, match="together must be true or false, not 'yes'"):
        stability(predicted, orm.Dict({"together": "yes"}), model=model)
    # samples of dropout are no members
    samples = predict_in_process(
        DataFactory("cgcnn.model").get_or_create(dropout_model), of_set, orm.Dict({"n_dropout": 3})
    )
    assert "members" not in samples.columns()


def labelled(structures, energies, scheme):
    """A set whose labels are the formation energies of some structures."""
    kept = {name: structures[name].copy() for name in energies}
    for name, atoms in kept.items():
        atoms.info = {"formation_energy_per_atom": energies[name], "label_scheme": scheme}
    return DataFactory("cgcnn.structures").from_ase(kept.values(), list(kept))


MP = {"engine": "materials_project", "functional": "PBE and PBE+U", "corrections": "MP2020"}


def test_labels_of_a_set_compete(predicted, expected, structures):
    phases = labelled(structures, {"NiO": -1.2, "LiF": -3.1}, MP)
    node = stability(predicted, phases=phases, model=model_of(predicted))
    results = node.results()
    for name, energy in (("NiO", -1.2), ("LiF", -3.1), ("CuAu", 0.0)):
        predicted_energy = expected[name].formation_energy_per_atom
        assert results[name].e_above_hull == pytest.approx(predicted_energy - energy, abs=1e-5)
    assert node.base.attributes.get("hull_source") == f"2 structures of node {phases.uuid}"


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        (MP, "corrections MP2020 are on the scale mp2020, not on mp-legacy"),
        ({"engine": "gpaw", "functional": "PBE"}, "corrections none are on the scale uncorrected, not on mp-legacy"),
        (MP | {"functional": "r2SCAN"}, "energies of r2SCAN; the hull needs"),
    ],
)
def test_labels_that_cannot_compete_are_refused(predicted, structures, scheme, message):
    phases = labelled(structures, {"NiO": -1.2}, scheme)
    with pytest.raises(ValueError, match=message):
        stability(predicted, orm.Dict({"scale": "mp-legacy"}), phases=phases, model=model_of(predicted))


def test_labels_of_a_whole_cell_are_refused(predicted, structures):
    with pytest.raises(ValueError, match=r"node .*: NiO \(NiO\) would have a formation energy of -26 eV/atom"):
        stability(predicted, phases=labelled(structures, {"NiO": -26.0}, MP), model=model_of(predicted))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": "mp2021"}, "unknown scale of energies 'mp2021'"),
        ({"scale": "uncorrected"}, "the package's competing phases are on the scales"),
        ({"within": "far"}, "within must be an energy in eV/atom, not 'far'"),
        ({"leave_out": "no"}, "leave_out must be true or false"),
        ({"seed": 1}, "unknown settings seed; allowed: within"),
        ({"population": "hypothetical"}, "those of the population known, not hypothetical"),
    ],
)
def test_settings_that_are_refused(predicted, settings, message):
    with pytest.raises(ValueError, match=message):
        stability(predicted, orm.Dict(settings), model=model_of(predicted))


def columns(**more):
    row = {"id": "a", "formula": "NiO", "n_atoms": 2, "value": -1.0, "std": None, "lower": None, "upper": None}
    row |= {"epistemic": None, "aleatoric": None, "in_domain": None, "reason": ""}
    return {name: [value] for name, value in (row | more).items()}


def test_predictions_of_another_property_are_refused(aiida_profile):
    node = PredictionsData(columns(), unit="eV", property="band_gap", model="band-gap", model_sha256="5" * 64).store()
    with pytest.raises(ValueError, match=rf"node {node.pk} holds predictions of band_gap by band-gap"):
        stability(node)


def test_the_scale_of_an_unknown_model_must_be_said(predicted, expected):
    with pytest.raises(ValueError, match="is no pretrained model, and its predictions state no scale: give its node"):
        stability(predicted)
    node = stability(predicted, orm.Dict({"model_scale": "mp-legacy"}))
    assert node.results().all == without_source(expected.all)


def test_the_scale_that_predictions_state_counts(aiida_profile):
    """It is MgO's, whose energy the older corrections put elsewhere."""
    values = columns(formula="MgO", scale="uncorrected")
    node = PredictionsData(values, unit="eV/atom", property=ENERGY, model="m", model_sha256="5" * 64).store()
    (row,) = stability(node).results().all
    shift = convert_formation_energy(-1.0, "MgO", source="uncorrected", to="mp2020")
    assert row.formation_energy_per_atom == pytest.approx(shift, abs=1e-9)
    assert abs(shift + 1.0) > 0.1


def test_another_model_is_refused(predicted, dropout_model):
    other = DataFactory("cgcnn.model").get_or_create(dropout_model)
    with pytest.raises(ValueError, match="model is another"):
        stability(predicted, model=other)


def test_what_is_missing_and_what_failed(aiida_profile):
    """Without an interval there is no probability, and AiiDA stores no NaN."""
    node = PredictionsData(
        columns(), unit="eV/atom", property=ENERGY, model="m", model_sha256="5" * 64,
        failures=[("bad", "no atoms")],
    )  # fmt: skip
    result = stability(node, orm.Dict({"model_scale": "mp2020"}))
    assert result.failures == [("bad", "no atoms")]
    (row,) = result.results().all
    table = HullComparison("mp2020").phases
    nio = next(phase.energy for phase in table.phases if phase.formula == "NiO")
    assert row.e_above_hull == pytest.approx(-1.0 - nio, abs=1e-6)
    assert (row.p_stable, row.e_above_hull_std, row.in_domain) == (None, None, None)
    assert result.base.attributes.get("p_stable") == [None]
    assert result.results().failures[0].error == "no atoms"


def test_that_all_failed_is_said(aiida_profile):
    node = PredictionsData(columns(formula=None), unit="eV/atom", property=ENERGY, model="m", model_sha256="5").store()
    with pytest.raises(ValueError, match="no structure has an energy above hull; the first: no formation energy"):
        stability(node, orm.Dict({"model_scale": "mp2020"}))


def test_rows_of_two_hulls_make_no_node(expected):
    rows = [expected.all[0], dataclasses.replace(expected.all[1], hull_sha256="other")]
    with pytest.raises(ValueError, match="of several models or hulls"):
        StabilityData(rows)


# aiida-cgcnn stability


def run(*args, command=main):
    done = CliRunner().invoke(command, [str(arg) for arg in args])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_the_command_takes_the_model_that_predicted(predicted, expected, tmp_path):
    done = run("stability", predicted.pk, "--output", tmp_path / "out.csv")
    assert done.exit_code == 0, done.output
    assert "of 4 are more likely than not within 0.05 eV/atom of the hull" in done.stdout
    table = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    assert table["e_above_hull"].tolist() == [row.e_above_hull for row in expected.all]
    pk = int(done.stdout.split("node ")[-1].split(";")[0])
    assert orm.load_node(pk).creator.inputs.model == model_of(predicted)
    done = run("stability", predicted.pk, "--together", "--competing", predicted.pk)
    assert done.exit_code == 0, done.output
    pk = int(done.stdout.split("node ")[-1].split(";")[0])
    assert orm.load_node(pk).creator.inputs.competing == predicted
    shown = run("show", pk, "--id", "NiO", command=predictions_command)
    assert (shown.exit_code, "decomposition: " in shown.stdout) == (0, True), shown.output


def test_the_command_refuses_in_one_line(predicted, small_model):
    model = model_of(predicted)
    for arguments, words in (
        ((model.pk,), "is a CGCNNModelData; give predictions"),
        ((predicted.pk, "--scale", "mp2021"), "unknown scale of energies"),
        ((predicted.pk, "--phases", model.pk), "give a set with labels, or a file of entries"),
        (("0",), "no Node found"),
    ):
        done = run("stability", *arguments)
        assert (done.exit_code, done.stdout) == (2, ""), done.output
        assert words in done.stderr


def test_the_entry_point_is_the_function():
    assert CalculationFactory("cgcnn.stability") is stability
