"""The daemon on a profile of its own, killed with signal 9: the workflow ends as if nothing had happened."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("aiida", reason="aiida-core is an optional extra")

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from _daemon import Graph, kill_and_finish, profile
from _shards import N_SHARDS, make_code, runs, submit_shards

#: what 8 shards are in the graph
WHOLE = {"PredictShardsWorkChain": 1, "cut": 1, "PredictCalculation": N_SHARDS, "join": 1}

#: the same workflow, whose worker kills itself twice: between submitting three jobs and its next checkpoint, and after
#: the predictions were joined
CRASHING = """\
import os
from pathlib import Path
from aiida_plugin.workflows.predict_shards import PredictShardsWorkChain

HERE = Path(__file__).parent

def die_once(name):
    flag = HERE / name
    if not flag.exists():
        flag.touch()
        os.kill(os.getpid(), 9)

class CrashingWorkChain(PredictShardsWorkChain):
    def _submit(self, name):
        if name == "shard_0003":
            die_once("submit")
        return super()._submit(name)

    def join_predictions(self):
        code = super().join_predictions()
        die_once("join")
        return code
"""


def check(graph: Graph, whole: dict[str, int], starts: dict[str, int]) -> None:
    """Finished, nothing doubled, nothing missing."""
    assert (graph.state, graph.exit_status) == ("finished", 0), graph.message
    assert dict(graph.finished) == whole
    # a calcfunction that was cut off is called again, and stays as what it is
    assert set(graph.others) <= {"cut: excepted, None", "join: excepted, None"}
    assert graph.unsealed == []
    assert len(graph.jobs) == N_SHARDS
    assert sorted(starts.values()) == [1] * N_SHARDS  # the code itself says how often it ran
    labels = sorted(label for _, label, kind, _ in graph.links if kind == "call_calc")
    assert labels == sorted(["cut", "join", *(f"shard_{k:04d}" for k in range(N_SHARDS))])
    for label in ("remote_folder", "retrieved", "predictions", "summary"):
        assert sum(link[0] == "PredictCalculation" and link[1] == label for link in graph.links) == N_SHARDS, label


def test_a_worker_killed_within_a_step_and_all_killed_at_once(small_model, tmp_path):
    """8 shards through the daemon; its worker dies twice where it hurts most, and then everything is killed."""
    (tmp_path / "crashing_chain.py").write_text(CRASHING)
    path = os.pathsep.join([str(Path(__file__).resolve().parents[2]), str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with profile(environment={"PYTHONPATH": path}) as made:
        make_code(made)
        made.verdi("daemon", "start")
        pk = submit_shards(made, small_model, chain="from crashing_chain import CrashingWorkChain as CHAIN")
        assert made.wait_for(lambda: (tmp_path / "submit").exists(), 60)
        made.wait(pk, 5)
        made.kill()
        made.recover()
        assert made.wait(pk, 200), made.verdi("process", "list", "-a")
        assert (tmp_path / "join").exists()
        check(made.graph(pk), {name.replace("PredictShards", "Crashing"): n for name, n in WHOLE.items()}, runs(made))


@pytest.mark.slow
def test_ten_kills_at_random_moments(small_model):
    with profile() as made:
        make_code(made)
        made.verdi("daemon", "start")
        rng = np.random.default_rng(5)
        total = 0
        while total < 10:
            (made.folder / "runs.log").unlink(missing_ok=True)
            killed = kill_and_finish(
                made, lambda p: submit_shards(p, small_model), 10 - total, rng, within=8, kinds=("", "worker", "broker")
            )
            check(killed.graph, WHOLE, runs(made))
            total += len(killed.kills)


def test_no_broker(small_model):
    """What AiiDA says where a profile has no broker: nothing can be submitted, `run` works."""
    with profile("presto", "--no-broker") as made:
        make_code(made)
        with pytest.raises(RuntimeError, match="broker"):
            submit_shards(made, small_model)


def test_no_daemon(small_model):
    """AiiDA's own broker is part of the daemon: without it a submission is refused, and says what to do."""
    with profile() as made:
        make_code(made)
        with pytest.raises(RuntimeError, match="the daemon is not running.*requires `verdi daemon start`"):
            submit_shards(made, small_model)
