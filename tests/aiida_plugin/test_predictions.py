"""Predictions as a node: what goes in comes out, to the last digit and the last gap."""

import math
import shutil
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("aiida")

from aiida import orm
from aiida.common.exceptions import ValidationError
from aiida.plugins import DataFactory
from hypothesis import given
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from aiida_plugin.data.columns import CONSTANT_COLUMNS, KINDS, read_columns, write_columns
from aiida_plugin.data.predictions import PredictionsData
from cgcnn_ase import predict
from cgcnn_ase.prediction.results import SITE_COLUMNS, Prediction, Predictions

SHA = "5" * 64


@pytest.fixture(autouse=True)
def profile(aiida_profile):
    return aiida_profile


def prediction(name="a", **fields) -> Prediction:
    """A complete one, but for what is said otherwise."""
    complete = {
        "id": name, "source": f"in/{name}.cif", "formula": "LiNiO2", "n_atoms": 4, "value": -1.25, "std": 0.1,
        "lower": -1.5, "upper": -1.0, "epistemic": 0.05, "aleatoric": 0.02, "in_domain": True, "in_domain_reason": "",
        "unit": "eV/atom", "property": "formation_energy_per_atom", "model": "m", "model_sha256": SHA,
    }  # fmt: skip
    return Prediction(**complete | fields)


def failed(name="bad", error="no atoms") -> Prediction:
    return prediction(name).failed(error)


AWKWARD = [
    prediction("plain"),
    prediction(
        'Ångström, "quoted"\nand two lines', in_domain_reason="distance 3.2 × the 99th percentile; unseen: Og, Ts"
    ),
    prediction("uncalibrated", std=None, lower=None, upper=None, in_domain=None, aleatoric=None),
    prediction("not a number", value=math.nan, std=math.inf, lower=-math.inf),
    prediction("digits", value=0.1 + 0.2, std=5e-324, lower=-0.0, upper=1.7976931348623157e308),
    prediction("outside", in_domain=False, in_domain_reason="element Og was not in the training set"),
    prediction("NaN", formula="NaN"),  # a compound
    prediction("NA"),
    prediction(" spaces "),
    prediction("007"),
]


def stored(node: PredictionsData) -> PredictionsData:
    """As it comes back from the storage."""
    return orm.load_node(node.store().pk)


def test_the_entry_point_gives_the_class():
    assert DataFactory("cgcnn.predictions") is PredictionsData


def test_importing_it_imports_no_torch():
    code = "import sys, aiida_plugin.data.predictions; print({'torch', 'ase', 'pymatgen', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "set()"


def test_every_column_of_a_frame_is_known():
    assert {*KINDS, *CONSTANT_COLUMNS, "in_domain_reason"} == {
        *SITE_COLUMNS,
        "members",
    }  # that is another name of "reason"


def test_the_frame_is_that_of_the_predictions():
    predictions = Predictions([*AWKWARD, failed()])
    frame = stored(PredictionsData.from_predictions(predictions)).to_frame()
    assert_frame_equal(frame, predictions.to_frame(), check_exact=True)


@pytest.mark.parametrize(
    "gaps", [{}, {"std": None, "in_domain": None, "lower": None}, {"formula": None, "n_atoms": None}], ids=str
)
def test_the_frame_is_the_same_where_all_have_the_same_gaps(gaps):
    predictions = Predictions([prediction(f"s{k}", value=float(k), **gaps) for k in range(3)])
    frame = stored(PredictionsData.from_predictions(predictions)).to_frame()
    assert_frame_equal(frame, predictions.to_frame(), check_exact=True)


def test_what_is_missing_is_told_from_what_is_no_number():
    columns = stored(PredictionsData.from_predictions(Predictions(AWKWARD))).columns()
    by_id = dict(zip(columns["id"], columns["std"], strict=True))
    assert by_id["uncalibrated"] is None
    assert by_id["not a number"] == math.inf
    assert math.isnan(dict(zip(columns["id"], columns["value"], strict=True))["not a number"])
    lower = dict(zip(columns["id"], columns["lower"], strict=True))["digits"]
    assert math.copysign(1, lower) == -1


text = st.text(max_size=12)
number = st.none() | st.floats(allow_nan=False)


