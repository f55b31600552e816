"""The same workflows on PostgreSQL and RabbitMQ, and through SLURM: ``make test-services``."""

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("aiida", reason="aiida-core is an optional extra")
pytestmark = pytest.mark.services

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from _daemon import kill_and_finish, profile  # noqa: E402
from _shards import make_code, runs, submit_shards  # noqa: E402

from ..aiida_plugin.test_daemon import check  # noqa: E402

#: the job that is given structure s5 is killed, the first time; ids lie in the packed file as UTF-32 text
FLAKY = """\
if {python} -c "import numpy, sys; sys.exit('s5' not in numpy.load('structures.npz')['ids'])" && [ ! -e {flag} ]; then
    touch {flag}; kill -9 $$
fi"""


def test_kills_on_postgresql_and_rabbitmq(postgres, rabbitmq, small_model):
    with profile(*postgres, broker=rabbitmq) as made:
        status = made.verdi("status")
        assert "PostgreSQL" in status or "psql_dos" in status or "@127.0.0.1" in status, status
        assert "RabbitMQ" in status
        make_code(made)
        made.verdi("daemon", "start")
        killed = kill_and_finish(
            made, lambda p: submit_shards(p, small_model), 3, np.random.default_rng(1), within=8, kinds=("", "worker")
        )
        assert killed.kills
        check(killed.graph, runs(made))


def cluster(made):
    made.verdi(
        "computer", "setup", "--non-interactive", "--label", "cluster", "--hostname", "localhost", "--transport",
        "core.local", "--scheduler", "core.slurm", "--work-dir", str(made.folder / "slurm"),
    )  # fmt: skip
    made.verdi("computer", "configure", "core.local", "cluster", "--non-interactive", "--safe-interval", "0")


def test_shards_through_slurm(slurm, small_model):
    with profile(environment=slurm) as made:
        cluster(made)
        make_code(made, computer="cluster", label="queued")
        made.verdi("daemon", "start")
        pk = submit_shards(made, small_model, code="queued")
        assert made.wait(pk, 300), made.verdi("process", "list", "-a")
        check(made.graph(pk), runs(made))
        jobs = made.python(
            "from aiida import orm\n"
            "for n in orm.QueryBuilder().append(orm.CalcJobNode).all(flat=True):\n"
            "    print('JOB', n.get_job_id(), n.computer.scheduler_type)"
        )
        numbers = [line.split()[1:] for line in jobs.splitlines() if line.startswith("JOB")]
        assert len({number for number, _ in numbers}) == 8
        assert {kind for _, kind in numbers} == {"core.slurm"}


def test_a_failed_shard_goes_through_slurm_again_alone(slurm, small_model):
    with profile(environment=slurm) as made:
        cluster(made)
        flaky = FLAKY.format(python=sys.executable, flag=made.folder / "was_killed")
        make_code(made, computer="cluster", label="flaky", before=flaky)
        made.verdi("daemon", "start")
        pk = submit_shards(made, small_model, code="flaky", n=4)
        assert made.wait(pk, 300), made.verdi("process", "list", "-a")
        graph = made.graph(pk)
        assert (graph.state, graph.exit_status) == ("finished", 0), graph.message
        assert dict(graph.finished) == {"PredictShardsWorkChain": 1, "cut": 1, "PredictCalculation": 4, "join": 1}
        assert graph.others == ["PredictCalculation: finished, 320"]
        labels = sorted(label for _, label, kind, _ in graph.links if kind == "call_calc" and "shard" in label)
        assert labels == ["shard_0000", "shard_0001_attempt_2", "shard_0002", "shard_0003"]
        assert sorted(runs(made).values()) == [1] * 5  # four shards, and one of them twice
