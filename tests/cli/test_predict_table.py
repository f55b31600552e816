"""``cgcnn-ase predict`` for people: a table on a terminal, a picture; CSV stays where nobody looks."""

import csv
import json
import os
import re
import subprocess
from io import StringIO

import numpy as np
import pytest

from cgcnn_ase.cli.prediction_output import TableWriter
from cgcnn_ase.plotting.prediction_plots import predictions_plot
from cgcnn_ase.prediction.results import Prediction


def on_terminal(command, *arguments):
    """What a command writes on a terminal of 200 columns, and its exit code."""
    ours, theirs = os.openpty()
    env = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}
    with subprocess.Popen([command, *map(str, arguments)], stdout=theirs, stderr=subprocess.PIPE, env=env) as process:
        os.close(theirs)
        text = b""
        try:
            while chunk := os.read(ours, 1 << 16):
                text += chunk
        except OSError:  # Linux says so when the other end is closed
            pass
        error = process.stderr.read().decode()
    os.close(ours)
    assert "Traceback" not in error, error
    return text.decode(), process.returncode


def test_a_table_on_a_terminal_and_csv_in_a_pipe(cgcnn_ase_command, shell, small_model, cif_folder):
    folder = cif_folder(3)
    text, code = on_terminal(cgcnn_ase_command, "predict", folder, "--model", small_model)
    piped = shell("predict", folder, "--model", small_model)
    assert (code, piped.code) == (0, 0)
    rows = piped.rows()
    assert "id,formula" not in text
    (title,) = [line for line in text.splitlines() if "sha256" in line]
    short = rows[0]["model_sha256"][:12]
    assert title.strip() == f"formation_energy_per_atom (eV/atom) by small-formation-energy-per-atom, sha256 {short}"
    for row in rows:
        (line,) = [line for line in text.splitlines() if row["id"] in line]
        cells = [cell.strip() for cell in re.split("[│|]", line) if cell.strip()]
        digits = max(0, 1 - int(np.floor(np.log10(float(row["std"])))))
        assert cells[3:5] == [f"{float(row['value']):.{digits}f}", f"{float(row['std']):.{digits}f}"]
        assert cells[5] == f"{float(row['lower']):.{digits}f} to {float(row['upper']):.{digits}f}"
    assert "sha256" not in piped.err


def prediction(name, value, **more):
    fields = {"id": name, "source": "f", "value": value, "unit": "eV", "property": "gap", "model": "m",
              "model_sha256": "0123456789abcdef" * 4}  # fmt: skip
    return Prediction(**(fields | more))


def table(*predictions):
    with TableWriter(text := StringIO()) as writer:
        for one in predictions:
            writer.write(one)
        text.close = lambda: None
    return text.getvalue()


