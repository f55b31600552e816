"""The scale of labels goes into the model that learns them, and those of two scales never mix."""

from dataclasses import replace

import pandas as pd
import pytest

from cgcnn_ase import finetune, load_model
from cgcnn_ase.core.elements import fetched_scale
from cgcnn_ase.core.errors import DatasetError
from cgcnn_ase.data.dataset import _stated_scale
from cgcnn_ase.data.prepared import PreparedData, join
from cgcnn_ase.stability.phases import check_labels

from .conftest import prepared_data
from .test_unconverged_labels import FAST, ROUGH, labelled


def test_a_tuned_model_takes_the_scale_of_its_labels_and_keeps_it(small_model, tmp_path):
    data, target = list(labelled({**FAST, "converged": True})), "formation_energy_per_atom"
    assert load_model(small_model).scale is None
    first = finetune(small_model, data, tmp_path / "a", target=target, scale="mp2020", settings=ROUGH)
    assert load_model(first.model).scale == "mp2020"
    assert "| formation_energy_per_atom | eV/atom | mp2020 |" in (first.model / "README.md").read_text()
    second = finetune(first.model, data, tmp_path / "b", target=target, settings=ROUGH)
    assert load_model(second.model).scale == "mp2020"
    with pytest.raises(ValueError, match="unknown scale of energies 'mp2021'"):
        finetune(small_model, data, tmp_path / "c", target=target, scale="mp2021", settings=ROUGH)


def test_prepared_data_keep_it_and_never_mix(tmp_path):
    data = replace(prepared_data(8, 4, 4), scale="mp2020")
    data.save(tmp_path / "p")
    assert PreparedData.load(tmp_path / "p").scale == "mp2020"
    other = replace(data, ids=[f"other-{name}" for name in data.ids])
    assert join([data, replace(other, scale=None)]).scale == "mp2020"
    with pytest.raises(ValueError, match="energies on the scales mp-legacy and mp2020 never mix"):
        join([data, replace(other, scale="mp-legacy")])


def test_what_a_table_states(tmp_path):
    fetched = pd.DataFrame({"corrections": ["MP2020"] * 2})
    for column, scale in (
        ("formation_energy_per_atom", "mp2020"), ("uncorrected_energy_per_atom", "uncorrected"), ("band_gap", None)
    ):  # fmt: skip
        assert _stated_scale(fetched, [column], tmp_path) == scale
    r2scan = pd.DataFrame({"corrections": ["none"] * 2, "functional": ["r2SCAN"] * 2})
    for column, scale in (("formation_energy_per_atom", "other:r2SCAN"), ("band_gap", None)):
        assert _stated_scale(r2scan, [column], tmp_path) == scale
    plain = pd.DataFrame({"corrections": ["none"] * 2, "functional": ["PBE and PBE+U"] * 2})
    assert _stated_scale(plain, ["energy_per_atom"], tmp_path) == "uncorrected"
    # what the hull refuses is on the scale that the labels are said to have
    for corrections in ("MP2020", "none"):
        with pytest.raises(ValueError, match=f"are on the scale {fetched_scale(corrections)}, not on mp-legacy"):
            check_labels({"PBE"}, {corrections}, "mp-legacy")
    assert _stated_scale(fetched, ["formation_energy_per_atom", "uncorrected_energy_per_atom"], tmp_path) is None
    labelled_table = pd.DataFrame({"scale": ["other:mine", "other:mine"]})
    assert _stated_scale(labelled_table, ["energy_per_atom"], tmp_path) == "other:mine"
    assert _stated_scale(labelled_table, ["band_gap"], tmp_path) is None
    with pytest.raises(DatasetError, match=r"energies on several scales \(mp-legacy, mp2020\) never mix"):
        _stated_scale(pd.DataFrame({"scale": ["mp2020", "mp-legacy"]}), ["energy_per_atom"], tmp_path)
