"""Offsets of elements: known ones come back, their errors are true, what cannot be known is said."""

import json

import numpy as np
import pytest

from cgcnn_ase.core.elements import symbols
from cgcnn_ase.data.dataset import read_table
from cgcnn_ase.inspection.element_offsets import ElementOffsets, fit_offsets

ELEMENTS = ["Li", "O", "Mg", "Ti", "Ni", "Cu"]
TRUE = {"Li": 0.31, "O": -0.69, "Mg": 0.02, "Ti": -1.4, "Ni": -2.5, "Cu": 0.0}


def fractions(amounts):
    """Atomic fractions, (n, 101), of amounts by element."""
    x = np.zeros((len(amounts), 101))
    for row, each in zip(x, amounts, strict=True):
        for name, n in each.items():
            row[symbols().index(name)] = n
    return x / x.sum(axis=1, keepdims=True)


def random_compositions(rng, n):
    """Of two to four elements with small whole amounts."""
    chosen = [rng.choice(ELEMENTS, rng.integers(2, 5), replace=False) for _ in range(n)]
    return fractions([{str(name): int(rng.integers(1, 7)) for name in names} for names in chosen])


def sum_over(x, offsets=TRUE):
    return sum(x[:, symbols().index(name)] * value for name, value in offsets.items())


@pytest.mark.parametrize("robust", [False, True])
def test_known_offsets_come_back_within_their_errors(robust):
    """Over many draws: no bias, and errors scatter as the standard errors say."""
    rng = np.random.default_rng(0)
    z = []
    for _ in range(150):
        x = random_compositions(rng, 80)
        result = fit_offsets(x, sum_over(x) + rng.normal(0, 0.05, 80), robust=robust)
        z.append([(result.offsets[e] - TRUE[e]) / result.errors[e] for e in ELEMENTS])
        assert 0.03 < result.rmse_after < 0.07 < result.rmse_before
    assert np.abs(np.mean(z, axis=0)).max() < 0.3  # 150 draws: 0.08 is one standard error
    assert 0.9 < np.std(z) < 1.1


def test_squares_agree_with_two_other_libraries():
    from scipy.optimize import curve_fit
    from sklearn.linear_model import LinearRegression
    from sklearn.model_selection import LeaveOneOut, cross_val_predict

    rng = np.random.default_rng(1)
    x = random_compositions(rng, 60)
    y = sum_over(x) + rng.normal(0, 0.1, 60)
    result = fit_offsets(x, y)
    present = [symbols().index(e) for e in result.offsets]
    linear = LinearRegression(fit_intercept=False)
    left_out = y - cross_val_predict(linear, x[:, present], y, cv=LeaveOneOut())
    best, covariance = curve_fit(lambda x, *p: x @ np.array(p), x[:, present], y, p0=np.zeros(len(present)))
    np.testing.assert_allclose(list(result.offsets.values()), linear.fit(x[:, present], y).coef_, atol=1e-10)
    np.testing.assert_allclose(list(result.offsets.values()), best, atol=1e-6)
    np.testing.assert_allclose(list(result.errors.values()), np.sqrt(np.diag(covariance)), rtol=1e-4)
    assert result.rmse_left_out == pytest.approx(np.sqrt(np.mean(left_out**2)))
    assert (result.rank, result.n_left_out, result.tied, result.notes()) == (6, 60, (), [])


def test_mistakes_hardly_move_robust_offsets():
    rng = np.random.default_rng(2)
    x = random_compositions(rng, 300)
    y = sum_over(x) + rng.normal(0, 0.02, 300)
    y[:30] += 4.0
    robust, squares = fit_offsets(x, y, robust=True), fit_offsets(x, y)
    worst = [max(abs(result.offsets[e] - TRUE[e]) for e in ELEMENTS) for result in (robust, squares)]
    assert worst[0] < 0.02 < 0.2 < worst[1]


def test_robust_offsets_where_most_structures_are_met_exactly():
    rng = np.random.default_rng(3)
    x = random_compositions(rng, 100)
    y = sum_over(x)
    y[:5] += 1.0
    result = fit_offsets(x, y, robust=True)
    assert result.offsets == pytest.approx(TRUE, abs=1e-6)


def test_elements_that_always_occur_together_are_named():
    """Na only in NaCl, and Cl only there; K and Br apart."""
    x = fractions(
        [{"Na": 1, "Cl": 1}, {"Na": 1, "Cl": 1, "K": 2}, {"K": 1}, {"K": 1, "Br": 3}, {"Br": 1, "Na": 2, "Cl": 2}]
    )
    y = sum_over(x, {"Na": 0.4, "Cl": 0.2, "K": 1.0, "Br": -1.0})
    result = fit_offsets(x, y)
    assert result.tied == (("Na", "Cl"),)
    assert result.rank == 3
    assert (result.errors["Na"], result.errors["Cl"]) == (None, None)
    assert result.errors["K"] is not None
    assert result.offsets == pytest.approx({"Na": 0.3, "Cl": 0.3, "K": 1.0, "Br": -1.0})  # the least ones that fit
    (words,) = result.notes()
    assert words.startswith("Na, Cl cannot be told apart: of their offsets only 1 combination is determined; the ")
    assert result.difference(fractions([{"Na": 3, "Cl": 3, "Br": 6}])) == pytest.approx([0.25 * 0.6 - 0.5])
    with pytest.raises(ValueError, match="the offsets of Na, Cl cannot be told apart"):
        result.difference(fractions([{"Na": 2, "Br": 1}]))