@given(
    st.lists(
        st.tuples(text, text, number, st.none() | st.booleans(), st.none() | st.integers(0, 2**40)),
        max_size=20,
    )
)
def test_columns_come_back_as_they_went_in(rows):
    names = ("id", "reason", "std", "in_domain", "n_atoms")
    columns = {name: [row[k] for row in rows] for k, name in enumerate(names)}
    assert read_columns(write_columns(columns)) == columns
    assert write_columns(columns) == write_columns(columns)


def test_counts_and_what_all_share_are_attributes():
    attributes = stored(PredictionsData.from_predictions(Predictions([*AWKWARD, failed()]))).base.attributes.all
    finite = [p.value for p in AWKWARD if p.value is not None and np.isfinite(p.value)]
    assert (attributes["value_min"], attributes["value_max"]) == pytest.approx((min(finite), max(finite)), rel=1e-14)
    assert attributes["value_mean"] == pytest.approx(np.mean(finite), rel=1e-12)
    assert attributes["ids"] == [p.id for p in AWKWARD]
    assert sum(value is None for value in attributes["values"]) == len(AWKWARD) - len(finite)
    figures = {f"{name}_{figure}" for name in ("value", "std") for figure in ("min", "max", "mean")}
    figures |= {"ids", "values", "stds"}
    assert {name: value for name, value in attributes.items() if name not in figures} == {
        "n_predictions": 10, "n_structures": 10, "n_out_of_domain": 1, "n_failures": 1, "of_sites": False,
        "unit": "eV/atom", "property": "formation_energy_per_atom", "model": "m", "model_sha256": SHA,
    }  # fmt: skip


def test_failures_keep_id_and_error():
    bad = [failed("ü.cif", "no atoms: 'ü'"), failed("b")]
    node = stored(PredictionsData.from_predictions(Predictions([prediction(), *bad])))
    assert node.failures == [("ü.cif", "no atoms: 'ü'"), ("b", "no atoms")]
    assert stored(PredictionsData.from_predictions(Predictions([prediction()]))).failures == []


def test_if_all_failed_the_node_says_of_which_model():
    node = stored(PredictionsData.from_predictions(Predictions([failed("x")])))
    assert (len(node), node.base.attributes.get("model"), node.failures) == (0, "m", [("x", "no atoms")])
    assert node.to_frame().empty


def test_predictions_of_two_models_are_two_nodes():
    two = Predictions([prediction(), prediction(model="n")])
    with pytest.raises(ValueError, match="one model; these are of m, n"):
        PredictionsData.from_predictions(two)
    with pytest.raises(ValueError, match="these are of none"):
        PredictionsData.from_predictions(Predictions([]))


def test_an_empty_node_is_not_stored():
    with pytest.raises(ValidationError, match="needs columns"):
        PredictionsData().store()


def test_the_same_predictions_have_the_same_hash():
    """Which is what caching goes by."""
    one, same = (PredictionsData.from_predictions(Predictions(AWKWARD)).store() for _ in range(2))
    other = PredictionsData.from_predictions(Predictions(AWKWARD[:-1])).store()
    assert one.base.caching.get_hash() == same.base.caching.get_hash() != other.base.caching.get_hash()


def test_columns_that_lack_or_differ_are_named():
    with pytest.raises(ValueError, match="lack the columns formula, n_atoms"):
        PredictionsData({"id": ["a"], "value": [1.0]})
    columns = {name: [None] for name in KINDS} | {"id": ["a", "b"]}
    with pytest.raises(ValueError, match="differ in length"):
        PredictionsData(columns)


# The CSV of the command line


def test_the_csv_of_the_command_gives_the_frame_of_python(cgcnn_ase, cif_folder, small_model, tmp_path):
    folder, out = cif_folder(4), tmp_path / "out.csv"
    (folder / "bad.cif").write_text("data_bad\n")
    ran = cgcnn_ase("predict", folder, "--model", small_model, "--output", out)
    assert ran.code == 1
    errors = [tuple(line.split(": ", 1)) for line in ran.err.splitlines() if "bad.cif" in line]
    nodes = PredictionsData.from_csv(out, failures=errors)
    node = stored(nodes["small-formation-energy-per-atom"])
    predictions = predict(small_model, folder)
    assert len(nodes) == 1
    assert len(node) == 4
    assert_frame_equal(node.to_frame(), predictions.to_frame(), check_exact=True)
    assert [name.endswith("bad.cif") for name, _ in node.failures] == [True]


