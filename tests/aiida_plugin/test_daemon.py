"""The daemon on a profile of its own, killed with signal 9: the workflow ends as if nothing had happened."""

import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("aiida", reason="aiida-core is an optional extra")

from aiida import orm
from aiida.common.exceptions import InvalidOperation
from aiida.engine import submit
from aiida.plugins import DataFactory, WorkflowFactory

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from _daemon import Graph, Profile, kill_and_finish, profile
from _learning import make_codes, submit_labels, submit_learn_relax, submit_learning
from _shards import N_SHARDS, make_code, runs, submit_shards

from cgcnn_ase.models.checkpoint import save_model

from .labelled import small_formation_model

#: the workflow, whose worker kills itself before it submits a job, with others submitted since its last checkpoint, and
#: after the predictions were joined
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
        if name == "FATAL":
            die_once("submit")
        return super()._submit(name)

    def join_predictions(self):
        code = super().join_predictions()
        die_once("join")
        return code
"""


#: one process submits before and after the daemon is started, since importing AiiDA and PyTorch takes seconds
REFUSED = """\
import re, subprocess
from aiida.common.exceptions import InvalidOperation
try:
    submit(CHAIN, **inputs)
except InvalidOperation as error:
    assert re.search("the daemon is not running.*requires `verdi daemon start`", str(error)), error
else:
    raise AssertionError("it was submitted without a daemon")
