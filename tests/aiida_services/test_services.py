"""The same workflows on PostgreSQL and RabbitMQ, and through SLURM: ``make test-services``."""

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("aiida", reason="aiida-core is an optional extra")
pytestmark = pytest.mark.services

for _name in ("benchmarks", "tests/aiida_plugin"):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / _name))

from _daemon import kill_and_finish, profile  # noqa: E402
from _shards import make_code, runs, submit_shards  # noqa: E402
from test_daemon import WHOLE, check  # noqa: E402


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
        check(killed.graph, WHOLE, runs(made))


def test_shards_through_slurm(slurm, small_model):
    with profile(environment=slurm) as made:
        made.verdi(
            "computer", "setup", "--non-interactive", "--label", "cluster", "--hostname", "localhost", "--transport",
            "core.local", "--scheduler", "core.slurm", "--work-dir", str(made.folder / "slurm"),
        )  # fmt: skip
        made.verdi("computer", "configure", "core.local", "cluster", "--non-interactive", "--safe-interval", "0")
        make_code(made, computer="cluster", label="queued")
        made.verdi("daemon", "start")
        pk = submit_shards(made, small_model, code="queued")
        assert made.wait(pk, 300), made.verdi("process", "list", "-a")
        check(made.graph(pk), WHOLE, runs(made))
        jobs = made.python(
            "from aiida import orm\n"
            "for n in orm.QueryBuilder().append(orm.CalcJobNode).all(flat=True):\n"
            "    print('JOB', n.get_job_id(), n.computer.scheduler_type)"
        )
        numbers = [line.split()[1:] for line in jobs.splitlines() if line.startswith("JOB")]
        assert len({number for number, _ in numbers}) == 8
        assert {kind for _, kind in numbers} == {"core.slurm"}
