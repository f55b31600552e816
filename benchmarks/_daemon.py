"""An AiiDA profile of its own with its daemon, made and driven by ``verdi`` as users do, and killed as they do not."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

REPOSITORY = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent

#: what a run of a workflow is in the graph, without keys and times; run by `Profile.python`, PK and KEYS are put before
_GRAPH = """
import json
from collections import Counter
from aiida import orm
from aiida.common.links import LinkType
top = orm.load_node(PK)
calls = [top, *top.called_descendants]
name = lambda node: node.process_label or type(node).__name__
links, data = [], {}
well = [node for node in calls if node.is_finished_ok]
for node in well:
    for link in node.base.links.get_outgoing().all():
        if isinstance(link.node, orm.ProcessNode) and not link.node.is_finished_ok:
            continue
        links.append([name(node), link.link_label, link.link_type.value, type(link.node).__name__])
        if isinstance(link.node, orm.Data):
            data[link.node.uuid] = link.node
    for link in node.base.links.get_incoming(link_type=(LinkType.INPUT_CALC, LinkType.INPUT_WORK)).all():
        links.append([type(link.node).__name__, link.link_label, link.link_type.value, name(node)])
print("GRAPH" + json.dumps({
    "state": top.process_state.value if top.process_state else None, "exit_status": top.exit_status,
    "message": top.exit_message or top.exception,
    "calls": [[name(n), n.process_state.value if n.process_state else None, n.exit_status, n.is_sealed] for n in calls],
    "links": links,
    "jobs": {n.uuid: name(n) for n in calls if isinstance(n, orm.CalcJobNode)},
    "called": [[caller.uuid, link.link_label, name(link.node), link.node.is_finished_ok] for caller in calls for link in
               caller.base.links.get_outgoing(link_type=(LinkType.CALL_CALC, LinkType.CALL_WORK)).all()],
    "cut_off": [name(n) for n in calls if n.is_excepted and any(
        words in (n.exception or "") for words in ("the daemon died before this was done", "PersistenceError"))],
    "outputs": {link.link_label: link.node.base.caching.compute_hash()
                for link in top.base.links.get_outgoing(link_type=LinkType.RETURN).all()},
}))
"""


@dataclass
class Graph:
    """What a workflow left in the graph; the links are those of processes that finished well."""

    state: str | None
    exit_status: int | None
    message: str | None
    calls: list[list[Any]]
    links: list[list[str]]
    jobs: dict[str, str]
    called: list[list[Any]]
    cut_off: list[str]
    outputs: dict[str, str]

    @property
    def finished(self) -> Counter[str]:
        """How many processes of each kind finished well."""
        return Counter(name for name, state, status, _ in self.calls if state == "finished" and status == 0)

    @property
    def others(self) -> list[str]:
        """Processes that did not, in words."""
        return [f"{name}: {state}, {status}" for name, state, status, _ in self.calls if state != "finished" or status]

    @property
    def unsealed(self) -> list[str]:
        """Processes that ended and are open to changes; no archive takes them."""
        return [name for name, _, _, sealed in self.calls if not sealed]


@dataclass
class Killed:
    """How a workflow went under kills."""

    graph: Graph
    kills: list[tuple[float, str]] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class Profile:
    """A profile in a folder of its own, and its daemon."""

    folder: Path
    environment: dict[str, str]

    def verdi(self, *args: str, check: bool = True, timeout: float = 120) -> str:
        """What a ``verdi`` command says, errors included."""
        return self._run([str(BIN / "verdi"), *args], check, timeout)

    def python(self, text: str, timeout: float = 120) -> str:
        """What a few lines of Python say, with the profile loaded."""
        text = f"from aiida import load_profile\nload_profile()\n{text}"
        return self._run([sys.executable, "-W", "ignore", "-c", text], True, timeout)

    def _run(self, command: list[str], check: bool, timeout: float) -> str:
        # into a file: a daemon started by the command would hold a pipe open
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                command, env=self.environment, stdout=output, stderr=subprocess.STDOUT, timeout=timeout, cwd=self.folder
            )
            output.seek(0)
            text = output.read()
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)[:200]}: exit code {done.returncode}\n{text}")
        return text

    def processes(self, kind: str = "") -> list[psutil.Process]:
        """The daemon's processes: ``start-circus``, ``worker``, ``broker``, or all of them with circus' own."""
        result = []
        # `verdi daemon start` hands the folder of the configuration on to them, which is one below
        paths = {str(self.folder), str(self.folder / ".aiida")}
        for process in psutil.process_iter():
            try:
                words = process.cmdline()
                mine = process.environ().get("AIIDA_PATH") in paths
            except psutil.Error:
                continue
            text = " ".join(words)
            if mine and (f"daemon {kind}" in text if kind else "daemon" in words or "from circus" in text):
                result.append(process)
        return result

    def kill(self, kind: str = "") -> int:
        """Kill the daemon's processes of a kind with signal 9, all at once; how many."""
        victims = self.processes(kind)
        for process in victims:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(victims, timeout=5)
        return len(victims)

    def recover(self) -> None:
        """What the documentation says to do after a crash."""
        self._run([sys.executable, "-c", "from aiida_plugin.cli.app import main; main()", "recover"], True, 180)

    def graph(self, pk: int) -> Graph:
        """What a workflow left in the graph."""
        text = self.python(f"PK = {pk}\n{_GRAPH}")
        return Graph(**json.loads(text[text.index("GRAPH") + 5 :].splitlines()[0]))

    def state(self, pk: int) -> str:
        """The state of a process, cheaply, from its database where that is a file."""
        import sqlite3

        files = list((self.folder / ".aiida" / "repository").glob("*/database.sqlite"))
        if files:
            with sqlite3.connect(f"file:{files[0]}?mode=ro", uri=True, timeout=30) as database:
                [(text,)] = database.execute("select attributes from db_dbnode where id = ?", (pk,)).fetchall()
            return str(json.loads(text).get("process_state"))
        return self.python(f"from aiida.orm import load_node\nprint(load_node({pk}).process_state.value)").split()[-1]

    def wait(self, pk: int, seconds: float, poll: float = 0.3) -> bool:
        """Wait until a process has ended; whether it did."""
        return self.wait_for(lambda: self.state(pk) in ("finished", "excepted", "killed"), seconds, poll)

    @staticmethod
    def wait_for(what: Callable[[], object], seconds: float, poll: float = 0.3) -> bool:
        """Wait until something is so; whether it came to be."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if what():
                return True
            time.sleep(poll)
        return False


@contextmanager
def profile(
    *command: str, workers: int = 1, environment: dict[str, str] | None = None, broker: tuple[str, ...] = ()
) -> Iterator[Profile]:
    """A profile in a temporary folder, made by a ``verdi`` command, and removed with its daemon.

    By default it is of SQLite with AiiDA's own broker; `broker` are options of ``verdi profile configure-broker``.
    """
    with tempfile.TemporaryDirectory(prefix="cgcnn-ase-daemon-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / ".aiida").mkdir()
        path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
        child_environment = {"AIIDA_PATH": name, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        child_environment["PATH"] = os.pathsep.join([str(BIN), os.environ["PATH"]])
        made = Profile(folder, {**os.environ, **child_environment, **(environment or {})})
        made.verdi(*(command or ("presto", "--use-zeromq")))
        if broker:
            made.verdi("profile", "configure-broker", *broker)
        made.python(
            "from aiida.manage import get_config\nfrom aiida.orm import Computer\n"
            f"get_config().set_option('daemon.default_workers', {workers})\n"
            "get_config().set_option('runner.poll.interval', 1)\nget_config().store()\n"
            "_, computer = Computer.collection.get_or_create(label='localhost', hostname='localhost',\n"
            "    transport_type='core.local', scheduler_type='core.direct')\n"
            "computer.store()\n"
            "computer.set_minimum_job_poll_interval(0.5)\ncomputer.configure(safe_interval=0.0)\n"
            f"computer.set_default_mpiprocs_per_machine(1)\ncomputer.set_workdir({str(folder / 'work')!r})"
        )
        try:
            yield made
        finally:
            while made.kill():  # again, for what was about to start
                time.sleep(0.5)


def kill_and_finish(
    profile: Profile,
    submit: Callable[[Profile], int],
    n_kills: int,
    rng: np.random.Generator,
    *,
    within: float,
    kinds: tuple[str, ...] = ("",),
    patience: float = 300,
) -> Killed:
    """Submit a workflow, kill the daemon at random moments of it, recover each time, and wait for its end.

    Parameters
    ----------
    profile
        With its daemon running.
    submit
        Submits the workflow and returns its pk.
    n_kills
        How often to kill; fewer if the workflow ends before.
    rng
        Draws the moments and the kinds.
    within
        Up to how many seconds after a (re)start a kill comes.
    kinds
        Which processes: ``worker`` (which circus starts again by itself), ``start-circus``, ``broker``, or all: "".
    patience
        Seconds to wait for the end.
    """
    start = time.monotonic()
    pk = submit(profile)
    kills: list[tuple[float, str]] = []
    for _ in range(n_kills):
        if profile.wait(pk, float(rng.uniform(0, within)), poll=0.05):
            break
        kind = str(rng.choice(kinds))
        if not profile.wait_for(partial(profile.kill, kind), 30):
            raise RuntimeError(f"no process of the daemon was found to kill: {kind or 'all'}")
        kills.append((time.monotonic() - start, kind or "all"))
        if kind != "worker":
            profile.recover()
    if not profile.wait(pk, patience):
        profile.recover()  # a worker alone was killed, and took the message about a job with it
        profile.wait(pk, patience)
    return Killed(profile.graph(pk), kills, time.monotonic() - start)