def test_two_models_in_one_csv_are_two_nodes(cgcnn_ase, cif_folder, small_model, dropout_model, tmp_path):
    folder, out = cif_folder(3), tmp_path / "out.csv"
    assert cgcnn_ase("predict", folder, "--model", small_model, "--model", "band-gap", "--output", out).code == 0
    nodes = PredictionsData.from_csv(out)
    assert list(nodes) == ["small-formation-energy-per-atom", "band-gap"]
    for name, model in (("small-formation-energy-per-atom", small_model), ("band-gap", "band-gap")):
        assert_frame_equal(stored(nodes[name]).to_frame(), predict(model, folder).to_frame(), check_exact=True)
    # the same name twice
    assert cgcnn_ase("predict", folder, "--model", small_model, "--model", dropout_model, "--output", out).code == 0
    twice = PredictionsData.from_csv(out)
    shas = {node.base.attributes.get("model_sha256") for node in twice.values()}
    assert set(twice) == {f"small-formation-energy-per-atom@{sha[:8]}" for sha in shas}
    assert len(twice) == 2


def test_sites_and_crystals_in_one_csv(cgcnn_ase, cif_folder, small_model, tmp_path):
    folder, out = cif_folder(2), tmp_path / "out.csv"
    sites = "vacancy-formation-energy"
    assert cgcnn_ase("predict", folder, "--model", sites, "--model", small_model, "--output", out).code == 0
    nodes = {name: stored(node) for name, node in PredictionsData.from_csv(out).items()}
    assert nodes[sites].base.attributes.get("of_sites") is True
    assert nodes[sites].base.attributes.get("n_structures") == 2
    assert len(nodes[sites]) == 4  # two elements each
    assert_frame_equal(nodes[sites].to_frame(), predict(sites, folder).to_frame(), check_exact=True)
    crystals = nodes["small-formation-energy-per-atom"]
    assert_frame_equal(crystals.to_frame(), predict(small_model, folder).to_frame(), check_exact=True)


@pytest.mark.parametrize("name", ["band-gap", "my-model"])  # of the second neither property nor unit are known
def test_an_uncalibrated_original_model(cgcnn_ase, cif_folder, original_weights, tmp_path, name):
    folder, out = cif_folder(2), tmp_path / "out.csv"
    model = shutil.copy(original_weights / "band-gap.pth.tar", tmp_path / f"{name}.pth.tar")
    assert cgcnn_ase("predict", folder, "--model", model, "--output", out).code == 0
    frame = stored(PredictionsData.from_csv(out)[name]).to_frame()
    assert frame["std"].tolist() == [None, None]
    assert_frame_equal(frame, predict(model, folder).to_frame(), check_exact=True)


def test_a_classification(cgcnn_ase, cif_folder, tmp_path):
    folder, out = cif_folder(3), tmp_path / "out.csv"
    assert cgcnn_ase("predict", folder, "--model", "is-metal", "--output", out).code == 0
    node = stored(PredictionsData.from_csv(out)["is-metal"])
    assert node.base.attributes.get("unit") == "probability"
    assert_frame_equal(node.to_frame(), predict("is-metal", folder).to_frame(), check_exact=True)


@pytest.fixture
def written(tmp_path):
    """The CSV file of awkward predictions, by the command's own writer."""
    from cgcnn_ase.cli.prediction_output import open_output

    path = tmp_path / "out.csv"
    with open_output(path, as_json=False, resume=False, sources=[], models=[]) as writer:
        for each in AWKWARD:
            writer.write(each)
    return path


def test_awkward_text_and_numbers_survive_the_csv(written):
    node = stored(PredictionsData.from_csv(written)["m"])
    assert_frame_equal(node.to_frame(), Predictions(AWKWARD).to_frame(), check_exact=True)


