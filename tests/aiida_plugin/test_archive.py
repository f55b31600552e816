"""A small graph to a file and into another profile: the model predicts, sets are equal, links are there, once."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

aiida = pytest.importorskip("aiida", reason="aiida-core is an optional extra")

from aiida import orm  # noqa: E402
from aiida.cmdline.commands.cmd_verdi import verdi  # noqa: E402
from aiida.tools.archive import create_archive, import_archive  # noqa: E402
from ase.calculators.singlepoint import SinglePointCalculator  # noqa: E402
from click.testing import CliRunner  # noqa: E402
from pandas.testing import assert_frame_equal  # noqa: E402

from aiida_plugin.calculations.functions.predictions import cut, predict_in_process  # noqa: E402
from aiida_plugin.data.model import CGCNNModelData  # noqa: E402
from aiida_plugin.data.structures import StructureSetData  # noqa: E402
from cgcnn_ase.prediction.predictor import Predictor  # noqa: E402

from .labelled import oxides  # noqa: E402
from .stored_graph import process  # noqa: E402

DOCS = Path(__file__).resolve().parents[2] / "docs" / "how_to" / "aiida" / "servers.md"


def labelled_oxides():
    """Six with energies, schemes and, on the last, moments and another periodicity."""
    atoms = oxides(6)
    last = list(atoms.values())[-1]
    last.set_initial_magnetic_moments([4.0, 0.0])
    last.pbc = (True, True, False)
    last.calc = SinglePointCalculator(last, energy=-21.5, magmoms=[3.9, 0.1])
    return atoms


@pytest.fixture
def archive(aiida_profile, aiida_localhost, small_model, tmp_path):
    """Set -> cut -> half a set, predicted in the process and, as far as the graph goes, by a job."""
    atoms = labelled_oxides()
    whole = StructureSetData.from_ase(atoms.values(), list(atoms)).store()
    half = cut(whole, orm.Int(2))["shard_0000"]
    model = CGCNNModelData.get_or_create(small_model)
    predictions = predict_in_process(model=model, structures=half)
    job = process(
        orm.CalcJobNode, "aiida.calculations:cgcnn.predict", {"model": model, "structures": half},
        {"predictions": predictions.clone()}, aiida_localhost,
    )  # fmt: skip
    file = create_archive([job, predictions], filename=tmp_path / "graph.aiida")
    uuids = {"whole": whole, "half": half, "model": model, "predictions": predictions, "job": job}
    return file, {name: node.uuid for name, node in uuids.items()}, predictions.to_frame(), links()


@pytest.fixture
def another(aiida_config, aiida_profile_factory, archive):
    """A profile without a node; the other one is there again after the test."""
    with aiida_profile_factory(aiida_config) as profile:
        assert orm.QueryBuilder().append(orm.Node).count() == 0
        yield profile


def links():
    """Every link of the profile, by uuid."""
    query = orm.QueryBuilder().append(orm.Node, tag="from", project="uuid")
    query.append(orm.Node, with_incoming="from", tag="to", project="uuid", edge_project=["label", "type"])
    result = [{"from": row["from"]["uuid"], "to": row["to"]["uuid"], **row["from--to"]} for row in query.dict()]
    return sorted(result, key=lambda link: sorted(link.items()))


def test_a_graph_in_another_profile(archive, another):
    file, uuids, frame, before = archive
    import_archive(file)
    node = {name: orm.load_node(uuid) for name, uuid in uuids.items()}
    for (name, ours), (theirs_name, theirs) in zip(
        zip(node["whole"].ids, node["whole"].iter_atoms(), strict=True), labelled_oxides().items(), strict=True
    ):
        assert name == theirs_name
        assert ours == theirs  # numbers, positions, cell, pbc, moments
        assert ours.info == theirs.info
        assert set(ours.calc.results) == set(theirs.calc.results)
        assert all(np.array_equal(ours.calc.results[key], value) for key, value in theirs.calc.results.items())
    # the model predicts what it predicted there, to the last digit that does not depend on the size of a batch
    assert_frame_equal(node["predictions"].to_frame(), frame, check_exact=True)
    again = Predictor(node["model"].load())(list(node["half"].iter_atoms())).to_frame()
    assert np.allclose(again["value"], frame["value"], rtol=0, atol=1e-6)
    assert CGCNNModelData.get_or_create(node["model"].export(file.with_name("model"))).uuid == uuids["model"]
    # from the predictions back to the set that was cut, by links
    here = set(orm.QueryBuilder().append(orm.Node, project="uuid").all(flat=True))
    assert links() == [link for link in before if {link["from"], link["to"]} <= here]
    made_by = node["predictions"].creator
    assert made_by.inputs.model.uuid == uuids["model"]
    assert made_by.inputs.structures.creator.inputs.structures.uuid == uuids["whole"]
    assert (made_by.process_label, node["job"].exit_status) == ("predict_in_process", 0)
    assert node["job"].computer.label == "localhost"
    assert len(node["job"].outputs.predictions) == len(frame)


def test_twice_doubles_nothing(archive, another):
    file, _, _, _ = archive
    import_archive(file)
    once = orm.QueryBuilder().append(orm.Node).count(), links(), orm.QueryBuilder().append(orm.Computer).count()
    import_archive(file)
    assert (
        orm.QueryBuilder().append(orm.Node).count(),
        links(),
        orm.QueryBuilder().append(orm.Computer).count(),
    ) == once
    assert once[0] > 5


def test_of_a_newer_aiida(archive, another):
    """The words are AiiDA's; the documentation knows them."""
    file, _, _, _ = archive
    newer = file.with_name("newer.aiida")
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(newer, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "metadata.json":
                content = json.dumps(json.loads(content) | {"export_version": "main_9999"}).encode()
            new.writestr(name, content)
    done = CliRunner().invoke(verdi, ["-p", another.name, "archive", "import", str(newer)])
    assert done.exit_code != 0
    words = "Unknown current version"
    assert f"{words} 'main_9999'" in done.output
    assert words in DOCS.read_text()
    assert orm.QueryBuilder().append(orm.Node).count() == 0
