"""The pictures say what they should, and are written."""

import subprocess
import sys

import numpy as np
import pytest

from cgcnn_ase.plotting import model_plots as plots

UNIT, NAME = "eV/atom", "formation energy"


@pytest.fixture(scope="module")
def predictions():
    rng = np.random.default_rng(0)
    target = rng.uniform(-4, 1, 1000)
    std = 0.04 * np.exp(rng.normal(0, 0.7, 1000))
    mean = target + std * rng.laplace(size=1000) / 2**0.5
    return target, mean, std


def written(figure, path):
    """The pixels of the file, after the figure was saved."""
    from matplotlib.image import imread

    assert plots.save(figure, path) == path
    return imread(path)


def test_parity_shows_every_structure_and_its_scores(predictions):
    target, mean, _ = predictions
    figure = plots.parity(target, mean, name=NAME, unit=UNIT)
    axes = figure.axes[0]
    assert axes.get_xlabel() == "reference formation energy (eV/atom)"
    assert axes.get_ylabel() == "predicted formation energy (eV/atom)"
    assert axes.collections[0].get_array().sum() == 1000  # counts of the density's cells
    assert f"MAE {np.abs(target - mean).mean():.4f} eV/atom" in axes.get_title()
    assert f"R² {1 - np.var(target - mean) / np.var(target):.3f}" in axes.get_title()
    assert axes.get_xlim() == axes.get_ylim()
    assert axes.get_xlim()[0] < min(target.min(), mean.min())
    assert "1,000 structures" in [t.get_text() for t in axes.texts]


def test_parity_of_few_shows_points_with_their_std(predictions):
    target, mean, std = (a[:50] for a in predictions)
    axes = plots.parity(target, mean, std, name=NAME, unit=UNIT).axes[0]
    (container,) = axes.containers
    points, _, (bars,) = container.lines
    np.testing.assert_array_equal(points.get_xydata(), np.stack([target, mean], axis=1))
    lengths = [segment[1, 1] - segment[0, 1] for segment in bars.get_segments()]
    np.testing.assert_allclose(lengths, 2 * std)


def test_calibration_draws_the_curve(predictions):
    target, mean, std = predictions
    axes = plots.summary(target, mean, std, name=NAME, unit=UNIT).axes[1]
    curve = max(axes.lines, key=lambda line: len(line.get_xdata()))
    expected, observed = curve.get_data()
    assert len(expected) == 101
    assert observed[np.argmin(abs(expected - 0.5))] == pytest.approx(np.mean(target <= mean))
    assert axes.get_title().startswith("miscalibration area 0.0")


def test_error_against_std_draws_bins_over_all_points(predictions):
    target, mean, std = predictions
    axes = plots.summary(target, mean, std, name=NAME, unit=UNIT, n_bins=8).axes[2]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert axes.get_xlabel() == "predicted std (eV/atom)"
    assert axes.get_ylabel() == "error (eV/atom)"
    assert max(len(line.get_xdata()) for line in axes.lines) == 1000
    points = axes.containers[0].lines[0]
    lowest = np.argsort(std)[:125]
    assert len(points.get_xdata()) == 8
    assert points.get_ydata()[0] == pytest.approx(np.sqrt(np.mean((target - mean)[lowest] ** 2)))
    assert points.get_xdata()[0] == pytest.approx(np.sqrt(np.mean(std[lowest] ** 2)))
    z2 = np.mean(((target - mean) / std) ** 2)
    assert axes.get_title().startswith(f"mean z² {z2:.2f} (")
    assert any(text.get_text().startswith("Spearman 0.") for text in axes.texts)


def test_a_prediction_without_any_error_is_no_obstacle():
    target = np.linspace(0, 1, 20)
    figure = plots.summary(target, target, np.full(20, 0.1), name=NAME, unit=UNIT, n_bins=2)
    assert figure.axes[2].get_title() == "mean z² 0.00 (0.00 to 0.00)"


