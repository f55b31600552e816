"""Every entry point loads, and AiiDA shows useful help for it."""

from importlib.metadata import distribution

import pytest

aiida = pytest.importorskip("aiida", reason="aiida-core is an optional extra")

from aiida.cmdline.commands.cmd_plugin import plugin_list  # noqa: E402
from aiida.plugins.entry_point import get_entry_point_names, load_entry_point  # noqa: E402
from click.testing import CliRunner  # noqa: E402

OURS = [(e.group, e.name) for e in distribution("cgcnn-ase").entry_points if e.group.startswith("aiida.")]


@pytest.mark.parametrize(("group", "name"), OURS)
def test_it_loads(group, name):
    assert load_entry_point(group, name) is not None
    assert name in get_entry_point_names(group)


@pytest.mark.parametrize(
    ("group", "name", "words"),
    [
        ("aiida.calculations", "cgcnn.predict", ["Predict every structure of a set", "structures", "320", "killed"]),
        ("aiida.calculations", "cgcnn.train", ["Train a model on labelled structures", "target", "321"]),
        ("aiida.calculations", "cgcnn.ase_dft", ["ASE calculator", "settings", "410"]),
        ("aiida.workflows", "cgcnn.label", ["from a DFT engine", "reference_energies", "340"]),
        ("aiida.workflows", "cgcnn.screen", ["the best and the least certain", "selection", "430"]),
        ("aiida.workflows", "cgcnn.finetune", ["before and after", "recipe", "421"]),
        ("aiida.workflows", "cgcnn.active_learning", ["asks for the labels", "budget", "431"]),
        ("aiida.workflows", "cgcnn.predict_shards", ["try failed ones again alone", "n_shards", "410"]),
    ],
)
def test_verdi_shows_what_it_is(group, name, words, aiida_profile):
    result = CliRunner().invoke(plugin_list, [group, name])
    assert result.exit_code == 0, result.output
    output = " ".join(result.output.split())
    for word in words:
        assert word in output, f"{word!r} is not in the help of {name}"
