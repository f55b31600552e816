"""Services beside the commands: broker, daemon, and the computers that codes are on."""

import subprocess
from collections.abc import Iterator
from functools import partial

from aiida.cmdline.utils.daemon import validate_daemon_env
from aiida.common.log import override_log_level
from aiida.engine.daemon.client import DaemonException, DaemonNotRunningException, get_daemon_client
from aiida.manage import get_manager
from aiida.orm import Computer, InstalledCode, QueryBuilder

from aiida_plugin.engines.checks import Finding, Part
from aiida_plugin.setup.steps import run_verdi

_DAEMON, _COMPUTER = 5, 60  # seconds for the daemon to answer, and for a computer
_RESTART = "verdi daemon stop; verdi daemon start"


def services() -> Iterator[Part]:
    """Yield broker, daemon and computers; none of them is started here."""
    yield Part("broker", _broker)
    yield Part("daemon", daemon_finding)
    query = QueryBuilder().append(InstalledCode, tag="code").append(Computer, with_node="code", project="label")
    for label in sorted(set(query.all(flat=True))):
        yield Part(f"connection to {label}", partial(_computer, label))


def _broker() -> Finding:
    profile = get_manager().get_profile()
    kind = None if profile is None else profile.process_control_backend
    if kind is None:
        words = "the profile has none: a job runs in the process that starts it (verdi run), submit() does not work"
        return Finding("broker", "optional", words, "verdi profile configure-broker core.zeromq")
    if kind == "core.zeromq":
        return Finding("broker", "there", "zeromq, it starts and stops with the daemon")
    broker = get_manager().get_broker()
    assert broker is not None
    try:
        with override_log_level():
            broker.get_communicator()
    except OSError:
        words = "RabbitMQ does not answer: jobs that are submitted wait"
        command = "sudo systemctl start rabbitmq-server (or, without it: verdi profile configure-broker core.zeromq)"
        return Finding("broker", "wrong", words, command)
    finally:
        broker.close()
    return Finding("broker", "there", kind.removeprefix("core."))


def daemon_finding() -> Finding:
    """Find whether the daemon runs and answers, with its broker."""
    manager = get_manager()
    profile = manager.get_profile()
    if profile is None or profile.process_control_backend is None:
        return Finding("daemon", "optional", "it needs a broker")
    client = get_daemon_client()
    try:
        client.get_status(timeout=_DAEMON)
    except DaemonNotRunningException:
        words = "it is not running: jobs that are submitted wait (verdi run needs no daemon)"
        return Finding("daemon", "optional", words, "verdi daemon start")
    except DaemonException:
        return Finding("daemon", "wrong", "it ended without saying so, or does not answer", _RESTART)
    with override_log_level():
        broker = manager.get_broker()
        if profile.process_control_backend == "core.zeromq" and not broker.check_service_reachable():  # type: ignore[union-attr]
            return Finding("daemon", "wrong", "it runs, its broker does not: jobs wait", _RESTART)
    if (changed := validate_daemon_env(client)) is not None:
        return Finding("daemon", "wrong", " ".join(changed.split()), _RESTART)
    return Finding("daemon", "there", f"it runs with {client.get_number_of_workers(timeout=_DAEMON)} worker(s)")


def _computer(label: str) -> Finding:
    """Take AiiDA's own test, in a process of its own: a connection may fail in many ways, or hang."""
    what, test = f"connection to {label}", f"verdi computer test {label}"
    profile = get_manager().get_profile()
    name = "" if profile is None else profile.name
    try:
        done = run_verdi("-p", name, "computer", "test", label, timeout=_COMPUTER)
    except subprocess.TimeoutExpired:
        return Finding(what, "wrong", f"it does not answer within {_COMPUTER} s", test)
    if "tests succeeded" not in done.stdout + done.stderr:  # its exit code is 0 either way
        return Finding(what, "wrong", "it cannot be used", f"{test} (says why)")
    return Finding(what, "there", "it answers")
