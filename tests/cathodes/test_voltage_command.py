"""``cgcnn-ase voltage``: a series of files, the same numbers as in Python, and bad input."""

import json

import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from cgcnn_ase.cathodes import average_voltage, build_cathode, voltage_curve

#: eV/atom, of lithium; and by how much each lithium in the host is lower
METAL, BINDING = -1.9, 3.5


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """LiCoO2 with less and less lithium, whose stored energies give 3.5 V by hand, but for one above the hull."""
    folder = tmp_path_factory.mktemp("series")
    structures = []
    for k, (part, above) in enumerate(((0.0, 0.0), (0.5, 0.2), (1.0, 0.0))):
        atoms = build_cathode("LiCoO2", supercell=(2, 1, 1), li_vacancy=part, seed=1)
        n_lithium = list(atoms.symbols).count("Li")
        energy = -40.0 + n_lithium * (METAL - BINDING) + above
        atoms.calc = SinglePointCalculator(atoms, energy=energy)
        write(folder / f"x{k}.extxyz", atoms)
        structures.append(atoms)
    return folder, structures


def test_stored_energies_by_hand(cgcnn_ase, series, tmp_path):
    folder, _ = series
    stored = ("--model", "stored", "--mu", f"Li={METAL}")
    ran = cgcnn_ase("voltage", folder, *stored, "--json", "--plot", tmp_path / "v.png")
    assert ran.code == 0, ran.err
    result = json.loads(ran.out)
    assert result["structures"] == ["x0", "x1", "x2"]
    (step,) = result["steps"]
    assert (step["x_from"], step["x_to"], step["std"]) == (1.0, 0.0, None)
    assert step["voltage"] == pytest.approx(BINDING)
    middle = next(phase for phase in result["phases"] if phase["index"] == 1)
    assert middle["above_hull"] == pytest.approx(0.2 / 6)
    assert "x1 is 0.033 eV per CoO2 (0.010 eV/atom) above the hull" in ran.err
    assert result["average"]["capacity_grav"] == pytest.approx(273.8, abs=0.1)  # of LiCoO2
    assert (tmp_path / "v.png").stat().st_size > 10_000


def test_a_pretrained_model_as_in_python(cgcnn_ase, series):
    folder, structures = series
    ran = cgcnn_ase("voltage", folder, "--json")
    assert ran.code == 0, ran.err
    curve = voltage_curve(structures)
    steps = json.loads(ran.out)["steps"]
    assert [step["voltage"] for step in steps] == pytest.approx([step.voltage for step in curve.steps], abs=1e-3)
    whole = average_voltage(structures[0], structures[2])
    assert 2.5 < whole.voltage < 4.8
    assert whole.std > 0


def test_the_table(cgcnn_ase, series):
    ran = cgcnn_ase("voltage", series[0], "--model", "stored", "--mu", f"Li={METAL}")
    assert ran.code == 0, ran.err
    assert "3.500" in ran.out
    assert "formation energy (eV per CoO2)" in ran.out
    assert "x1" in ran.out
    assert "mAh/g" in ran.out
    assert "274" in ran.out


def test_no_label_of_the_picture_is_cut_off():
    """A long formula: every text lies inside the figure once it is laid out."""
    from cgcnn_ase.cathodes.voltage import Phase, Voltage, VoltageCurve
    from cgcnn_ase.cathodes.voltage_plot import voltage_plot

    phases = tuple(Phase(k, x, f, 0.03, 0.0) for k, (x, f) in enumerate([(0.0, 0.0), (0.5, -0.15), (1.0, 0.0)]))
    steps = (Voltage(1.0, 0.5, 3.4, 0.2, None), Voltage(0.5, 0.0, 4.0, 0.2, None))
    figure = voltage_plot(VoltageCurve(phases, steps, "Ni0.8Mn0.1Co0.1O2", "Li", "formation-energy-per-atom", steps[0]))
    figure.draw_without_rendering()
    width, height = figure.bbox.size
    for axes in figure.axes:
        for label in (axes.xaxis.label, axes.yaxis.label):
            box = label.get_window_extent()
            assert box.x0 >= 0, label
            assert box.y0 >= 0, label
            assert box.x1 <= width, label
            assert box.y1 <= height, label
    assert "eV per Ni" in figure.axes[0].get_ylabel()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["FOLDER/x0.extxyz"], "needs two contents"),
        (["FOLDER", "--ion", "Be"], "ion 'Be': allowed are Li, Na, K"),
        (["FOLDER", "--model", "band-gap"], "an energy needs one model"),
        (["FOLDER", "--model", "stored"], "is not known"),
        (["FOLDER", "--plot", "v.txt"], "--plot v.txt: allowed are"),
        (["FOLDER", "--mu", "Co=-7"], "--mu Co=-7: a voltage needs that of the ion, Li, alone"),
        (["nowhere"], "nowhere"),
    ],
)
def test_bad_input(cgcnn_ase, series, arguments, words):
    ran = cgcnn_ase("voltage", *(a.replace("FOLDER", str(series[0])) for a in arguments))
    assert ran.code == 2
    assert words in ran.err
