"""The prediction job: a real run, what stands behind a number, caching, and each way it can fail."""

import json
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

aiida = pytest.importorskip("aiida", reason="aiida-core is an optional extra")

from aiida import orm  # noqa: E402
from aiida.common.folders import SandboxFolder  # noqa: E402
from aiida.common.links import LinkType  # noqa: E402
from aiida.engine import run_get_node  # noqa: E402
from aiida.engine.utils import instantiate_process  # noqa: E402
from aiida.manage import get_manager  # noqa: E402
from aiida.manage.caching import enable_caching  # noqa: E402
from aiida.plugins import CalculationFactory, DataFactory, ParserFactory, WorkflowFactory  # noqa: E402

from aiida_plugin.provenance.origin import origin  # noqa: E402
from aiida_plugin.provenance.same_structure import predictions_of  # noqa: E402
from cgcnn_ase import predict  # noqa: E402
from cgcnn_ase.models.checkpoint import save_model  # noqa: E402

from ..conftest import make_model, random_crystal  # noqa: E402


@pytest.fixture(scope="module")
def crystals():
    rng = np.random.default_rng(3)
    return [random_crystal(rng) for _ in range(12)] + [bulk("MgO", "rocksalt", a=4.21)]


@pytest.fixture
def code(aiida_code_installed, cgcnn_ase_command):
    return aiida_code_installed(default_calc_job_plugin="cgcnn.predict", filepath_executable=cgcnn_ase_command)


@pytest.fixture
def model(small_model):
    return DataFactory("cgcnn.model").get_or_create(small_model)


def structure_set(crystals):
    return DataFactory("cgcnn.structures").from_ase(crystals, [f"s{k}" for k in range(len(crystals))])


def run(code, model, crystals, **inputs):
    return run_get_node(
        CalculationFactory("cgcnn.predict"), code=code, model=model, structures=structure_set(crystals), **inputs
    )


@pytest.fixture(scope="module")
def finished():
    """The outputs and the node of a run, which tests here share."""
    return []


@pytest.fixture
def good_run(code, model, crystals, finished):
    """A run on all crystals."""
    if not finished:
        finished += run(code, model, crystals)
    return finished


def test_a_run_gives_what_the_package_predicts(good_run, crystals, small_model):
    results, node = good_run
    assert node.is_finished_ok, node.exit_message
    frame = results["predictions"].to_frame()
    expected = predict(small_model, crystals).to_frame()
    assert frame["id"].tolist() == [f"s{k}" for k in range(len(crystals))]
    for column in ("value", "std", "lower", "upper"):
        assert np.allclose(frame[column], expected[column], rtol=1e-4, atol=1e-5)
    assert frame["in_domain"].tolist() == expected["in_domain"].tolist()
    summary = results["summary"].get_dict()
    assert (summary["n_structures"], summary["n_failed"]) == (len(crystals), 0)
    assert node.res.n_structures == len(crystals)  # `verdi calcjob res`
    # structures and table stand in nodes, and are not stored a second time with the job
    assert "structures.npz" not in node.base.repository.list_object_names()
    assert "predictions.csv" not in results["retrieved"].base.repository.list_object_names()
    # so does what each member predicts, whose mean is the value
    for prediction, members in results["predictions"].with_members():
        assert (members.shape, members.mean()) == ((3,), pytest.approx(prediction.value, abs=1e-5))
    # values and stds can be queried
    column = orm.QueryBuilder().append(
        DataFactory("cgcnn.predictions"),
        filters={"id": results["predictions"].pk, "attributes.value_max": {">": frame["value"].max() - 1e-9}},
        project=["attributes.value_min", "attributes.std_max", "attributes.stds"],
    )  # fmt: skip
    ((low, std, stds),) = column.all()
    assert (low, std) == pytest.approx((frame["value"].min(), frame["std"].max()))
    assert stds == pytest.approx(frame["std"].tolist())


