"""The daemon after a crash: what it left behind is cleared away, and what it was at goes on."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import TYPE_CHECKING
from uuid import uuid4

import psutil

from aiida_plugin.setup.services import daemon_finding

if TYPE_CHECKING:
    from aiida.orm import ProcessNode

#: the processes of a daemon, by the commands of `verdi daemon` that they are
_PARTS = {"start-circus", "worker", "broker"}
_SETTLED = 60.0  # seconds after its end in which a process may still be closed by who ran it
_GONE = "PersistenceError: what ran this ended without notice, and left no checkpoint to go on from"


def recover() -> list[str]:
    """Bring the daemon of the loaded profile back after it, or the machine, went down without notice; say what was
    done.

    Only what is dead is touched. A daemon that runs and has lost no process goes on as it is, and so does what runs in
    a process of its own (``verdi run``, a notebook). AiiDA's own ``verdi process repair`` takes such processes for
    lost, hands them to the daemon, which has no checkpoint of them, and so marks what is alive as excepted.

    Of a dead daemon three things are left behind, which AiiDA's commands miss. Workers, the broker, or what watches
    them may outlive it; with them the same processes would be worked on twice, so they are ended first. The address of
    a killed broker stays in its file, and a worker that reads it before the new broker has written its own waits there
    for ever; it is removed. Processes that ended but were not closed are closed, since no archive takes them as they
    are. Then processes that no message asks for get one, and the daemon is started. If that fails, its own message is a
    RuntimeError.

    What was run without the daemon by a process that is gone can never go on: it is marked as excepted, and its job is
    ended where one is still running.
    """
    from aiida.engine.daemon.client import DaemonException, DaemonNotRunningException, get_daemon_client
    from aiida.manage import get_manager

    name = get_manager().get_profile().name  # type: ignore[union-attr]
    client = get_daemon_client(name)
    if daemon_finding().state == "there" and (lost := _lost_processes()) is not None and not lost:
        return ["The daemon runs, and no process is lost.", *_close_dead(daemon_is_dead=False)]
    messages = []
    try:
        client.stop_daemon()
        messages.append("Stopped the daemon.")
    except DaemonNotRunningException:
        messages.append("The daemon was not running.")
    except DaemonException:  # it hangs, or is half dead
        messages.append("The daemon did not answer.")
    if survivors := _end_survivors(name):
        messages.append(f"Ended {survivors} processes that had outlived it.")
    with suppress(DaemonException):
        client.stop_daemon()  # again, so that what names the dead process is removed
    _forget_broker(name)
    messages += _close_dead(daemon_is_dead=True)
    messages += _repair_tasks()
    messages += _verdi(name, "daemon", "start").splitlines()
    return [line for line in messages if line.strip()]


def _close_dead(*, daemon_is_dead: bool) -> list[str]:
    """Close what has ended, and what can never go on; say what was done."""
    others = others_at_work()
    settled = 0.0 if daemon_is_dead and not others else _SETTLED
    messages = []
    if closed := close_ended(settled=settled):
        messages.append(f"Closed {closed} processes that had ended.")
    alone = run_alone()
    if others and alone:
        pids = ", ".join(str(pid) for pid in others)
        messages.append(f"Left {len(alone)} processes alone that run without the daemon, in {pids}.")
    elif others is None and alone:
        messages.append(f"Left {len(alone)} processes alone that run without the daemon: who runs them is not known.")
    else:
        for node in alone:
            _bury(node)
        if alone:
            messages.append(f"Marked {len(alone)} processes as excepted, as what ran them is gone.")
    return messages


def close_ended(*, settled: float = 0.0) -> int:
    """Seal the processes that ended, at least so many seconds ago, before who ran them sealed them; how many."""
    from aiida.common import timezone
    from aiida.orm import ProcessNode, QueryBuilder

    filters = {
        "attributes.process_state": {"in": ["finished", "excepted", "killed"]},
        "or": [{"attributes.sealed": {"!==": True}}, {"attributes": {"!has_key": "sealed"}}],
        "mtime": {"<=": timezone.now() - timedelta(seconds=settled)},
    }
    nodes = QueryBuilder().append(ProcessNode, filters=filters).all(flat=True)
    for node in nodes:
        node.delete_checkpoint()
        node.seal()
    return len(nodes)


def run_alone() -> "list[ProcessNode]":
    """Processes that have not ended and that no daemon runs: neither they nor who called them have a checkpoint."""
    from aiida.engine.processes.control import get_active_processes

    return [node for node in get_active_processes() if not any(each.checkpoint for each in _with_callers(node))]


def _with_callers(node: "ProcessNode") -> "Iterator[ProcessNode]":
    caller: ProcessNode | None = node
    while caller is not None:
        yield caller
        caller = caller.caller


def others_at_work() -> list[int] | None:
    """Numbers of the processes of this machine, beside this one and the daemon's, that have the profile's data open.

    None where the data are not files of this machine alone (PostgreSQL), so that it cannot be seen.
    """
    from aiida.manage import get_manager

    profile = get_manager().get_profile()
    if profile is None or profile.storage_backend != "core.sqlite_dos":
        return None
    folder = Path(profile.storage_config["filepath"]).resolve()
    result = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # another user's, or gone meanwhile
            if process.pid == os.getpid() or is_part(process.cmdline(), profile.name):
                continue
            if any(Path(file.path).is_relative_to(folder) for file in process.open_files()):
                result.append(process.pid)
    return result


def _bury(node: "ProcessNode") -> None:
    """Mark a process that can never go on as excepted, and end its job."""
    from aiida.common.exceptions import AiidaException
    from aiida.engine import ProcessState
    from aiida.engine.daemon.execmanager import kill_calculation
    from aiida.orm import CalcJobNode

    if isinstance(node, CalcJobNode) and node.get_job_id() is not None:
        with suppress(AiidaException, OSError), node.get_transport() as transport:
            kill_calculation(node, transport)
    node.set_exception(_GONE)
    node.set_process_state(ProcessState.EXCEPTED)
    node.set_process_status(None)
    node.seal()


def _lost_processes() -> set[int] | None:
    """Numbers of the daemon's processes that no task of the broker asks for; None where the broker cannot tell.

    The files of AiiDA's own broker are read as they are: its class would hand out again what is being worked on.
    """
    from aiida.brokers.zeromq.broker import ZeromqBroker
    from aiida.engine.processes.control import get_active_processes
    from aiida.manage import get_manager

    broker = get_manager().get_broker()
    if not isinstance(broker, ZeromqBroker):
        return None
    asked = set()
    for file in (broker._storage_path / "tasks").glob("*/*.json"):
        with suppress(FileNotFoundError):  # done meanwhile
            asked.add(json.loads(file.read_text())["body"]["args"]["pid"])
    return {node.pk for node in get_active_processes() if node.checkpoint and node.pk} - asked


def _repair_tasks() -> list[str]:
    """Ask once for each process of the daemon that has not ended, while it is stopped; say what was done."""
    from aiida.brokers.zeromq.broker import ZeromqBroker
    from aiida.brokers.zeromq.queue import PersistentQueue
    from aiida.engine.processes.control import get_active_processes, iterate_process_tasks
    from aiida.manage import get_manager
    from plumpy.process_comms import create_continue_body

    broker = get_manager().get_broker()
    if broker is None:
        return []
    wanted = {node.pk for node in get_active_processes() if node.checkpoint and node.pk}
    asked: set[int] = set()
    n_removed = 0
    for task in iterate_process_tasks(broker):
        pk = (task.body or {}).get("args", {}).get("pid")
        if pk in wanted and pk not in asked:
            asked.add(pk)
            continue
        with task.processing() as outcome:
            outcome.set_result(False)
        n_removed += 1
    for pk in sorted(wanted - asked):
        if isinstance(broker, ZeromqBroker):  # it starts with the daemon
            body = create_continue_body(pid=pk, nowait=True)
            PersistentQueue(broker._storage_path / "tasks").push(uuid4().hex, {"body": body, "no_reply": True})
        else:
            get_manager().get_process_controller().continue_process(pk)
    messages = (
        [f"Removed {n_removed} messages for processes that had ended, or were asked for twice."] if n_removed else []
    )
    return messages + ([f"Revived {n} processes that no message asked for."] if (n := len(wanted - asked)) else [])


def _end_survivors(profile: str) -> int:
    """End with signal 9 what is left of the daemon; how many processes."""
    survivors = list(_survivors(profile))
    for process in survivors:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(survivors, timeout=10)
    return len(survivors)


def _forget_broker(profile: str) -> None:
    """Remove the address and the number that a killed broker of AiiDA's own left behind."""
    from aiida.brokers.zeromq.service import ZeromqBrokerService
    from aiida.manage.configuration import get_config

    config = get_config()
    if config.get_profile(profile).process_control_backend != "core.zeromq":
        return
    layout = ZeromqBrokerService.FilepathLayout(config.filepaths(config.get_profile(profile))["broker_service"]["dir"])
    sockets = Path(layout.sockets_file.read_text().strip()) if layout.sockets_file.exists() else Path()
    if sockets.is_relative_to(gettempdir()) and sockets != Path(gettempdir()):  # where AiiDA makes them
        shutil.rmtree(sockets, ignore_errors=True)
    layout.sockets_file.unlink(missing_ok=True)
    layout.pid_file.unlink(missing_ok=True)


