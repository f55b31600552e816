"""Steps that are taken twice: nothing that was called or submitted before is called again."""

from pathlib import Path

import pytest

aiida = pytest.importorskip("aiida", reason="aiida-core is an optional extra")

from aiida import orm  # noqa: E402
from aiida.engine import ProcessState  # noqa: E402
from aiida.engine.utils import instantiate_process  # noqa: E402
from aiida.manage import get_manager  # noqa: E402
from aiida.plugins import CalculationFactory, DataFactory, WorkflowFactory  # noqa: E402

from aiida_plugin.calculations.crash_safe import START_ONCE  # noqa: E402
from aiida_plugin.calculations.functions.predictions import cut  # noqa: E402
from aiida_plugin.setup.recover import close_ended  # noqa: E402
from aiida_plugin.workflows.idempotent import call_once, never_began, submit_once  # noqa: E402


@pytest.fixture
def job_inputs(aiida_profile, aiida_code_installed, small_model, crystals):
    return {
        "code": aiida_code_installed(default_calc_job_plugin="cgcnn.predict", filepath_executable="/bin/true"),
        "model": DataFactory("cgcnn.model").get_or_create(small_model),
        "structures": DataFactory("cgcnn.structures").from_ase(crystals[:6]).store(),
    }


@pytest.fixture
def chain(job_inputs):
    """A work chain that has just been created, in whose name the tests call."""
    inputs = {**job_inputs, "n_shards": orm.Int(3)}
    made = instantiate_process(get_manager().get_runner(), WorkflowFactory("cgcnn.predict_shards"), **inputs)
    with made._process_scope():
        yield made


def called(chain):
    return sorted(chain.node.called, key=lambda node: node.pk)


def test_a_call_that_ended_is_not_made_again(chain):
    first = call_once(chain, "cut", cut, structures=chain.inputs.structures, n_shards=chain.inputs.n_shards)
    again = call_once(chain, "cut", cut, structures=chain.inputs.structures, n_shards=orm.Int(3))
    assert {k: v.uuid for k, v in again.items()} == {k: v.uuid for k, v in first.items()}
    assert len(first) == 3
    assert [node.process_label for node in called(chain)] == ["cut"]
    assert (
        call_once(chain, "cut_2", cut, structures=chain.inputs.structures, n_shards=orm.Int(2)).keys() != first.keys()
    )
    assert len(called(chain)) == 2


def test_a_call_that_was_interrupted_is_made_again(chain):
    """As the daemon leaves it when it dies within a calcfunction: running, open, without outputs."""
    half = orm.CalcFunctionNode()
    half.set_process_type(cut.process_class.build_process_type())
    half.set_process_state(ProcessState.RUNNING)
    half.base.links.add_incoming(chain.node, aiida.common.links.LinkType.CALL_CALC, "cut")
    half.store()
    shards = call_once(chain, "cut", cut, structures=chain.inputs.structures, n_shards=chain.inputs.n_shards)
    assert len(shards) == 3
    half, whole = called(chain)
    assert half.is_excepted
    assert half.is_sealed
    assert "the daemon died" in half.exception
    assert whole.is_finished_ok


def test_a_label_belongs_to_one_call(chain, crystals, job_inputs):
    call_once(chain, "cut", cut, structures=chain.inputs.structures, n_shards=chain.inputs.n_shards)
    other = DataFactory("cgcnn.structures").from_ase(crystals[6:12]).store()
    with pytest.raises(ValueError, match="was called as 'cut' with another structures; a work chain needs a label"):
        call_once(chain, "cut", cut, structures=other, n_shards=chain.inputs.n_shards)
    with pytest.raises(ValueError, match="the label 'cut' belongs to cut"):
        submit_once(chain, "cut", CalculationFactory("cgcnn.predict"), **job_inputs)


def test_a_set_of_equal_content_is_the_same_input(chain, crystals):
    first = call_once(chain, "cut", cut, structures=chain.inputs.structures, n_shards=chain.inputs.n_shards)
    same = DataFactory("cgcnn.structures").from_ase(crystals[:6]).store()
    again = call_once(chain, "cut", cut, structures=same, n_shards=chain.inputs.n_shards)
    assert again["shard_0000"].uuid == first["shard_0000"].uuid


def submitted(chain, process, inputs):
    """As `submit` leaves a job once its checkpoint is saved; nothing is run."""
    made = instantiate_process(chain.runner, process, **inputs)
    chain.runner.persister.save_checkpoint(made)
    return made.node