def test_a_handful_in_this_process(model, crystals, small_model):
    predict_in_process = CalculationFactory("cgcnn.predict_in_process")
    odd = crystals[0].copy()
    odd.numbers[0] = 0
    result = predict_in_process(model, structure_set([*crystals[:3], odd]))
    frame, expected = result.to_frame(), predict(small_model, crystals[:3]).to_frame()
    assert frame["id"].tolist() == ["s0", "s1", "s2"]
    assert np.allclose(frame[["value", "std"]].astype(float), expected[["value", "std"]].astype(float))
    assert set(frame["model_sha256"]) == {model.sha256}
    assert [name for name, _ in result.failures] == ["s3"]
    assert result.creator.inputs.model.uuid == model.uuid
    with pytest.raises(ValueError, match="no structure could be predicted"):
        predict_in_process(model, structure_set([odd]))
    with pytest.raises(ValueError, match="unknown settings speed"):
        predict_in_process(model, structure_set(crystals[:2]), orm.Dict({"speed": 9}))


def test_what_stands_behind_a_number(good_run, model, crystals):
    """From the predictions, by links alone, to the model and the structures; one process for all of them."""
    results, node = good_run
    creator = results["predictions"].creator
    assert creator.uuid == node.uuid
    inputs = creator.base.links.get_incoming(link_type=LinkType.INPUT_CALC).nested()
    assert inputs["model"].uuid == model.uuid
    assert len(inputs["structures"]) == len(crystals)
    assert inputs["package_version"].value == metadata.version("cgcnn-ase")
    # and to what ran: of the job itself, not of who submitted it
    ran = {"host": platform.node(), "engine": "torch", "versions.torch": metadata.version("torch"), "threads": 1}
    filters = {f"attributes.{name}": value for name, value in ran.items()}
    query = orm.QueryBuilder().append(orm.CalcJobNode, filters={"id": node.pk}, tag="job")
    (record,) = query.append(
        orm.Dict, with_incoming="job", edge_filters={"label": "environment"}, filters=filters
    ).one()
    assert record["differences"] == []
    assert {"commit", "changes"} >= set(record["checkout"]) == set(inputs["versions"].get_dict())


def test_the_same_again_is_taken_from_the_cache(good_run, code, model, crystals):
    _, first = good_run
    with enable_caching(identifier="aiida.calculations:cgcnn.predict"):
        results, again = run(code, model, crystals)
        _, other = run(code, model, crystals[:4])
        _, newer = run(code, model, crystals[:3], versions=orm.Dict({"torch": "99.0"}))
        _, allowed = run(code, model, crystals[:3], versions=orm.Dict({"torch": "99.0"}),
                         metadata={"options": {"check_versions": False}})  # fmt: skip
    # another version that is asked for is another job, which fails where it is not the one that runs
    assert newer.exit_status == 334
    assert f"torch {metadata.version('torch')}, asked was 99.0" in newer.exit_message
    assert newer.outputs.environment["versions"]["torch"] == metadata.version("torch")
    assert allowed.is_finished_ok, allowed.exit_message
    assert len(allowed.outputs.environment["differences"]) == 1
    assert again.base.caching.get_cache_source() == first.uuid
    assert len(results["predictions"].to_frame()) == len(crystals)
    assert not other.base.caching.is_created_from_cache


def test_several_models_of_one_folder(code, crystals):
    """The pretrained elastic models share a folder, a node, and a pass; here by name, on AiiDA's own structure."""
    structure = orm.StructureData(ase=crystals[0]).store()
    inputs = {"code": code, "model": "elastic", "structures": structure}
    results, node = run_get_node(CalculationFactory("cgcnn.predict"), **inputs)
    assert node.is_finished_ok, node.exit_message
    assert node.inputs.model.pk == DataFactory("cgcnn.model").get_or_create("elastic").pk
    assert node.inputs.structures.pk == structure.pk
    assert set(results["by_model"]) == {"bulk_modulus", "shear_modulus", "poisson_ratio"}
    table = results["by_model"]["bulk_modulus"].to_frame()
    expected = predict("bulk-modulus", crystals[:1]).to_frame()
    assert np.allclose(table["value"], expected["value"], rtol=1e-4)
    assert table["id"].tolist() == ["0"]
    table = predictions_of(crystals[0]).query(f"structures_pk == {structure.pk}")
    assert set(table["property"]) == {"bulk_modulus", "shear_modulus", "poisson_ratio"}
    assert [row.pk for row in origin(results["by_model"]["bulk_modulus"]).structures] == [structure.pk]
    assert set(results["summary"]["models"]) == {"bulk-modulus", "shear-modulus", "poisson-ratio"}


