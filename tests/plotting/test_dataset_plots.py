"""Pictures of a data set show what they say."""

import numpy as np
import pytest

from cgcnn_ase.core.elements import MAX_NUMBER, symbols
from cgcnn_ase.inspection.element_offsets import fit_offsets
from cgcnn_ase.plotting import dataset_plots


def test_the_periodic_table_is_that_of_pymatgen():
    from pymatgen.core import Element

    places = {}
    for number in range(1, MAX_NUMBER + 1):
        element = Element.from_Z(number)
        row, column = dataset_plots.place(number)
        places[row, column] = number
        if element.is_lanthanoid or element.is_actinoid:
            assert row > 8
        else:
            assert (row, column) == (element.row, element.group)
    assert len(places) == MAX_NUMBER  # each its own


def test_element_coverage():
    axes = dataset_plots.element_coverage({"O": 1234, "Li": 7}).axes[0]
    texts = [t.get_text() for t in axes.texts]
    assert [s for s in texts if s in symbols()] == list(symbols()[1:])
    assert [t for t in texts if t not in symbols()] == ["7", "1.2k"]
    colours = {patch.get_facecolor() for patch in axes.patches}
    assert len(colours) == 3  # of lithium, of oxygen, and of all others


def test_histograms_lose_nothing():
    values = np.append(np.random.default_rng(0).normal(size=4000), [np.nan, 500.0])
    axes = dataset_plots.value_histogram(values, name="band_gap", unit="eV").axes[0]
    assert axes.get_xlabel() == "band gap (eV)"
    shown = sum(patch.get_height() for patch in axes.patches)
    assert axes.get_title() == f"4,001 values, {4001 - shown:.0f} outside the picture"
    assert 0 < 4001 - shown < 12
    for sizes in (np.arange(1, 12), np.array([1, 2, 2, 8, 300]), np.array([4, 4])):
        axes = dataset_plots.size_histogram(sizes).axes[0]
        assert sum(patch.get_height() for patch in axes.patches) == len(sizes)
    with pytest.raises(ValueError, match="there are no gap to draw"):
        dataset_plots.value_histogram([np.nan], name="gap")


def test_two_sources():
    rng = np.random.default_rng(1)
    x = np.zeros((50, 101))
    x[:, 8] = rng.uniform(0.2, 0.8, 50)
    x[:, 12] = 1 - x[:, 8]
    difference = -0.7 * x[:, 8] + rng.normal(0, 0.01, 50)
    offsets = fit_offsets(x, difference)
    named = {"name": "energy_per_atom", "other": "b", "unit": "eV/atom"}
    figure = dataset_plots.sources(difference, offsets.apply(x, difference), offsets, **named)
    left, right = figure.axes
    assert left.get_xlabel() == "energy per atom\nless that of b (eV/atom)"
    assert right.get_ylabel() == "offset of the element (eV/atom)"
    assert [t.get_text() for t in right.get_xticklabels()] == ["O", "Mg"]
    assert [bar.get_height() for bar in right.patches] == pytest.approx(list(offsets.offsets.values()))
    legend = [t.get_text() for t in left.get_legend().get_texts()]
    assert legend == [
        f"as they are, RMSE {offsets.rmse_before:.2g}",
        f"after the offsets, RMSE {offsets.rmse_after:.2g}",
    ]
    difference[0] = 99.0
    alone = dataset_plots.sources(difference, name="gap", other="b")
    assert [axes.get_title() for axes in alone.axes] == ["50 structures, 1 outside the picture"]
