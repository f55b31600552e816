"""``verdi data cgcnn-model``, in this process."""

import subprocess
import sys

import pytest

pytest.importorskip("aiida")

from aiida import orm
from click.testing import CliRunner

from aiida_plugin.cli.data import model
from aiida_plugin.data.model import CGCNNModelData


@pytest.fixture(autouse=True)
def profile(aiida_profile_clean):
    return aiida_profile_clean


def run(*args):
    """The command's result; a traceback fails the test."""
    done = CliRunner().invoke(model, [str(arg) for arg in args])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_a_model_is_imported_once(small_model):
    assert "Success: small-formation-energy-per-atom: node" in run("import", small_model).output
    assert "stored already" in run("import", small_model).output
    assert orm.QueryBuilder().append(CGCNNModelData).count() == 1


def test_the_list_has_all_models_of_a_node():
    shared, single = CGCNNModelData.get_or_create("elastic"), CGCNNModelData.get_or_create("formation-energy-per-atom")
    listed = run("list").output
    assert all(name in listed for name in ("bulk-modulus", "poisson-ratio", "formation-energy-per-atom", "eV/atom"))
    assert all(node.sha256[:12] in listed for node in (shared, single))
    assert "mp-legacy" in listed
    only = run("list", "--name", "shear-modulus").output
    assert shared.sha256[:12] in only
    assert single.sha256[:12] not in only


def test_show_gives_the_attributes(small_model):
    node = CGCNNModelData.get_or_create(small_model)
    shown = run("show", node.pk).output
    assert node.content_sha256 in shown
    assert "package_version" in shown
    assert "scales:\n- mp-legacy\n" in run("show", CGCNNModelData.get_or_create("formation-energy-per-atom").pk).output


def test_an_exported_model_imports_as_the_same_node(small_model, tmp_path):
    node = CGCNNModelData.get_or_create(small_model)
    assert str(tmp_path / "out") in run("export", node.pk, tmp_path / "out").output
    assert f"as node {node.pk}" in run("import", tmp_path / "out").output


def test_bad_input_is_one_line_and_code_2(small_model, tmp_path):
    done = run("import", "nonsense")
    assert (done.exit_code, done.output.count("\n")) == (2, 1)
    assert "no model 'nonsense'" in done.output
    (tmp_path / "full").write_text("")
    done = run("export", CGCNNModelData.get_or_create(small_model).pk, tmp_path / "full")
    assert done.exit_code == 2
    assert "not an empty folder" in done.output


def test_a_node_of_another_kind_is_refused():
    done = run("show", orm.Int(1).store().pk)
    assert done.exit_code == 2
    assert "Traceback" not in done.output


def test_verdi_data_finds_it(entry_points, small_model):
    from aiida.cmdline.commands.cmd_verdi import verdi

    entry_points.add("aiida_plugin.cli.data:model", "aiida.cmdline.data:cgcnn-model")
    node = CGCNNModelData.get_or_create(small_model)
    done = CliRunner().invoke(verdi, ["data", "cgcnn-model", "list"])
    assert done.exit_code == 0, done.output
    assert node.sha256[:12] in done.output


def test_the_command_imports_nothing_heavy():
    code = (
        "import sys, aiida_plugin.cli.data; print({'torch', 'ase', 'numpy', 'pandas', 'cgcnn_ase'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "set()"