def _survivors(profile: str) -> Iterator[psutil.Process]:
    """Processes of this profile's daemon, of the same configuration folder, and what a dead one started to watch it."""
    from aiida.manage.configuration.settings import AiiDAConfigDir

    folder = AiiDAConfigDir.get().resolve()
    for process in psutil.process_iter():
        try:
            words, home = process.cmdline(), process.environ().get("AIIDA_PATH") or "~"
            if not (is_part(words, profile) or _is_orphan(process, words)):
                continue
        except psutil.Error:
            continue
        paths = [Path(text).expanduser().resolve() for text in home.split(":")]
        if any(folder in (path, path / ".aiida") for path in paths):
            yield process


def is_part(words: list[str], profile: str) -> bool:
    """Tell whether a command is ``verdi -p PROFILE daemon PART``, and not one that only names these words."""
    starts = [k for k, word in enumerate(words) if word == "daemon"]
    return any(
        words[k - 2 : k] in (["-p", profile], ["--profile", profile]) and _PARTS.intersection(words[k + 1 : k + 2])
        for k in starts
        if k >= 2
    )


def _is_orphan(process: psutil.Process, words: list[str]) -> bool:
    """Tell whether a process is what circus, which runs a daemon's parts, started beside them, and circus is gone."""
    if not any(word.startswith("from circus import") for word in words):
        return False
    parent = process.parent()
    return parent is None or "start-circus" not in parent.cmdline()


def _verdi(profile: str, *args: str) -> str:
    command = [sys.executable, "-m", "aiida", "-p", profile, *args]
    # the daemon looks for `verdi` on the path, where it need not be when Python was called by its own
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    with TemporaryFile("w+") as output:  # the daemon would hold a pipe open
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | {"PATH": path})
        output.seek(0)
        text = output.read().strip()
    if done.returncode:
        raise RuntimeError(f"verdi {' '.join(args)} failed: {text}")
    return text