@pytest.mark.parametrize("spread", [0.3, 3.0], ids=["linear", "logarithmic"])
def test_error_against_domain_marks_the_limit(predictions, tmp_path, spread):
    target, mean, _ = predictions
    score = 0.6 * np.exp(np.random.default_rng(1).normal(0, spread, 1000))
    figure = plots.error_against_domain(target, mean, score, name=NAME, unit=UNIT)
    (axes,) = figure.axes
    outside = int((score > 1).sum())
    assert axes.get_title() == f"{outside:,} of 1,000 outside"
    assert axes.get_ylabel() == "absolute error (eV/atom)"
    drawn = {len(line.get_xdata()) for line in axes.lines}
    assert {outside, 1000 - outside} <= drawn
    medians = next(line for line in axes.lines if line.get_label() == "median of groups")
    inside = np.argsort(score)[: 1000 - outside]
    lowest = np.array_split(inside, 10)[0]
    assert medians.get_ydata()[0] == pytest.approx(np.median(np.abs(target - mean)[lowest]))
    assert written(figure, tmp_path / "domain.png").size


def test_error_against_domain_of_a_few(tmp_path):
    figure = plots.error_against_domain([1.0, 2.0], [1.1, 2.0], [0.0, 0.5], name=NAME, unit=UNIT)
    assert figure.axes[0].get_title() == "0 of 2 outside"
    written(figure, tmp_path / "domain.png")


def test_learning_curve_marks_the_best_epoch():
    mae = [0.3, np.nan, 0.1, 0.12]
    figure = plots.learning_curve(range(4), train_loss=[1, 0.5, 0.3, 0.2], val_mae=mae, unit=UNIT, best_epoch=2)
    left, right = figure.axes
    assert left.get_ylabel() == "training loss"
    assert right.get_ylabel() == "validation MAE (eV/atom)"
    np.testing.assert_array_equal(right.lines[0].get_xdata(), [0, 2, 3])
    assert right.lines[1].get_xydata().tolist() == [[2, 0.1]]
    assert right.get_title() == "best: 0.1 eV/atom in epoch 2"


@pytest.mark.parametrize(
    ("change", "words"),
    [({"val_mae": [1.0]}, "do not match"), ({"best_epoch": 7}, "best epoch, 7"), ({"train_loss": []}, "do not match")],
)
def test_learning_curve_refuses_in_words(change, words):
    arguments = {"epochs": [0, 1], "train_loss": [1, 2], "val_mae": [1, 2], "unit": UNIT} | change
    with pytest.raises(ValueError, match=words):
        plots.learning_curve(**arguments)


def test_summary_is_written_with_three_panels(predictions, tmp_path):
    target, mean, std = predictions
    figure = plots.summary(target, mean, std, mean - 1.6 * std, mean + 1.6 * std, name=NAME, unit=UNIT)
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert [label for label in labels if label] == [
        "reference formation energy (eV/atom)",
        "expected share below quantile",
        "predicted std (eV/atom)",
    ]
    covered = np.mean(np.abs(target - mean) <= 1.6 * std)
    (note,) = (t.get_text() for axes in figure.axes for t in axes.texts if "interval" in t.get_text())
    assert note == f"90 % conformal interval\nholds {100 * covered:.1f} %"
    pixels = written(figure, tmp_path / "summary.png")
    assert pixels.shape[1] > 1500
    for third in np.array_split(pixels[..., :3], 3, axis=1):
        assert 0.02 < np.mean(third.min(axis=2) < 0.95) < 0.6  # ink in each panel, on white


