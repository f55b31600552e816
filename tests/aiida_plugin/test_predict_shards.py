"""Prediction in shards: what one job gives, a failed shard tried again alone, and each way it can end."""

import sys

import pytest

aiida = pytest.importorskip("aiida", reason="aiida-core is an optional extra")

from aiida import orm  # noqa: E402
from aiida.engine import run_get_node  # noqa: E402
from aiida.plugins import CalculationFactory, DataFactory, WorkflowFactory  # noqa: E402

from aiida_plugin.calculations.functions.predictions import cut, join  # noqa: E402


@pytest.fixture
def code(aiida_code_installed, cgcnn_ase_command):
    return aiida_code_installed(default_calc_job_plugin="cgcnn.predict", filepath_executable=cgcnn_ase_command)


@pytest.fixture
def model(small_model):
    return DataFactory("cgcnn.model").get_or_create(small_model)


@pytest.fixture
def structures(crystals):
    return DataFactory("cgcnn.structures").from_ase(crystals[:11], [f"s{k}" for k in range(11)])


def run(code, model, structures, n, **inputs):
    chain = WorkflowFactory("cgcnn.predict_shards")
    return run_get_node(chain, code=code, model=model, structures=structures, n_shards=orm.Int(n), **inputs)


@pytest.mark.parametrize("n", [1, 3, 11])
def test_shards_are_the_set_in_order(structures, n):
    shards = cut(structures.store(), orm.Int(n))
    assert list(shards) == sorted(shards)
    parts = list(shards.values())
    assert [name for part in parts for name in part.ids] == list(structures.ids)
    assert [atoms for part in parts for atoms in part.iter_atoms()] == list(structures.iter_atoms())
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_shards_give_what_one_job_gives(code, model, structures):
    results, node = run(code, model, structures, 3, max_parallel=orm.Int(2))
    assert node.is_finished_ok, node.exit_message
    one, _ = run_get_node(CalculationFactory("cgcnn.predict"), code=code, model=model, structures=structures)
    whole, joined = one["predictions"].to_frame(), results["predictions"].to_frame()
    assert joined["id"].tolist() == whole["id"].tolist()
    assert joined["value"].tolist() == pytest.approx(whole["value"].tolist(), rel=1e-5, abs=1e-5)
    assert joined["in_domain"].tolist() == whole["in_domain"].tolist()
    jobs = [each for each in node.called_descendants if isinstance(each, orm.CalcJobNode)]
    assert sorted(job.label for job in jobs) == ["shard_0000", "shard_0001", "shard_0002"]
    # by links alone, from the joined predictions back to the set that was cut
    ancestors = orm.QueryBuilder().append(orm.Data, filters={"uuid": structures.uuid}, tag="set")
    ancestors.append(orm.Data, with_ancestors="set", filters={"uuid": results["predictions"].uuid})
    assert ancestors.count() >= 1


@pytest.mark.slow
def test_failures_of_all_shards_are_kept(code, model, crystals):
    """One shard with a bad structure, and one of nothing but bad structures."""
    odd = crystals[0].copy()
    odd.numbers[0] = 0
    names = ["a", "bad1", "c", "d", "bad2", "bad3"]
    sets = DataFactory("cgcnn.structures").from_ase(
        [odd if name.startswith("bad") else crystals[3] for name in names], names
    )
    results, node = run(code, model, sets, 3)
    assert node.is_finished_ok, node.exit_message
    assert results["predictions"].to_frame()["id"].tolist() == ["a", "c", "d"]
    assert [name for name, _ in results["predictions"].failures] == ["bad1", "bad2", "bad3"]


def test_nothing_could_be_predicted(code, model, crystals):
    odd = crystals[0].copy()
    odd.numbers[0] = 0
    _, node = run(code, model, DataFactory("cgcnn.structures").from_ase([odd, odd]), 2)
    assert node.exit_status == 420
    assert "no structure could be predicted" in node.exit_message


@pytest.mark.slow
def test_models_that_share_a_folder(code, structures):
    results, node = run(code, DataFactory("cgcnn.model").get_or_create("elastic"), structures, 2)
    assert node.is_finished_ok, node.exit_message
    assert set(results["by_model"]) == {"bulk_modulus", "shear_modulus", "poisson_ratio"}
    assert len(results["by_model"]["bulk_modulus"]) == 11


@pytest.fixture
def flaky(tmp_path, aiida_code_installed, cgcnn_ase_command):
    """A code that is killed, as often as it is told to, when it is given structure s5, and else predicts."""

    def make(times):
        script = tmp_path / "flaky.sh"
        # ids lie in the packed file as UTF-32 text
        script.write_text(
            f"#!/bin/bash\nif {sys.executable} -c \"import numpy, sys; sys.exit('s5' not in numpy.load("
            f"'structures.npz')['ids'])\" && [ $(ls {tmp_path}/tried* 2>/dev/null | wc -l) -lt {times} ]; then\n"
            f'  touch {tmp_path}/tried.$$; kill -9 $$\nfi\nexec {cgcnn_ase_command} "$@"\n'
        )
        script.chmod(0o755)
        return aiida_code_installed(
            label=f"flaky{times}", default_calc_job_plugin="cgcnn.predict", filepath_executable=str(script)
        )

    return make


@pytest.mark.slow
def test_a_failed_shard_is_tried_again_alone(flaky, model, structures):
    results, node = run(flaky(1), model, structures, 3)
    assert node.is_finished_ok, node.exit_message
    jobs = [each for each in node.called_descendants if isinstance(each, orm.CalcJobNode)]
    assert sorted(job.label for job in jobs) == ["shard_0000", "shard_0001", "shard_0001", "shard_0002"]
    assert sorted(job.exit_status for job in jobs) == [0, 0, 0, 320]
    assert results["predictions"].to_frame()["id"].tolist() == list(structures.ids)


@pytest.mark.slow
def test_a_shard_that_always_fails(flaky, model, structures):
    results, node = run(flaky(99), model, structures, 2, max_attempts=orm.Int(2))
    assert node.exit_status == 410
    assert "shard_0000 failed 2 times" in node.exit_message or "shard_0001 failed 2 times" in node.exit_message
    assert "was killed (exit code 137)" in node.exit_message
    assert "predictions" not in results


def test_more_shards_than_structures(code, model, structures):
    _, node = run(code, model, structures, 12)
    assert node.exit_status == 401
    assert "there are 11 of them and 12 shards; allowed are 1 to 11 shards" in node.exit_message
    with pytest.raises(ValueError, match="must be at least 1, not 0"):
        run(code, model, structures, 0)


def test_predictions_of_two_models_are_not_joined(code, model, structures, dropout_model):
    other = DataFactory("cgcnn.model").get_or_create(dropout_model)
    job = CalculationFactory("cgcnn.predict")
    each = [run_get_node(job, code=code, model=m, structures=structures)[0]["predictions"] for m in (model, other)]
    with pytest.raises(ValueError, match="a node holds the predictions of one model; these are of"):
        join(shard_0000=each[0], shard_0001=each[1])
