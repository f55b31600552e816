"""Every entry point loads, and AiiDA shows useful help for it."""

import inspect
import pkgutil
from importlib import import_module
from importlib.metadata import distribution

import pytest

aiida = pytest.importorskip("aiida", reason="aiida-core is an optional extra")

from aiida import orm  # noqa: E402
from aiida.cmdline.commands.cmd_plugin import plugin_list  # noqa: E402
from aiida.plugins.entry_point import get_entry_point_names, load_entry_point  # noqa: E402
from ase.build import bulk  # noqa: E402
from click.testing import CliRunner  # noqa: E402

import aiida_plugin  # noqa: E402
from aiida_plugin.calculations import ase_dft  # noqa: E402
from aiida_plugin.calculations.functions.labels import extract  # noqa: E402
from aiida_plugin.data.structures import StructureSetData  # noqa: E402
from aiida_plugin.parsers import ase_dft as ase_dft_parser  # noqa: E402
from aiida_plugin.workflows import ase_dft_base  # noqa: E402
from aiida_plugin.workflows.idempotent import is_process_of  # noqa: E402

OURS = [(e.group, e.name) for e in distribution("cgcnn-ase").entry_points if e.group.startswith("aiida.")]


@pytest.mark.parametrize(("group", "name"), OURS)
def test_it_loads(group, name):
    assert load_entry_point(group, name) is not None
    assert name in get_entry_point_names(group)


@pytest.mark.parametrize(
    ("group", "name", "words"),
    [
        ("aiida.calculations", "cgcnn.predict", ["Predict every structure of a set", "structures", "320", "killed"]),
        ("aiida.calculations", "cgcnn.relax", ["Relax every structure of a set", "parameters", "342"]),
        ("aiida.calculations", "cgcnn.train", ["Train a model on labelled structures", "target", "321"]),
        ("aiida.calculations", "cgcnn.ase_dft", ["ASE calculator", "settings", "410"]),
        ("aiida.workflows", "cgcnn.label", ["from a DFT engine", "reference_energies", "340"]),
        ("aiida.workflows", "cgcnn.screen", ["the best and the least certain", "selection", "430"]),
        ("aiida.workflows", "cgcnn.finetune", ["before and after", "recipe", "421"]),
        ("aiida.workflows", "cgcnn.active_learning", ["asks for the labels", "budget", "431"]),
        ("aiida.workflows", "cgcnn.learn_relax", ["only where the potential does not know", "memory", "430"]),
        ("aiida.workflows", "cgcnn.predict_shards", ["try failed ones again alone", "n_shards", "410"]),
    ],
)
def test_verdi_shows_what_it_is(group, name, words, aiida_profile):
    result = CliRunner().invoke(plugin_list, [group, name])
    assert result.exit_code == 0, result.output
    output = " ".join(result.output.split())
    for word in words:
        assert word in output, f"{word!r} is not in the help of {name}"


def calcfunctions():
    """All of the package, by module and name."""
    result = {}
    for info in pkgutil.walk_packages(aiida_plugin.__path__, "aiida_plugin."):
        for value in vars(import_module(info.name)).values():
            if getattr(value, "is_process_function", False) and value.__module__.startswith("aiida_plugin."):
                result[f"{value.__module__}:{value.__name__}"] = value
    return result


def test_every_calcfunction_has_an_entry_point():
    """So that what is stored with a process survives a move of the module."""
    points = {e.value: e.name for e in distribution("cgcnn-ase").entry_points if e.group == "aiida.calculations"}
    functions = calcfunctions()
    assert len(functions) > 20
    assert {path: points.get(path) for path in functions} == {
        path: f"cgcnn.{function.__name__}" for path, function in functions.items()
    }
    for path, function in functions.items():
        assert function.process_class.build_process_type() == f"aiida.calculations:{points[path]}"


def test_defaults_are_values_that_aiida_makes_nodes_of():
    """No functions: aiida-workgraph reads them off the signature, and takes values and nodes."""
    for path, function in calcfunctions().items():
        for name, parameter in inspect.signature(function).parameters.items():
            assert parameter.default is parameter.empty or not callable(parameter.default), f"{path}: {name}"


@pytest.mark.parametrize(
    ("name", "output"),
    [("predict", "summary"), ("relax", "summary"), ("train", "metrics"), ("ase_dft", "output_parameters")],
)
def test_jobs_have_a_default_output(name, output):
    """For `verdi calcjob res`."""
    assert load_entry_point("aiida.calculations", f"cgcnn.{name}").spec().default_output_node == output


def test_the_job_of_an_ase_calculator_is_not_called_dft(aiida_profile):
    """Its process type is that of stored jobs, and its old name still means it."""
    job = load_entry_point("aiida.calculations", "cgcnn.ase_dft")
    assert job.__name__ == "AseCalculation"
    assert job.build_process_type() == "aiida.calculations:cgcnn.ase_dft"
    assert orm.CalcJobNode(process_type="aiida.calculations:cgcnn.ase_dft").process_class is job
    assert ase_dft.AseDftCalculation is job
    assert ase_dft_parser.AseDftParser is load_entry_point("aiida.parsers", "cgcnn.ase_dft")
    assert ase_dft_base.AseDftBaseWorkChain is load_entry_point("aiida.workflows", "cgcnn.ase_dft.base")


def test_the_stored_process_type_is_the_entry_point(aiida_profile):
    structures = StructureSetData.from_ase([bulk("Cu")], ["Cu"])
    result = extract(structures, orm.List(["Cu"]))
    assert result["row_0"].creator.process_type == "aiida.calculations:cgcnn.extract"


@pytest.mark.parametrize(
    ("stored", "now", "same"),
    [
        ("aiida.calculations:cgcnn.extract", "aiida.calculations:cgcnn.extract", True),
        ("aiida_plugin.calculations.extract.extract", "aiida.calculations:cgcnn.extract", True),
        ("aiida_plugin.calculations.agreement.agreement", "aiida.calculations:cgcnn.prediction_errors", True),
        ("aiida_plugin.calculations.shards.cut", "aiida.calculations:cgcnn.join", False),
        ("somebody.calculations.extract.extract", "aiida.calculations:cgcnn.extract", False),
        (None, "aiida.calculations:cgcnn.extract", False),
    ],
)
def test_processes_of_earlier_versions_are_known(stored, now, same):
    assert is_process_of(stored, now) is same
