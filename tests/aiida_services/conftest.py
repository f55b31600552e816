"""Servers for these tests alone, on loopback and free ports, in temporary folders, ended with the tests.

Each runs as root or as any user; what is not installed skips. ``make test-services`` installs it.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = os.getuid() == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def program(name: str, *folders: str) -> str:
    """A program's path; the test is skipped without it."""
    path = shutil.which(name, path=os.pathsep.join([*folders, os.environ["PATH"], "/usr/sbin"]))
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


@contextmanager
def folder(owner: str | None = None) -> Iterator[Path]:
    """A folder with a short path (sockets lie in it), which belongs to a system's user where root runs the tests."""
    with tempfile.TemporaryDirectory(prefix="cgcnn-", dir="/tmp", ignore_cleanup_errors=True) as name:
        if ROOT and owner is not None:
            user = pwd.getpwnam(owner)
            os.chown(name, user.pw_uid, user.pw_gid)
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def server(
    command: list[str], ready: Callable[[], bool], log: Path, *, user: str | None = None, **env: str
) -> Iterator[None]:
    """A server in the foreground, until `ready` and then until the end."""
    who = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if ROOT and user else {}
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=os.environ | env, start_new_session=True, cwd=log.parent, **who
        )
    try:
        until = time.monotonic() + 90
        while not ready():
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{command[0]} did not start: {log.read_text()[-2000:]}")
            time.sleep(0.3)
        yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def listens(port: int) -> bool:
    with socket.socket() as tried:
        tried.settimeout(1)
        return tried.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session")
def postgres() -> Iterator[tuple[str, ...]]:
    """PostgreSQL; the command of ``verdi`` that makes a profile on it."""
    bins = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    initdb, run = program("initdb", *bins), program("postgres", *bins)
    port = free_port()
    with folder("postgres") as here:
        who = {"user": "postgres"} if ROOT else {}
        command = [initdb, "-D", str(here / "data"), "-U", "postgres", "--auth=trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(command, check=True, capture_output=True, cwd=here, **who)
        options = [run, "-D", str(here / "data"), "-p", str(port), "-k", str(here), "-h", "127.0.0.1", "-F"]
        (here / "log").touch()
        with server(options, lambda: listens(port), here / "log", user="postgres"):
            # `verdi presto --use-postgres` makes one with the locale en_US.UTF-8, which not every server has
            address = ["-h", "127.0.0.1", "-p", str(port), "-U", "postgres"]
            subprocess.run([program("createdb", *bins), *address, "-E", "UTF8", "aiida"], check=True)
            yield (
                "profile", "setup", "core.psql_dos", "--non-interactive", "--profile-name", "servers",
                "--set-as-default",
                "--email", "a@b.c", "--first-name", "A", "--last-name", "B", "--institution", "C",
                "--database-hostname", "127.0.0.1", "--database-port", str(port), "--database-name", "aiida",
                "--database-username", "postgres", "--database-password", "trusted", "--repository-uri",
                f"file://{here}/repository",
            )  # fmt: skip


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[tuple[str, ...]]:
    """RabbitMQ, which lets a job take longer than half an hour; the options of ``verdi profile configure-broker``."""
    run = program("rabbitmq-server", *map(str, Path("/usr/lib/rabbitmq").glob("bin")))
    port = free_port()
    with folder() as here:
        (here / "advanced.config").write_text("[{rabbit, [{consumer_timeout, undefined}]}].\n")
        env = {
            "HOME": str(here),
            "RABBITMQ_NODENAME": f"cgcnn{port}@localhost",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(here / "mnesia"),
            "RABBITMQ_LOG_BASE": str(here),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(here / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(here / "plugins"),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(free_port()),
        }
        with server([run], lambda: listens(port), here / "log", **env):
            yield (
                "core.rabbitmq", "--broker-protocol", "amqp", "--broker-host", "127.0.0.1", "--broker-port", str(port),
                "--broker-username", "guest", "--broker-password", "guest", "--broker-virtual-host", "", "--force",
                "--non-interactive",
            )  # fmt: skip


SLURM = """\
ClusterName=cgcnn
SlurmctldHost={host}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={here}/munge.socket
CredType=cred/munge
SlurmctldPort={ctld}
SlurmdPort={slurmd}
StateSaveLocation={here}/state
SlurmdSpoolDir={here}/spool
SlurmctldPidFile={here}/slurmctld.pid
SlurmdPidFile={here}/slurmd.pid
SlurmctldLogFile={here}/slurmctld.log
SlurmdLogFile={here}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture(scope="session")
def slurm() -> Iterator[dict[str, str]]:
    """SLURM of one node of four cores, whatever this machine has; the environment that its commands need."""
    munged, slurmctld, slurmd = program("munged"), program("slurmctld"), program("slurmd")
    sinfo = program("sinfo")
    user = pwd.getpwuid(os.getuid()).pw_name
    with folder() as here:
        key = here / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        for name in ("state", "spool"):
            (here / name).mkdir()
        host = socket.gethostname().split(".")[0]
        conf = here / "slurm.conf"
        conf.write_text(SLURM.format(here=here, host=host, user=user, ctld=free_port(), slurmd=free_port()))
        env = {"SLURM_CONF": str(conf)}
        names = [f"--{part}-file={here}/munge.{part}" for part in ("pid", "log", "seed", "key")]
        munge = [munged, "-F", "-f", f"--socket={here}/munge.socket", *names]

        def up() -> bool:
            output = subprocess.run([sinfo, "-h", "-o", "%t"], env=os.environ | env, capture_output=True, text=True)
            return output.stdout.strip() == "idle"

        with (
            server(munge, (here / "munge.socket").exists, here / "munged.out"),
            server([slurmctld, "-D", "-i", "-f", str(conf)], lambda: True, here / "ctld.out", **env),
            server([slurmd, "-D", "-f", str(conf), "-N", host], up, here / "slurmd.out", **env),
        ):
            yield env