def test_a_csv_cut_short_anywhere_is_refused_or_has_whole_rows(written):
    whole = written.read_bytes()
    first = whole.index(b"\n") + 1
    for end in range(len(whole)):
        written.write_bytes(whole[:end])
        if whole[:end].endswith(b"\n") and end > first and whole[:end].count(b'"') % 2 == 0:
            frame = PredictionsData.from_csv(written)["m"].to_frame()
            assert_frame_equal(frame, Predictions(AWKWARD[: len(frame)]).to_frame(), check_exact=True)
        else:
            with pytest.raises(ValueError, match=r"out\.csv: (empty|cut short|damaged|holds no predictions)"):
                PredictionsData.from_csv(written)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"id,formula", b"id,colour", "not written by cgcnn-ase predict: its header is id,colour"),
        (b"-1.25", b"-1,25", "damaged: .* fields"),
        (b"m,555", b"m555", "damaged: prediction 1 has an empty source"),
        (b"NA,", b"NA,,", "damaged: .* fields"),
        (b"-1.25", b"high", "column value: 'high' is no number"),
        (b"-1.25", b"", "damaged: prediction 1 has an empty value"),
        (b"True", b"yes", "column in_domain: 'yes' is no True or False"),
        (b"LiNiO2,4,", b"LiNiO2,4.5,", "column n_atoms: '4.5' is no whole number"),
        (b"plain", b"\xff\xfe", "damaged: 'utf-8' codec"),
    ],
)
def test_a_damaged_csv_says_what_is_wrong(written, old, new, message):
    written.write_bytes(written.read_bytes().replace(old, new, 1))
    with pytest.raises(ValueError, match=rf"out\.csv: {message}"):
        PredictionsData.from_csv(written)


def test_an_archive_keeps_them(tmp_path, aiida_profile):
    from aiida.tools.archive import create_archive, import_archive

    node = PredictionsData.from_predictions(Predictions([*AWKWARD, failed()])).store()
    uuid, frame, failures = node.uuid, node.to_frame(), node.failures
    create_archive([node], filename=tmp_path / "predictions.aiida")
    aiida_profile.reset_storage()
    import_archive(tmp_path / "predictions.aiida")
    again = orm.load_node(uuid)
    assert_frame_equal(again.to_frame(), frame, check_exact=True)
    assert again.failures == failures


def test_a_hundred_thousand_rows_are_a_matter_of_seconds():
    n, rng = 100_000, np.random.default_rng(0)
    columns = {name: rng.normal(size=n).tolist() for name, kind in KINDS.items() if kind == "number"}
    columns |= {"id": [f"structure-{k:06d}" for k in range(n)], "formula": ["LiNiO2"] * n, "reason": [""] * n}
    columns |= {"n_atoms": [4] * n, "in_domain": [True] * n}
    start = time.perf_counter()
    node = PredictionsData(columns, unit="eV", property="p", model="m", model_sha256=SHA).store()
    frame = orm.load_node(node.pk).to_frame()
    assert time.perf_counter() - start < 10  # about 1 s on an idle core
    pd.testing.assert_series_equal(frame["value"], pd.Series(columns["value"], name="value"), check_exact=True)


def test_members_survive_the_csv_and_are_joined_with_what_lacks_them(tmp_path):
    from cgcnn_ase.cli.prediction_output import open_output

    path, rows = tmp_path / "out.csv", [np.array([0.1, 1 / 3, -2.0]), np.array([1.0, 2.0, 3e-17])]
    with open_output(path, as_json=False, resume=False, sources=[], models=[], members=True) as writer:
        for name, members in zip("ab", rows, strict=True):
            writer.write(prediction(name), members)
    node = stored(PredictionsData.from_csv(path)["m"])
    assert [members.tolist() for _, members in node.with_members()] == [row.tolist() for row in rows]
    assert_frame_equal(node.to_frame(), Predictions([prediction("a"), prediction("b")]).to_frame(), check_exact=True)
    old = PredictionsData.from_predictions(Predictions([prediction("c")]))
    for parts, expected in (((old, node), [None, *rows]), ((node, old), [*rows, None])):
        joined = stored(PredictionsData.joined(parts, [])).columns()["members"]
        assert joined == [None if row is None else tuple(row.tolist()) for row in expected]
    with pytest.raises(ValueError, match="does not hold what each network of the ensemble predicts"):
        old.with_members()
    path.write_text(path.read_text().replace("-2.0", "low"))
    with pytest.raises(ValueError, match="column members: '0.1 0.3333333333333333 low' is no row of numbers"):
        PredictionsData.from_csv(path)


def test_columns_of_an_earlier_version_lack_what_came_later():
    predictions = Predictions([prediction("a"), prediction("b", second_opinion_std=0.03)])
    columns = PredictionsData.from_predictions(predictions).columns()
    assert columns["second_opinion_std"] == [None, 0.03]
    del columns["second_opinion_std"]
    shared = {name: getattr(predictions.all[0], name) for name in CONSTANT_COLUMNS}
    assert stored(PredictionsData(columns, **shared)).columns()["second_opinion_std"] == [None, None]