def test_pdf_and_svg_are_written_too(predictions, tmp_path):
    target, mean, std = predictions
    figure = plots.parity(target, mean, std, name=NAME, unit=UNIT)
    assert plots.save(figure, tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    assert b"<svg" in plots.save(figure, tmp_path / "a.svg").read_bytes()


def test_save_names_a_missing_folder(predictions, tmp_path):
    figure = plots.parity(*predictions, name=NAME, unit=UNIT)
    with pytest.raises(FileNotFoundError, match="absent does not exist"):
        plots.save(figure, tmp_path / "absent" / "a.png")


def test_matplotlib_and_scipy_are_imported_only_when_needed():
    code = (
        "import sys; import cgcnn_ase.plotting.model_plots, cgcnn_ase.uncertainty as u\n"
        "u.evaluate([1., 2.], [1., 3.], [1., 2.], n_bins=1)\n"
        "assert not {'matplotlib', 'scipy', 'torch', 'pandas', 'ase'} & set(sys.modules), 'heavy'\n"
        "cgcnn_ase.plotting.model_plots.parity([1., 2.], [1., 3.], [1., 2.], name='a', unit='b')\n"
        "assert 'matplotlib.pyplot' not in sys.modules, 'pyplot'\n"
        "print('light')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "light", done.stderr


def test_bins_are_those_of_the_data():
    """Few values, few bins; whole numbers, one bin each; never more than sixty, and nothing is lost."""
    rng = np.random.default_rng(0)
    for values, at_least, at_most in (
        (rng.normal(size=20), 3, 12), (rng.normal(size=2000), 20, 60), (np.repeat([1, 2, 5], 4), 5, 5),
        (np.full(9, 2.5), 1, 1), ([0.0], 1, 1), (np.append(rng.normal(size=5000), 1e4), 60, 60),
    ):  # fmt: skip
        edges = plots.bin_edges(values)
        assert at_least <= len(edges) - 1 <= at_most
        assert np.histogram(values, edges)[0].sum() == len(values)
    assert plots.bin_edges([1, 2, 5]) == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]


def test_no_empty_brackets_where_there_is_no_unit():
    axes = plots.parity([1.0, 2.0], [1.0, 3.0], name="poisson ratio", unit="1").axes[0]
    assert axes.get_xlabel() == "reference poisson ratio"
    assert axes.get_title().startswith("MAE 0.500, R²")
    assert plots.quantity("band_gap", "eV") == "band gap (eV)"
    assert plots.quantity("ratio") == "ratio"


def test_a_relaxation_is_drawn_with_its_stds(tmp_path):
    from ase.build import bulk
    from ase.calculators.lj import LennardJones
    from ase.calculators.singlepoint import SinglePointCalculator

    from cgcnn_ase.plotting.prediction_plots import relaxation_plot

    frames = []
    for step in range(4):
        atoms = bulk("NiO", "rocksalt", a=4.2)
        forces = np.zeros((2, 3))
        forces[1, 2] = 0.8 / 2**step
        atoms.calc = SinglePointCalculator(atoms, energy=-10.0 - step, forces=forces)
        atoms.info = {"energy_std": 0.2 + step, "max_force_std": 0.05}
        frames.append(atoms)
    figure = relaxation_plot(frames, fmax=0.05)
    energy, force, std = figure.axes
    np.testing.assert_allclose(energy.lines[0].get_ydata(), [3, 2, 1, 0])
    np.testing.assert_allclose(force.lines[0].get_ydata(), [0.8, 0.4, 0.2, 0.1])
    np.testing.assert_allclose(force.lines[1].get_ydata(), 0.05)
    np.testing.assert_allclose(std.lines[0].get_ydata(), [100, 600, 1100, 1600])  # meV/atom
    assert force.get_yscale() == "log"
    assert [text.get_text() for text in force.get_legend().get_texts()] == ["force", "std", "aim"]
    assert {axes.get_xlabel() for axes in figure.axes} == {"step"}
    assert figure.get_suptitle() == "NiO"
    assert written(figure, tmp_path / "a.png").std() > 0
    for atoms in frames:
        atoms.info = {}
    assert len(relaxation_plot(frames[:1]).axes) == 2  # any trajectory of ASE
    with pytest.raises(ValueError, match="holds no structure"):
        relaxation_plot([])
    with pytest.raises(ValueError, match="NiO: has no energy and forces"):
        relaxation_plot([bulk("NiO", "rocksalt", a=4.2)])
    lone = bulk("Ar", "fcc", a=5.0)
    lone.calc = LennardJones()
    assert len(relaxation_plot([lone, lone]).axes) == 2
