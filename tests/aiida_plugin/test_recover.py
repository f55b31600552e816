"""What a killed broker leaves behind, and that nothing else is touched."""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import mkdtemp

import pytest

aiida = pytest.importorskip("aiida", reason="aiida-core is an optional extra")

from aiida import orm  # noqa: E402
from aiida.brokers.zeromq.broker import ZeromqBroker  # noqa: E402
from aiida.brokers.zeromq.service import ZeromqBrokerService  # noqa: E402
from aiida.common.links import LinkType  # noqa: E402

from aiida_plugin.engines.checks import Finding  # noqa: E402
from aiida_plugin.setup import recover  # noqa: E402


@pytest.fixture
def layout(aiida_profile, monkeypatch, tmp_path):
    """The files of a broker, as if the profile had AiiDA's own."""
    from aiida.manage.configuration import get_config

    config = get_config()
    profile = config.get_profile(aiida_profile.name)
    monkeypatch.setattr(type(profile), "process_control_backend", "core.zeromq")
    monkeypatch.setattr(type(config), "filepaths", lambda *_: {"broker_service": {"dir": tmp_path}})
    return ZeromqBrokerService.FilepathLayout(tmp_path)


def test_the_address_of_a_dead_broker_is_removed(layout, aiida_profile):
    sockets = Path(mkdtemp())
    (sockets / "router.sock").touch()
    layout.sockets_file.write_text(f"{sockets}\n")
    layout.pid_file.write_text("1")
    recover._forget_broker(aiida_profile.name)
    assert not sockets.exists()
    assert not layout.sockets_file.exists()
    assert not layout.pid_file.exists()
    recover._forget_broker(aiida_profile.name)  # nothing is there: nothing happens


@pytest.mark.parametrize("elsewhere", ["", "/", "/etc", "."])
def test_a_folder_elsewhere_is_left_alone(layout, aiida_profile, elsewhere, monkeypatch):
    removed = []
    monkeypatch.setattr(recover.shutil, "rmtree", lambda path, **_: removed.append(path))
    layout.sockets_file.write_text(elsewhere)
    recover._forget_broker(aiida_profile.name)
    assert removed == []
    assert not layout.sockets_file.exists()


@pytest.fixture
def clean(aiida_profile_clean):
    return aiida_profile_clean


def running(*, checkpoint=False, caller=None, kind=orm.WorkChainNode):
    node = kind()
    if caller is not None:
        link = LinkType.CALL_WORK if kind is orm.WorkChainNode else LinkType.CALL_CALC
        node.base.links.add_incoming(caller, link_type=link, link_label="step")
    node.store()
    node.set_process_state("running")
    if checkpoint:
        node.set_checkpoint("yaml")
    return node


def test_what_runs_without_the_daemon_is_left_alone_while_somebody_runs_it(clean):
    """Somebody: a process that has the profile's data open, as `verdi run` has; its nodes have no checkpoint."""
    chain = running()
    step = running(caller=chain, kind=orm.CalcFunctionNode)
    of_daemon = running(checkpoint=True)
    step_of_daemon = running(caller=of_daemon, kind=orm.CalcFunctionNode)
    ended = running()
    ended.set_process_state("finished")
    (database,) = Path(clean.storage_config["filepath"]).glob("*.sqlite")
    code = "import sys, time; file = open(sys.argv[1]); print(flush=True); time.sleep(100)"
    with subprocess.Popen([sys.executable, "-c", code, str(database)], stdout=subprocess.PIPE) as somebody:
        somebody.stdout.readline()
        messages = recover._close_dead(daemon_is_dead=True)
        somebody.kill()
    assert messages == [f"Left 2 processes alone that run without the daemon, in {somebody.pid}."]
    assert not chain.is_terminated
    assert not ended.is_sealed  # it may be at it

    # nobody runs them any more: they can never go on
    assert recover._close_dead(daemon_is_dead=True) == [
        "Closed 1 processes that had ended.",
        "Marked 2 processes as excepted, as what ran them is gone.",
    ]
    for node in (chain, step):
        assert node.is_excepted
        assert node.is_sealed
        assert "ended without notice" in node.exception
    assert not of_daemon.is_terminated
    assert not step_of_daemon.is_terminated


def test_each_process_of_the_daemon_is_asked_for_once(clean, monkeypatch, tmp_path):
    from aiida.manage import get_manager

    class Broker(ZeromqBroker):
        def __init__(self):
            self._storage_path = tmp_path

    monkeypatch.setattr(get_manager(), "get_broker", Broker)
    lost, waiting, worked_on, twice = (running(checkpoint=True).pk for _ in range(4))
    alone = running().pk
    files = {"pending/1_a": waiting, "processing/2_b": worked_on, "pending/3_c": twice, "pending/4_d": twice,
             "pending/5_e": 99999}  # fmt: skip
    for name, pk in files.items():
        file = tmp_path / "tasks" / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"body": {"args": {"pid": pk}}}))
    assert recover._lost_processes() == {lost}
    assert (tmp_path / "tasks" / "processing" / "2_b.json").exists()  # looked at, not taken from its worker

    assert recover._repair_tasks() == [
        "Removed 2 messages for processes that had ended, or were asked for twice.",
        "Revived 1 processes that no message asked for.",
    ]
    left = [json.loads(file.read_text())["body"]["args"]["pid"] for file in (tmp_path / "tasks").glob("*/*.json")]
    assert sorted(left) == sorted([lost, waiting, worked_on, twice])
    assert alone not in left
    assert recover._lost_processes() == set()


def test_a_daemon_that_runs_is_left_running(clean, monkeypatch):
    from aiida.engine.daemon import client

    monkeypatch.setattr(recover, "daemon_finding", lambda: Finding("daemon", "there", "it runs"))
    monkeypatch.setattr(recover, "_lost_processes", set)
    monkeypatch.setattr(client, "get_daemon_client", lambda _: None)  # which cannot be stopped
    assert recover.recover() == ["The daemon runs, and no process is lost."]


def test_what_a_dead_daemon_started_is_ended_and_nothing_else(aiida_profile):
    from aiida.manage.configuration.settings import AiiDAConfigDir

    def start(*words, home=None):
        command = [sys.executable, "-c", "import time; time.sleep(100)", *words]
        return subprocess.Popen(command, env=os.environ | {"AIIDA_PATH": home or str(AiiDAConfigDir.get())})

    name = aiida_profile.name
    dead = [start("verdi", "-p", name, "daemon", "worker"), start("from circus import stats; stats.main()")]
    others = [start("vim", "daemon", "worker", name), start("verdi", "-p", "another", "daemon", "worker"),
              start("verdi", "-p", name, "daemon", "worker", home="/nowhere")]  # fmt: skip
    try:
        assert recover._end_survivors(name) == 2
        assert None not in [process.poll() for process in dead]
        assert [process.poll() for process in others] == [None] * 3
    finally:
        for process in (*dead, *others):
            process.kill()
            process.wait()
