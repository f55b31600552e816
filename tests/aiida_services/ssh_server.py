"""An SSH server on loopback with keys of its own; nothing of anyone's ``~/.ssh`` is read or written."""

import getpass
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .conftest import ROOT, free_port, listens, program, server

HOST = "far"
CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {here}/host_key
AuthorizedKeysFile {here}/key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
Subsystem sftp internal-sftp
"""


@dataclass
class SshServer:
    """The server's address, and the home folder of one who knows it as ``far``."""

    program: str
    port: int
    here: Path

    @property
    def key(self) -> Path:
        """The user's private key."""
        return self.here / "key"

    @property
    def home(self) -> Path:
        """With ``.ssh/config`` and ``.ssh/known_hosts``."""
        return self.here / "home"

    @contextmanager
    def running(self) -> Iterator[None]:
        """It listens, until it is down."""
        command = [self.program, "-D", "-e", "-f", str(self.here / "sshd_config")]
        with server(command, lambda: listens(self.port), self.here / "log"):
            yield


def make_ssh_server(here: Path) -> SshServer:
    """Fresh keys, the server's settings and its user's home, in a folder."""
    made = SshServer(program("sshd"), free_port(), here)
    for name in ("host_key", "key"):
        words = ["-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(here / name)]
        subprocess.run([program("ssh-keygen"), *words], check=True)
    (here / "sshd_config").write_text(CONFIG.format(port=made.port, here=here))
    if ROOT:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd shuts itself in; Debian makes it on booting
    ssh = made.home / ".ssh"
    ssh.mkdir(parents=True)
    ssh.chmod(0o700)
    host_key = " ".join((here / "host_key.pub").read_text().split()[:2])
    (ssh / "known_hosts").write_text(f"[127.0.0.1]:{made.port} {host_key}\n")
    user = getpass.getuser()
    (ssh / "config").write_text(
        f"Host {HOST}\n  HostName 127.0.0.1\n  Port {made.port}\n  User {user}\n  IdentityFile {made.key}\n"
    )
    return made