def test_a_job_is_submitted_once(chain, job_inputs, monkeypatch):
    monkeypatch.setattr(chain, "submit", lambda process, inputs: submitted(chain, process, inputs))
    job = CalculationFactory("cgcnn.predict")
    first = submit_once(chain, "shard", job, **job_inputs)
    assert submit_once(chain, "shard", job, **job_inputs).uuid == first.uuid
    builder = job.get_builder()
    for name, value in job_inputs.items():
        setattr(builder, name, value)
    assert submit_once(chain, "shard", builder).uuid == first.uuid
    assert submit_once(chain, "shard_attempt_2", job, **job_inputs).uuid != first.uuid
    assert len(called(chain)) == 2


def test_a_job_cut_off_before_its_checkpoint_is_submitted_anew(chain, job_inputs, monkeypatch):
    job = CalculationFactory("cgcnn.predict")
    orphan = submitted(chain, job, {**job_inputs, "metadata": {"call_link_label": "shard"}})
    orphan.delete_checkpoint()  # stored, and nothing knows how to run it
    assert never_began(orphan)
    monkeypatch.setattr(chain, "submit", lambda process, inputs: submitted(chain, process, inputs))
    new = submit_once(chain, "shard", job, **job_inputs)
    assert new.uuid != orphan.uuid
    assert not never_began(new)
    assert orphan.is_excepted
    assert orphan.is_sealed
    assert submit_once(chain, "shard", job, **job_inputs).uuid == new.uuid


def test_a_job_that_failed_is_not_submitted_again(chain, job_inputs, monkeypatch):
    """What to do about a failure is the work chain's own to decide."""
    monkeypatch.setattr(chain, "submit", lambda process, inputs: submitted(chain, process, inputs))
    job = CalculationFactory("cgcnn.predict")
    failed = submit_once(chain, "shard", job, **job_inputs)
    failed.delete_checkpoint()
    failed.set_exception("CheckpointError: a file of the model was changed")
    failed.set_process_state(ProcessState.EXCEPTED)
    assert submit_once(chain, "shard", job, **job_inputs).uuid == failed.uuid


def test_what_ended_without_being_closed_is_closed(chain, job_inputs):
    close_ended()
    node = submitted(chain, CalculationFactory("cgcnn.predict"), job_inputs)
    node.set_process_state(ProcessState.FINISHED)
    node.set_exit_status(0)
    assert not node.is_sealed
    assert close_ended() == 1
    node = orm.load_node(node.pk)
    assert node.is_sealed
    assert node.checkpoint is None
    assert close_ended() == 0
    assert not chain.node.is_sealed


def test_a_job_started_twice_runs_once(tmp_path):
    """The second start waits for the first and leaves its outputs as they are; after a failure it runs."""
    import subprocess

    script = tmp_path / "job.sh"
    script.write_text(f"#!/bin/bash\n{START_ONCE}\necho ran >> runs\nsleep 0.5\necho done >> ends\n")
    jobs = [subprocess.Popen(["bash", str(script)], cwd=tmp_path) for _ in range(3)]
    assert [job.wait(20) for job in jobs] == [0, 0, 0]
    assert (tmp_path / "runs").read_text().split() == ["ran"]
    assert (tmp_path / "ends").read_text().split() == ["done"]


def test_a_job_killed_with_its_machine_runs_again(tmp_path):
    import subprocess

    script = tmp_path / "job.sh"
    script.write_text(
        f"#!/bin/bash\n{START_ONCE}\necho ran >> runs\n[ -e second ] || {{ touch second; kill -9 $$; }}\n"
    )
    assert subprocess.run(["bash", str(script)], cwd=tmp_path, timeout=20).returncode == -9
    assert subprocess.run(["bash", str(script)], cwd=tmp_path, timeout=20).returncode == 0
    assert Path(tmp_path / "runs").read_text().split() == ["ran", "ran"]


def test_the_remote_folder_is_known_after_a_crash(chain, job_inputs):
    """AiiDA marks a job as uploaded before it links the folder; a job that goes on from there links it."""
    from aiida.common.datastructures import CalcJobState
    from plumpy.persistence import LoadSaveContext

    node = submitted(chain, CalculationFactory("cgcnn.predict"), job_inputs)
    node.set_remote_workdir("/somewhere/ab/cd/ef")
    node.set_state(CalcJobState.UNSTASHING)
    saved = chain.runner.persister.load_checkpoint(node.pk)
    again = saved.unbundle(LoadSaveContext(runner=chain.runner))
    assert again.outputs["remote_folder"].get_remote_path() == "/somewhere/ab/cd/ef"
    before = submitted(chain, CalculationFactory("cgcnn.predict"), job_inputs)
    again = chain.runner.persister.load_checkpoint(before.pk).unbundle(LoadSaveContext(runner=chain.runner))
    assert "remote_folder" not in again.outputs
