"""The daemon after a crash: what it left behind is cleared away, and what it was at goes on."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile, gettempdir

import psutil

#: the processes of a daemon, by the commands of `verdi daemon` that they are
_PARTS = {"start-circus", "worker", "broker"}


def recover() -> list[str]:
    """Bring the daemon of the loaded profile back after it, or the machine, went down without notice; say what was
    done.

    AiiDA's own steps are three, and they miss one: ``verdi daemon stop`` removes what names the dead process, ``verdi
    process repair`` finds processes that no message asks for, and ``verdi daemon start`` starts again. Workers or the
    broker that outlived the daemon are missed; with them the same processes would be worked on twice, so they are ended
    first. The address of a killed broker stays in its file, too, and a worker that reads it before the new broker has
    written its own waits there for ever; it is removed. Processes that ended but were not closed are closed, since no
    archive takes them as they are. If one of the commands fails, its own message is a RuntimeError.
    """
    from aiida.engine.daemon.client import DaemonException, DaemonNotRunningException, get_daemon_client
    from aiida.manage import get_manager

    name = get_manager().get_profile().name  # type: ignore[union-attr]
    client = get_daemon_client(name)
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
    if closed := close_ended():
        messages.append(f"Closed {closed} processes that had ended.")
    messages += _verdi(name, "process", "repair", "--force").splitlines()
    messages += _verdi(name, "daemon", "start").splitlines()
    return [line for line in messages if line.strip()]


def close_ended() -> int:
    """Seal the processes that ended while the daemon died, before it sealed them; how many."""
    from aiida.orm import ProcessNode, QueryBuilder

    filters = {
        "attributes.process_state": {"in": ["finished", "excepted", "killed"]},
        "or": [{"attributes.sealed": {"!==": True}}, {"attributes": {"!has_key": "sealed"}}],
    }
    nodes = QueryBuilder().append(ProcessNode, filters=filters).all(flat=True)
    for node in nodes:
        node.delete_checkpoint()
        node.seal()
    return len(nodes)


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
    """Processes of this profile's daemon, of the same configuration folder."""
    from aiida.manage.configuration.settings import AiiDAConfigDir

    folder = AiiDAConfigDir.get().resolve()
    for process in psutil.process_iter():
        try:
            words, home = process.cmdline(), process.environ().get("AIIDA_PATH") or "~"
        except psutil.Error:
            continue
        if "daemon" not in words or profile not in words or not _PARTS.intersection(words):
            continue
        paths = [Path(text).expanduser().resolve() for text in home.split(":")]
        if any(folder in (path, path / ".aiida") for path in paths):
            yield process


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