def test_some_structures_that_fail_are_listed_and_the_rest_predicted(code, model, crystals):
    odd = crystals[0].copy()
    odd.numbers[0] = 0
    results, node = run(code, model, [*crystals[:2], odd, crystals[3]])
    assert node.is_finished_ok, node.exit_message
    assert results["summary"]["n_failed"] == 1
    assert len(results["predictions"].to_frame()) == 3
    ((name, reason),) = results["predictions"].failures
    assert name == "s2"
    assert reason


def test_none_could_be_predicted(code, model, crystals):
    odd = crystals[0].copy()
    odd.numbers[0] = 0
    _, node = run(code, model, [odd])
    assert node.exit_status == 340
    assert "no structure could be predicted" in node.exit_message


def test_settings(code, model, crystals, dropout_model):
    with pytest.raises(ValueError, match="unknown settings speed; allowed: n_dropout, seed, engine, workers"):
        run(code, model, crystals, settings=orm.Dict({"speed": 9}))
    with pytest.raises(ValueError, match="seed has no effect without n_dropout"):
        run(code, model, crystals, settings=orm.Dict({"seed": 1}))
    with pytest.raises(ValueError, match="engine 'warp'; allowed: auto, dgl, torch"):
        run(code, model, crystals, settings=orm.Dict({"engine": "warp"}))
    node_model = DataFactory("cgcnn.model").get_or_create(dropout_model)
    settings = {"n_dropout": 10, "seed": 5}
    results, node = run(code, node_model, crystals[:3], settings=orm.Dict(settings))
    assert node.is_finished_ok, node.exit_message
    assert results["environment"]["seeds"] == {"n_dropout": 5}
    expected = predict(dropout_model, crystals[:3], **settings).to_frame()
    assert np.allclose(results["predictions"].to_frame()["std"], expected["std"], rtol=1e-4)


def test_settings_that_do_not_suit_the_model(code, model, crystals):
    """The command's own words come back with the exit code."""
    _, node = run(code, model, crystals[:2], settings=orm.Dict({"n_dropout": 10}))
    assert node.exit_status == 310
    assert "n_dropout needs a model trained with dropout" in node.exit_message


# The parser, on what a job may leave


@pytest.fixture
def parsed(code, model, crystals):
    """Parse made-up files: name to text, as a job on three structures would have left them."""

    def parse(**files):
        node = orm.CalcJobNode(computer=code.computer, process_type="aiida.calculations:cgcnn.predict")
        node.set_option("resources", {"num_machines": 1})
        node.set_option("check_versions", True)
        inputs = {
            "model": model, "structures": structure_set(crystals[:3]).store(), "code": code,
            "package_version": orm.Str(metadata.version("cgcnn-ase")).store(),
            "versions": orm.Dict({"commit": "abc", "changes": "ours", "numpy": metadata.version("numpy")}).store(),
            "settings": orm.Dict({"engine": "torch"}).store(),
        }  # fmt: skip
        for label, value in inputs.items():
            node.base.links.add_incoming(value, link_type=LinkType.INPUT_CALC, link_label=label)
        node.store()
        retrieved = orm.FolderData()
        names = {"exit": "exit_code", "err": "cgcnn-ase.err", "environment": "environment.json"}
        for name, text in files.items():
            retrieved.base.repository.put_object_from_bytes(text.encode(), names.get(name, f"{name}.csv"))
        retrieved.base.links.add_incoming(node, link_type=LinkType.CREATE, link_label="retrieved")
        retrieved.store()
        return ParserFactory("cgcnn.predict").parse_from_node(node, store_provenance=False)

    return parse


@pytest.fixture(scope="module")
def written(cgcnn_ase, crystals, small_model, tmp_path_factory):
    """The files of a good run on three structures."""
    path = tmp_path_factory.mktemp("run")
    (path / "in").mkdir()
    for k, atoms in enumerate(crystals[:3]):
        atoms.write(path / "in" / f"s{k}.extxyz")
    ran = cgcnn_ase("predict", path / "in", "--model", small_model, "--output", path / "predictions.csv",
                    "--failures", path / "failures.csv",
                    "--environment", path / "environment.json")  # fmt: skip
    assert ran.code == 0, ran.err
    files = {name: (path / f"{name}.csv").read_text() for name in ("predictions", "failures")}
    return files | {"environment": json.dumps(json.loads((path / "environment.json").read_text()) | INSTALLED)}


