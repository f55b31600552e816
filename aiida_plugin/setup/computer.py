"""AiiDA's computer ``localhost``: this machine."""

from pathlib import Path

from aiida.common.exceptions import NotExistent
from aiida.manage.configuration import get_config, get_profile
from aiida.orm import Computer, User

from aiida_plugin.setup.checks import SETUP, Finding, Part

LOCALHOST = "localhost"
#: seconds between two looks at the jobs above which a hint is given
_LONG = 5.0


def computer() -> Part:
    """The computer that jobs run on where no other is named."""
    return Part(f"computer {LOCALHOST}", _look, _make)


def _look() -> Finding:
    what = f"computer {LOCALHOST}"
    try:
        computer = Computer.collection.get(label=LOCALHOST)
    except NotExistent:
        return Finding(what, "missing", "there is none", SETUP)
    if computer.transport_type != "core.local":
        return Finding(
            what,
            "wrong",
            f"it is reached by {computer.transport_type}, not on this machine",
            f"verdi computer relabel {LOCALHOST} NEW-NAME && {SETUP}",
        )
    if not computer.is_configured:
        return Finding(what, "missing", "it is not configured for this user", SETUP)
    interval = computer.get_minimum_job_poll_interval()
    words = f"{computer.transport_type}, {computer.scheduler_type}"
    if interval > _LONG:
        words += f"; a job's end is seen after up to {interval:g} s"
    return Finding(what, "there", words)


def _make() -> None:
    """As ``verdi presto`` does."""
    try:
        computer = Computer.collection.get(label=LOCALHOST)
    except NotExistent:
        profile = get_profile()
        if profile is None:
            raise ValueError("no profile is loaded") from None
        computer = Computer(
            label=LOCALHOST,
            hostname=LOCALHOST,
            description="This machine, made by aiida-cgcnn setup",
            transport_type="core.local",
            scheduler_type="core.direct",
            workdir=str(Path(get_config().dirpath) / "scratch" / profile.name),
        ).store()
        computer.set_minimum_job_poll_interval(1)
        computer.set_default_mpiprocs_per_machine(1)
    computer.configure(user=User.collection.get_default(), safe_interval=0)