def test_several_groups_are_told_one_by_one():
    """NaCl and CaS in two proportions with silver, which is also alone."""
    x = fractions(
        [{"Na": 1, "Cl": 1, "Ag": k} for k in (1, 2)] + [{"Ca": 1, "S": 2, "Ag": k} for k in (1, 3)] + [{"Ag": 1}]
    )
    result = fit_offsets(x, [0.3, 0.2, -0.4, -0.3, 0.1])
    assert result.tied == (("Na", "Cl"), ("S", "Ca"))
    assert [set(direction) for direction in result.free] == [{"Na", "Cl"}, {"S", "Ca"}]
    for direction in result.free:
        np.testing.assert_allclose(sum_over(x, direction), 0, atol=1e-12)
    assert [words[:6] for words in result.notes()] == ["Na, Cl", "S, Ca "]


def test_fewer_structures_than_elements():
    x = fractions([{"Li": 2, "O": 1}, {"Mg": 1, "O": 1}])
    result = fit_offsets(x, [0.3, -0.1])
    assert result.difference(x) == pytest.approx([0.3, -0.1])
    assert result.tied == (("Li", "O", "Mg"),)
    assert (result.rmse_left_out, result.n_left_out) == (None, 0)
    assert set(result.errors.values()) == {None}


def test_applied_and_saved():
    rng = np.random.default_rng(4)
    x = random_compositions(rng, 50)
    other = rng.normal(-3, 1, 50)
    result = fit_offsets(x, sum_over(x))
    assert result.apply(x, other + sum_over(x)) == pytest.approx(other)
    again = ElementOffsets.from_dict(json.loads(json.dumps(result.to_dict(), allow_nan=False)))
    assert again == result
    with pytest.raises(ValueError, match="no offset of Fe: no fitted structure has it; known are Li, O, "):
        result.apply(fractions([{"Fe": 2, "O": 3}]), [0.0])
    with pytest.raises(ValueError, match="these are no element offsets: .*rank"):
        ElementOffsets.from_dict({key: value for key, value in result.to_dict().items() if key != "rank"})


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (np.zeros((0, 101)), [], "at least one structure"),
        (fractions([{"Li": 1}]), [1.0, 2.0], "do not match"),
        (fractions([{"Li": 1}]), [np.nan], "difference 0 is not finite"),
        (np.ones((1, 92)), [1.0], r"must be \(n, 101\) atomic fractions"),
        (2 * fractions([{"Li": 1}]), [1.0], "sum to 1"),
    ],
)
def test_bad_input(x, y, words):
    with pytest.raises(ValueError, match=words):
        fit_offsets(x, y)


def test_reference_energies_of_the_materials_project(shared_data):
    """Total less formation energies are the elements' references; H, N, F and Cl had fitted ones then."""
    table = read_table(shared_data / "mp36k")
    difference = table.values("total_energy_per_atom_corrected_reconstructed") - table.values(
        "formation_energy_per_atom"
    )
    known = np.isfinite(difference)
    result = fit_offsets(table.fractions[known], difference[known])
    published = json.loads((shared_data / "mp_pbe_element_refs" / "refs.json").read_text())
    apart = {e: value - published[e] for e, value in result.offsets.items()}
    fitted = {"H", "N", "F", "Cl"}
    assert len(result.offsets) == 84
    assert max(abs(value) for e, value in apart.items() if e not in fitted) < 1e-6
    assert {e: round(apart[e], 3) for e in fitted} == {"H": 0.153, "N": 0.384, "F": 0.491, "Cl": 0.595}
    assert result.rmse_after < 1e-9


def test_corrections_of_the_materials_project(shared_data):
    """Robust offsets of corrected less uncorrected energies are the corrections that nearly all compounds had."""
    from importlib.resources import files

    import yaml

    text = files("pymatgen.analysis.compatibility").joinpath("MPCompatibility.yaml").read_text()
    published = yaml.safe_load(text)
    table = read_table(shared_data / "mp36k")
    corrected, plain = (
        table.values(f"total_energy_per_atom_{kind}_reconstructed") for kind in ("corrected", "uncorrected")
    )
    known = np.flatnonzero(np.isfinite(corrected - plain))[::8]  # enough, and quicker
    result = fit_offsets(table.fractions[known], (corrected - plain)[known], robust=True).offsets
    shifts = published["Advanced"]["UCorrections"]["O"]
    true = {
        "O": published["OxideCorrections"]["oxide"],
        "S": published["SulfideCorrections"]["sulfide"],
        "V": shifts["V"],
        "Mn": shifts["Mn"],
        "Li": 0.0,
        "Cu": 0.0,
    }
    assert {e: result[e] for e in true} == pytest.approx(true, abs=2e-3)