INSTALLED = {"checkout": {}}  # what runs is installed, and says no commit


def ran_with(written, **changes):
    return {**written, "environment": json.dumps(json.loads(written["environment"]) | changes)}


def test_parsing_a_good_run(parsed, written):
    results, ended = parsed(exit="0\n", **written)
    assert ended.is_finished_ok, ended.exit_message
    assert len(results["predictions"].to_frame()) == 3


def without(written, name):
    return {key: text for key, text in written.items() if key != name}


def less(written, n):
    """The predictions without their last n lines."""
    return "".join(written["predictions"].splitlines(keepends=True)[:-n])


ALL_FAILED = "id,source,error\n" + "".join(f"s{k},x,bad\n" for k in range(3))


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        (lambda w: {"exit": "2", "err": "cgcnn-ase: no model 'x'"}, 310, "could not start: no model 'x'"),
        (lambda w: {"exit": "137", **w}, 320, "was killed (exit code 137)"),
        (lambda w: {"predictions": less(w, 2)}, 321, "after 1 of 3 structures"),
        (lambda w: {"exit": "0", **without(w, "predictions")}, 330, "left no predictions.csv"),
        (lambda w: {"exit": "0", **without(w, "failures")}, 330, "left no failures.csv"),
        (lambda w: {"exit": "0", **w, "predictions": "not a table"}, 331, "predictions.csv cannot be read"),
        (lambda w: {"exit": "0", **w, "predictions": w["predictions"][:-200]}, 331, "predictions.csv cannot be read"),
        (lambda w: {"exit": "0", **w, "predictions": less(w, 1)}, 332, "1 of 3"),
        (lambda w: {"exit": "0", **without(w, "environment")}, 330, "left no environment.json: it tells what ran"),
        (lambda w: {"exit": "0", **w, "environment": "[]"}, 331, "environment.json cannot be read"),
        (lambda w: {"exit": "0", **ran_with(w, package_version="0.0")}, 334, "with others than asked: cgcnn-ase 0.0, "),
        (lambda w: {"exit": "0", **ran_with(w, checkout={"commit": "def"})}, 334, "commit def, asked was abc"),
        (lambda w: {"exit": "0", **ran_with(w, engine="dgl")}, 334, "engine dgl, asked was torch"),
        (lambda w: {"exit": "0", **ran_with(w, versions={})}, 334, "numpy not installed, asked was"),
        (lambda w: {"exit": "0", **w, "failures": ALL_FAILED}, 340, "the first: bad"),
    ],
)
def test_each_failure_has_its_number(parsed, written, change, status, words):
    results, ended = parsed(**change(written))
    assert ended.exit_status == status, ended.exit_message
    assert words in ended.exit_message
    assert "predictions" not in results


def test_predictions_of_another_model(parsed, written, tmp_path):
    other = save_model(make_model(seed=9), tmp_path / "other")
    from cgcnn_ase.models.registry import model_info

    sha = written["predictions"].splitlines()[1].split(",")[-2]
    text = written["predictions"].replace(sha, model_info(other).sha256)
    _, ended = parsed(exit="0", **{**written, "predictions": text})
    assert ended.exit_status == 333
    assert sha in ended.exit_message


# second opinions


@pytest.fixture(scope="module")
def other_models(tmp_path_factory):
    """Folders of two other small models."""
    folder = tmp_path_factory.mktemp("others")
    return [save_model(make_model(seed=seed), folder / f"other-{seed}") for seed in (5, 6)]


