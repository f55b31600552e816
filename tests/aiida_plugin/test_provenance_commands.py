"""``aiida-cgcnn provenance`` and ``verdi data cgcnn-predictions``, in this process."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("aiida")

from ase.build import bulk
from ase.io import write
from click.testing import CliRunner

from aiida_plugin.cli.app import main
from aiida_plugin.cli.data import predictions
from aiida_plugin.provenance.origin import origin

from .stored_graph import ase_run, store_graph


@pytest.fixture(scope="module")
def graph(aiida_profile, small_model, tmp_path_factory):
    """One graph for all tests of the provenance commands: they leave it as it is."""
    aiida_profile.reset_storage()
    return store_graph(small_model, tmp_path_factory.mktemp("models"), n_pool=8)


def run(command, *args):
    """The command's result; a traceback fails the test."""
    done = CliRunner().invoke(command, [str(arg) for arg in args])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def provenance(*args):
    return run(main, "provenance", *args)


def refused(done):
    """The one line that a refused command says."""
    assert (done.exit_code, done.stdout.strip(), done.stderr.count("\n")) == (2, "", 1), done.output
    return done.stderr


# aiida-cgcnn provenance


def test_origin(graph):
    shown = provenance("origin", graph.predictions[1].pk, "v3")
    assert shown.exit_code == 0
    for words in (
        "formation_energy_per_atom = -1.1300 ± 0.0500 eV/atom",
        "cgcnn.train",
        "PwCalculation",
        "cgcnn.defects",
    ):
        assert words in shown.stdout
    report = json.loads(provenance("origin", graph.predictions[1].pk, "v3", "--json").stdout)
    result = origin(graph.predictions[1], "v3")
    assert [run["pk"] for run in report["dft_runs"]] == [row.pk for row in result.dft_runs]
    assert report["models"][0]["sha256"] == graph.models[1].sha256
    assert report["row"]["value"] == result.row["value"]
    assert "imported" in provenance("origin", graph.predictions[0].pk).stdout


def test_predictions_of(graph, tmp_path):
    write(tmp_path / "a.extxyz", graph.pool.atoms("v5"))
    by_file = json.loads(provenance("predictions-of", tmp_path / "a.extxyz", "--json").stdout)
    assert [row["predictions_pk"] for row in by_file] == [node.pk for node in graph.predictions]
    by_id = json.loads(provenance("predictions-of", "v5", "--json").stdout)
    assert by_id == [row | {"match": "id"} for row in by_file]
    assert json.loads(provenance("predictions-of", "v5", "--in", graph.pool.pk, "--json").stdout) == by_file
    assert "-1.0500" in provenance("predictions-of", "v5").stdout
    write(tmp_path / "two.extxyz", [bulk("Cu"), bulk("Al")])
    assert "holds 2 structures" in refused(provenance("predictions-of", tmp_path / "two.extxyz"))


def test_not_found_no_such_file_and_no_such_id_are_told_apart(graph, tmp_path):
    assert "no such file" in refused(provenance("predictions-of", tmp_path / "missing.cif"))
    assert "no such file" in refused(provenance("predictions-of", "missing.cif"))
    assert "no such id" in refused(provenance("predictions-of", "v55"))
    write(tmp_path / "cu.extxyz", bulk("Cu"))
    done = provenance("predictions-of", tmp_path / "cu.extxyz", "--json")
    assert (done.exit_code, json.loads(done.stdout)) == (1, [])
    assert "not found" in done.stderr


def test_used_by_and_marks(graph):
    assert "later model" in provenance("used-by", graph.models[0].pk).stdout
    marked = provenance("mark-bad", graph.models[0].pk, "wrong labels")
    assert "2 predictions nodes, 2 labelled sets and 2 later models" in marked.stdout
    assert "wrong labels" in provenance("origin", graph.predictions[1].pk).stdout
    assert "wrong labels" in provenance("bad-models").stdout
    assert json.loads(provenance("used-by", graph.models[0].pk, "--json").stdout)["model"]["bad"] == "wrong labels"
    assert provenance("mark-bad", graph.models[0].pk, "--undo").exit_code == 0
    assert "wrong labels" not in provenance("bad-models").stdout
    assert "give either a REASON or --undo" in refused(provenance("mark-bad", graph.models[0].pk))


def test_errors(graph, tmp_path):
    output = provenance("errors", graph.predictions[0].pk, "--json", "--plot", tmp_path / "p.png")
    assert [row["id"] for row in json.loads(output.stdout)] == [f"v{k}" for k in range(6)]
    assert (tmp_path / "p.png").stat().st_size > 1000
    assert "-0.0200" in provenance("errors", graph.models[0].pk).stdout
    assert "no label to compare with" in refused(provenance("errors", graph.models[2].pk))


