"""Jobs on a computer over SSH: both transports, no key in the graph, and a computer that goes down and comes back."""

import getpass
import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("aiida", reason="aiida-core is an optional extra")
pytestmark = pytest.mark.services

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from _daemon import profile  # noqa: E402
from _shards import make_code, runs, submit_shards  # noqa: E402

from .conftest import folder  # noqa: E402
from .ssh_server import HOST, make_ssh_server  # noqa: E402

#: what must be found nowhere, besides the private key
API_KEY = "sk-this-is-an-api-key-0123456789"
#: everything that nodes hold, and their logs and comments
DUMP = """
from aiida import orm
for node in orm.QueryBuilder().append(orm.Node).all(flat=True):
    print(node.base.attributes.all, node.base.extras.all, node.label, node.description)
    for path, _, names in node.base.repository.walk():
        for name in names:
            print(node.base.repository.get_object_content(str(path / name), "rb"))
for log in orm.QueryBuilder().append(orm.Log, project=["message", "metadata"]).all():
    print(log)
print("NODES", orm.QueryBuilder().append(orm.Node).count())
"""
JOBS = """
import json
from aiida import orm
jobs = orm.QueryBuilder().append(orm.CalcJobNode).order_by({orm.CalcJobNode: "id"}).all(flat=True)
print("JOBS" + json.dumps([[job.pk, job.process_state.value, job.paused, job.process_status, job.exit_status,
                           job.computer.transport_type] for job in jobs]))
"""


@pytest.fixture
def ssh():
    with folder() as here:
        yield make_ssh_server(here)


def computer(made, label, transport, *options, host=HOST):
    made.verdi(
        "computer", "setup", "--non-interactive", "--label", label, "--hostname", host, "--transport", transport,
        "--scheduler", "core.direct", "--work-dir", str(made.folder / label),
    )  # fmt: skip
    made.verdi("computer", "configure", transport, label, "--non-interactive", "--safe-interval", "0", *options)
    made.python(f"from aiida import orm\norm.load_computer({label!r}).set_minimum_job_poll_interval(0.5)")
    make_code(made, computer=label, label=f"on_{label}")


def jobs(made):
    return json.loads(made.python(JOBS).split("JOBS", 1)[1].splitlines()[0])


def test_both_transports_and_no_key_anywhere(ssh, small_model):
    home = {"HOME": str(ssh.home), "MP_API_KEY": API_KEY}
    with ssh.running(), profile(environment=home) as made:
        computer(made, "asynchronous", "core.ssh_async")
        computer(
            made, "paramiko", "core.ssh", "--username", getpass.getuser(), "--port", str(ssh.port), "--key-filename",
            str(ssh.key), "--key-policy", "RejectPolicy", "--no-look-for-keys", "--no-allow-agent",
            host="127.0.0.1",  # it asks ~/.ssh/config for no address
        )  # fmt: skip
        made.verdi("daemon", "start")
        pks = [
            submit_shards(made, small_model, code=f"on_{label}", n=n)
            for n, label in enumerate(("asynchronous", "paramiko"), 1)
        ]
        for pk in pks:
            assert made.wait(pk, 120), made.verdi("process", "list", "-a")
            assert made.graph(pk).exit_status == 0
        assert [job[-1] for job in jobs(made)] == ["core.ssh_async", "core.ssh", "core.ssh"]
        assert sorted(runs(made).values()) == [1, 1, 1]
        dumped = made.python(DUMP)
        assert int(dumped.split("NODES")[1]) > 10
        assert "on_paramiko.sh" in dumped  # it is everything
        secrets = [API_KEY, *(line for line in ssh.key.read_text().splitlines() if "PRIVATE KEY" not in line)]
        assert len(secrets) > 3
        for secret in secrets:
            assert secret not in dumped
        # nor in any file that AiiDA wrote: the database, the repository, logs, the jobs' folders
        files = [path for path in made.folder.rglob("*") if path.is_file()]
        assert len(files) > 20
        result = [str(path) for path in files for secret in secrets if secret.encode() in path.read_bytes()]
        assert result == []


def test_a_computer_that_is_down_and_comes_back(ssh, small_model):
    with profile(environment={"HOME": str(ssh.home)}) as made:
        made.verdi("config", "set", "transport.task_maximum_attempts", "2")
        made.verdi("config", "set", "transport.task_retry_initial_interval", "1")
        computer(made, "far", "core.ssh_async")
        made.verdi("daemon", "start")
        pk = submit_shards(made, small_model, code="on_far", n=1)
        assert made.wait_for(lambda: any(job[2] for job in jobs(made)), 90, poll=2), made.verdi("process", "list", "-a")
        [(job, state, paused, status, _, _)] = jobs(made)
        assert (state, paused) == ("waiting", True)
        assert status == "Pausing after failed transport task: upload_calculation failed 2 times consecutively"
        assert made.state(pk) == "waiting"
        with ssh.running():
            made.verdi("process", "play", str(job))
            assert made.wait(pk, 120), made.verdi("process", "list", "-a")
        graph = made.graph(pk)
        assert (graph.state, graph.exit_status) == ("finished", 0), graph.message
        assert dict(graph.finished) == {"PredictShardsWorkChain": 1, "cut": 1, "PredictCalculation": 1, "join": 1}
        assert list(runs(made).values()) == [1]