@pytest.mark.filterwarnings("ignore::cgcnn_ase.inspection.second_opinion.SecondOpinionWarning")
def test_other_models_are_second_opinions(code, model, crystals, small_model, other_models):
    opinions = {f"other_{k}": DataFactory("cgcnn.model").get_or_create(path) for k, path in enumerate(other_models)}
    results, node = run(code, model, crystals, second_opinions=opinions)
    assert node.is_finished_ok, node.exit_message
    frame = results["predictions"].to_frame()
    expected = predict(small_model, crystals, second_opinion=other_models).to_frame()
    assert expected["second_opinion_std"].max() > 0.01
    np.testing.assert_allclose(frame["second_opinion_std"], expected["second_opinion_std"], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(frame["value"], expected["value"], rtol=1e-4, atol=1e-5)
    # links lead to each of them
    links = {link.link_label: link.node.pk for link in node.base.links.get_incoming(link_type=LinkType.INPUT_CALC)}
    assert links["model"] == model.pk
    assert {links["second_opinions__other_0"], links["second_opinions__other_1"]} == {n.pk for n in opinions.values()}


@pytest.mark.parametrize(
    ("opinion", "words"),
    [("chgnet", "must be a list of chgnet, sevenn"), (["band-gap"], "other models are nodes, in second_opinions")],
)
def test_second_opinions_that_are_refused(code, model, crystals, opinion, words):
    with pytest.raises(ValueError, match=words):
        run(code, model, crystals, settings=orm.Dict({"second_opinion": opinion}))


def test_second_opinions_need_the_whole_set(code, model, crystals, other_models):
    other = DataFactory("cgcnn.model").get_or_create(other_models[0])
    shared = {"code": code, "n_shards": orm.Int(2)}
    inputs = {"model": model, "structures": structure_set(crystals), **shared, "second_opinions": {"other": other}}
    with pytest.raises(ValueError, match="on the scale of the whole set: predict it in one job, without n_shards"):
        run_get_node(WorkflowFactory("cgcnn.predict_shards"), **inputs)
    of_screen = {"code": code, "settings": orm.Dict({"second_opinion": ["chgnet"]})}
    with pytest.raises(ValueError, match="predict it in one job, without n_shards"):
        run_get_node(
            WorkflowFactory("cgcnn.screen"), model=model, structures=structure_set(crystals), n_shards=orm.Int(2),
            predict=of_screen,
        )  # fmt: skip


def test_settings_become_options(code, model, crystals):
    """A list is given one by one."""
    folder = SandboxFolder()
    settings = orm.Dict({"second_opinion": ["chgnet", "sevenn"], "population": "hypothetical"})
    process = instantiate_process(
        get_manager().get_runner(), CalculationFactory("cgcnn.predict"), code=code, model=model,
        structures=structure_set(crystals[:1]).store(), settings=settings,
    )  # fmt: skip
    parameters = " ".join(process.prepare_for_submission(folder).codes_info[0].cmdline_params)
    assert "--population hypothetical --second-opinion chgnet --second-opinion sevenn" in parameters


# in a container

ALONE = """\
#!/bin/bash
# alone.sh HIDDEN KEPT COMMAND...: runs the command where nothing is left of HIDDEN but the folder that it starts in
set -e
here=$PWD hidden=$1 kept=$2
shift 2
mkdir -p "$kept"
mount --bind "$here" "$kept"
mount -t tmpfs none "$hidden"
mkdir -p "$here"
mount --bind "$kept" "$here"
cd "$here"
find "$hidden" -mindepth 3 -maxdepth 3 -type d > seen
exec "$@"
"""
can_unshare = (
    shutil.which("unshare")
    and not subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    ).returncode
)


@pytest.mark.slow
@pytest.mark.skipif(not can_unshare, reason="this user may not make a mount namespace")
def test_a_job_in_a_container_sees_its_own_folder_alone(
    aiida_localhost, model, crystals, small_model, tmp_path_factory
):
    """As Apptainer and Docker do it, without an image: the job has all that it needs in its folder."""
    beside = tmp_path_factory.mktemp("container")
    (beside / "alone.sh").write_text(ALONE)
    work = Path(aiida_localhost.get_workdir())
    (work / "ab" / "cd" / "another-job").mkdir(parents=True, exist_ok=True)
    code = orm.ContainerizedCode(
        engine_command=f"unshare --mount bash {beside}/alone.sh {work} {{image_name}}", image_name=f"{beside}/kept",
        filepath_executable=str(Path(sys.executable).with_name("cgcnn-ase")), computer=aiida_localhost,
        default_calc_job_plugin="cgcnn.predict",
    ).store()  # fmt: skip
    results, node = run(code, model, crystals)
    assert node.is_finished_ok, node.exit_message
    expected = predict(small_model, crystals).to_frame()
    assert np.allclose(results["predictions"].to_frame()["value"], expected["value"], rtol=1e-4, atol=1e-5)
    folder = results["remote_folder"].get_remote_path()
    assert (Path(folder) / "seen").read_text().split() == [folder]