def test_errors_of_what_was_learned_are_asked_for(graph):
    done = provenance("errors", graph.predictions[1].pk, "--json")
    assert [row["id"] for row in json.loads(done.stdout)] == ["v3", "v4", "v5"]
    assert "3 labels are left out: they are of structures that the model was trained on" in done.stderr
    rows = json.loads(provenance("errors", graph.predictions[1].pk, "--include-trained", "--json").stdout)
    assert [row["trained_on"] for row in rows] == [True] * 3 + [False] * 3


def test_dft_only(graph):
    assert provenance("dft-only", graph.labelled[0].pk).exit_code == 0
    done = provenance("dft-only", graph.models[1].pk)
    assert done.exit_code == 1
    assert "learned from is not known here" in done.stderr
    emt = ase_run(graph, bulk("Cu"), "emt", functional="empirical")
    done = provenance("dft-only", emt.pk, "--json")
    assert (done.exit_code, json.loads(done.stdout)["only_dft"]) == (1, False)
    assert "labels of other kinds: empirical" in done.stderr
    assert provenance("dft-only", graph.pool.pk).exit_code == 1  # has none


def test_picture(graph, tmp_path):
    assert provenance("picture", graph.predictions[1].pk, tmp_path / "g.dot", "--depth", 2).exit_code == 0
    assert "digraph" in (tmp_path / "g.dot").read_text()
    assert "allowed endings" in refused(provenance("picture", graph.pool.pk, tmp_path / "g.txt"))


def test_bad_input_is_one_line_and_code_2(graph):
    assert "no structure has the id 'x'" in refused(provenance("origin", graph.predictions[0].pk, "x"))
    done = provenance("origin", graph.pool.pk)
    assert done.exit_code == 2
    assert "Traceback" not in done.output


# verdi data


def test_predictions_commands(graph, tmp_path):
    import pandas as pd

    node = graph.predictions[0]
    listed = run(predictions, "list").output
    assert listed.count("formation_energy_per_atom") == 2
    assert node.base.attributes.get("model_sha256")[:12] in listed
    assert "eV/atom" not in run(predictions, "list", "--model", "nobody").output
    assert "eV/atom" in run(predictions, "list", "--model", graph.models[0].sha256[:6]).output
    shown = run(predictions, "show", node.pk, "--id", "v3").output
    assert "n_predictions: 8" in shown
    assert "-1.03" in shown
    assert "no prediction of x" in refused(run(predictions, "show", node.pk, "--id", "x"))
    for name, reader in (("p.csv", pd.read_csv), ("p.json", pd.read_json)):
        assert run(predictions, "export", node.pk, tmp_path / name).exit_code == 0
        table = reader(tmp_path / name)
        assert table["value"].to_numpy() == pytest.approx(node.to_frame()["value"].to_numpy(), rel=1e-14)
        assert list(table.columns) == list(node.to_frame().columns)
    assert "allowed endings are .csv and .json" in refused(run(predictions, "export", node.pk, tmp_path / "p.xls"))


def test_an_exported_table_makes_the_same_node(graph, tmp_path):
    from aiida_plugin.data.predictions import PredictionsData

    node = graph.predictions[0]
    run(predictions, "export", node.pk, tmp_path / "p.csv")
    (again,) = PredictionsData.from_csv(tmp_path / "p.csv").values()
    assert again.columns() == node.columns()


def test_verdi_data_finds_them(graph, entry_points):
    from aiida.cmdline.commands.cmd_verdi import verdi

    known = {point.name for point in entry_points.eps().select(group="aiida.cmdline.data")}
    for name, words in (("structures", "Ni"), ("predictions", "eV/atom")):
        if f"cgcnn-{name}" not in known:
            entry_points.add(f"aiida_plugin.cli.data:{name}", f"aiida.cmdline.data:cgcnn-{name}")
        done = run(verdi, "data", f"cgcnn-{name}", "list")
        assert done.exit_code == 0, done.output
        assert words in done.output


def test_the_commands_import_nothing_heavy():
    modules = "aiida_plugin.cli.app, aiida_plugin.cli.data"
    code = f"import sys, {modules}; print({{'torch', 'ase', 'numpy', 'pandas', 'cgcnn_ase'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "set()"
    assert "provenance" in CliRunner().invoke(main, ["--help"]).output