subprocess.run(["verdi", "daemon", "start"], check=True)
"""


def check(graph: Graph, starts: dict[str, int], *, n: int = N_SHARDS, chain: str = "PredictShardsWorkChain") -> None:
    """Finished, nothing doubled, nothing missing of n shards."""
    assert (graph.state, graph.exit_status) == ("finished", 0), graph.message
    assert dict(graph.finished) == {chain: 1, "cut": 1, "PredictCalculation": n, "join": 1}
    # what was cut off, a calcfunction or a job that was never submitted, is called again, and stays as what it is
    assert len(graph.others) == len(graph.cut_off), graph.others
    assert set(graph.cut_off) <= {"cut", "join", "PredictCalculation"}
    assert graph.unsealed == []
    assert sorted(starts.values()) == [1] * n  # the code itself says how often it ran
    labels = sorted(label for _, label, kind, _ in graph.links if kind == "call_calc")
    assert labels == sorted(["cut", "join", *(f"shard_{k:04d}" for k in range(n))])
    for label in ("remote_folder", "retrieved", "predictions", "summary"):
        assert sum(link[0] == "PredictCalculation" and link[1] == label for link in graph.links) == n, label


@pytest.mark.parametrize(
    ("n", "n_deaths"),
    [pytest.param(3, 1, marks=pytest.mark.long), pytest.param(N_SHARDS, 2, marks=pytest.mark.slow)],
)
def test_killed_where_it_hurts_most(small_model, tmp_path, cgcnn_ase_command, n, n_deaths):
    """Shards through the daemon, all of it killed when the worker died within a step; and the worker once more.

    AiiDA's own broker is part of the daemon: before it is started a submission is refused, and says what to do.
    """
    fatal = min(3, n - 1)  # as many jobs are submitted already
    (tmp_path / "crashing_chain.py").write_text(CRASHING.replace("FATAL", f"shard_{fatal:04d}"))
    if n_deaths == 1:
        (tmp_path / "join").touch()
    path = os.pathsep.join([str(Path(__file__).resolve().parents[2]), str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with profile(environment={"PYTHONPATH": path}) as made:
        make_code(made, command=cgcnn_ase_command)
        chain = "from crashing_chain import CrashingWorkChain as CHAIN"
        pk = submit_shards(made, small_model, n=n, chain=chain, before=REFUSED)
        assert made.wait_for(lambda: (tmp_path / "submit").exists(), 60)
        if n_deaths == 2:
            made.wait(pk, 5)
        assert made.kill() > 0
        made.recover()
        assert made.wait(pk, 200), made.verdi("process", "list", "-a")
        assert (tmp_path / "join").exists()
        check(made.graph(pk), runs(made), n=n, chain="CrashingWorkChain")


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
            check(killed.graph, runs(made))
            total += len(killed.kills)


def killed_thrice(made: Profile, submit: Callable[[Profile], int], *, within: float, seed: int) -> Graph:
    """All of the daemon is killed at three random moments; no step of any work chain is missing or doubled."""
    make_codes(made)
    made.verdi("daemon", "start")
    killed = kill_and_finish(made, submit, 3, np.random.default_rng(seed), within=within)
    graph = killed.graph
    assert len(killed.kills) == 3
    assert (graph.state, graph.exit_status) == ("finished", 0), f"{graph.message}\n{graph.others}"
    # each call of each work chain came to its end once, by its link's label, and what was cut off was called again
    ended = Counter((caller, label) for caller, label, _, well in graph.called if well)
    assert set(ended.values()) == {1}
    assert {(caller, label) for caller, label, _, _ in graph.called} == set(ended)
    assert len(graph.others) == len(graph.cut_off), graph.others
    assert graph.unsealed == []
    # the codes themselves say how often they ran
    starts = runs(made)
    assert sum(graph.finished[name] for name in set(graph.jobs.values())) == len(starts)
    assert set(starts.values()) == {1}
    return graph


@pytest.mark.slow
def test_labels_under_kills():
    with profile() as made:
        graph = killed_thrice(made, submit_labels, within=7, seed=1)
        assert graph.finished["AseCalculation"] == 4 + 3  # the alloys, and Ni, Al and Cu
        assert graph.finished["AseBaseWorkChain"] == 4 + 3
        assert set(graph.outputs) == {"labelled", "failures", "reference_energies"}


@pytest.mark.long
def test_learned_relaxation_under_kills():
    """No label is lost, and none computed twice; each step may be taken twice (test_learn_relax)."""
    with profile() as made:
        graph = killed_thrice(made, submit_learn_relax, within=8, seed=3)
        n = graph.finished["AseCalculation"]
        assert n > 4
        assert graph.finished["AseBaseWorkChain"] == n
        assert graph.finished["learn_step"] == n + 1
        assert set(graph.outputs) == {"labels", "relaxed_structures", "summary"}


@pytest.mark.slow
def test_active_learning_under_kills(tmp_path):
    model = save_model(small_formation_model(), tmp_path / "model")
    with profile() as made:
        graph = killed_thrice(made, lambda p: submit_learning(p, model), within=25, seed=2)
        assert graph.finished["LabelWorkChain"] == graph.finished["FinetuneWorkChain"] == 2
        assert graph.finished["AseCalculation"] == 4 + 3  # each element in the first round that has it, and never again
        assert graph.finished["TrainCalculation"] == 2
        ids = made.python(
            "from aiida import orm\n"
            "[n] = orm.QueryBuilder().append(orm.Node, filters={'attributes.process_label': 'ActiveLearningWorkChain'})"
            ".all(flat=True)\nprint('IDS', *n.outputs.labelled.ids)"
        )
        labelled = ids.split("IDS", 1)[1].split()
        assert len(labelled) == len(set(labelled)) == 4


def test_no_broker(aiida_profile, aiida_code_installed, small_model, crystals):
    """What AiiDA says where a profile has no broker: nothing can be submitted, `run` works."""
    code = aiida_code_installed(default_calc_job_plugin="cgcnn.predict", filepath_executable="/bin/true")
    structures = DataFactory("cgcnn.structures").from_ase(crystals[:2])
    with pytest.raises(InvalidOperation, match="does not define a broker"):
        submit(
            WorkflowFactory("cgcnn.predict_shards"),
            code=code,
            model=DataFactory("cgcnn.model").get_or_create(small_model),
            structures=structures,
            n_shards=orm.Int(2),
        )