def test_members_are_written_where_asked(shell, small_model, cif_folder, tmp_path):
    options = ("predict", cif_folder(3), "--model", small_model)
    assert shell(*options, "--member-values", "--output", tmp_path / "out.json").code == 0
    rows = json.loads((tmp_path / "out.json").read_text())
    assert shell(*options, "--member-values", "--output", tmp_path / "out.csv").code == 0
    with (tmp_path / "out.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 3
    for row, line in zip(rows, table, strict=True):
        assert [float(number) for number in line["members"].split()] == pytest.approx(row["members"], abs=1e-6)
        assert (len(row["members"]), np.mean(row["members"])) == (3, pytest.approx(row["value"], abs=1e-5))
    done = shell(*options, "--output", tmp_path / "out.csv", "--resume")
    assert (done.code, "its header is another" in done.err) == (2, True)
    done = shell(*options, "--member-values", "--output", tmp_path / "out.extxyz")
    assert (done.code, "--member-values are written to a .csv or .json file" in done.err) == (2, True)


def test_the_std_decides_the_digits():
    text = table(prediction("a", 1.23456, std=0.0456), prediction("b", 123.456, std=13.2), prediction("c", 0.1))
    assert re.search(r"a .*1\.235 .*0\.046", text)
    assert re.search(r"b .*123 .*13 ", text)
    assert "0.1000" in text
    assert "90 % interval" not in text  # there is none


def test_classes_and_sites_and_reasons():
    text = table(prediction("a", 0.8, std=0.4, class_set=(0, 1), property="is_metal", unit="probability"))
    assert "0 or 1" in text
    assert " to " not in text
    text = table(
        prediction("a", 4.0, site_index=3, element="O", multiplicity=2, in_domain=False, in_domain_reason="no Po")
    )
    assert re.search(r"a .*3 .*O .*2 ", text)
    assert "no: no Po" in text


def test_a_class_has_no_interval_but_a_set(shell, cif_folder):
    """Classes 0 and 1 stood in the columns of an interval, as if they were probabilities."""
    import json

    ran = shell("predict", cif_folder(2), "--model", "is-metal")
    assert ran.code == 0, ran.err
    assert [(row["lower"], row["upper"]) for row in ran.rows()] == [("", "")] * 2
    rows = json.loads(shell("predict", cif_folder(2, "again"), "--model", "is-metal", "--json").out)
    for row in rows:
        assert row["lower"] is None
        assert row["class_set"] in ([0], [1], [0, 1])
        if len(row["class_set"]) == 1:
            assert row["class_set"] == [int(row["value"] > 0.5)]


def test_models_name_the_unit_of_the_error(cgcnn_ase):
    """The error of a modulus is that of its logarithm."""
    lines = {line.split("│")[1].strip(): line for line in cgcnn_ase("models").out.splitlines() if line.startswith("│")}
    assert "log10(GPa)" in lines["bulk-modulus"]
    assert re.search(r"MAE 0\.\d{4} eV/atom", lines["formation-energy-per-atom"])
    assert re.search(r"MAE 0\.\d{4} +│", lines["poisson-ratio"])  # no unit


# The picture


def test_the_picture_shows_every_value_with_its_interval():
    rng = np.random.default_rng(0)
    values = rng.normal(size=12)
    predictions = [
        prediction(f"s{k}", value, std=0.1, lower=value - 0.3, upper=value + 0.2, in_domain=bool(k % 3))
        for k, value in enumerate(values.tolist())
    ]
    figure = predictions_plot(predictions)
    (axes,) = figure.axes
    assert axes.get_xlabel() == "gap (eV)"
    points = [line for line in axes.lines if line.get_marker() == "o"]
    assert sorted(np.concatenate([line.get_xdata() for line in points])) == pytest.approx(sorted(values))
    lengths = [s[1, 0] - s[0, 0] for container in axes.containers for s in container.lines[2][0].get_segments()]
    assert lengths == pytest.approx([0.5] * 12)
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"s{k}" for k in np.argsort(values)]
    assert "4 outside of the domain" in axes.get_title()
    assert "90 % interval" in axes.get_title()


def test_pictures_of_many_values_several_models_and_none():
    many = [prediction(f"s{k}", float(k), std=1.0, unit="1", property="poisson_ratio") for k in range(100)]
    (axes,) = predictions_plot(many).axes
    assert axes.get_ylabel() == "poisson ratio"
    assert "one std" in axes.get_title()
    assert len(predictions_plot([prediction("a", 1.0), prediction("a", 2.0, model="n")]).axes) == 2
    with pytest.raises(ValueError, match="nothing to draw"):
        predictions_plot([])


def test_the_option(shell, small_model, cif_folder, tmp_path):
    ran = shell("predict", cif_folder(3), "--model", small_model, "--plot", tmp_path / "p.png")
    assert ran.code == 0, ran.err
    assert len(ran.rows()) == 3
    assert (tmp_path / "p.png").stat().st_size > 10_000
    ran = shell("predict", tmp_path / "cifs", "--model", small_model, "--plot", tmp_path / "p.doc")
    assert (ran.code, ran.out) == (2, "")
    assert "--plot" in ran.err
