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
        found = Computer.collection.get(label=LOCALHOST)
    except NotExistent:
        return Finding(what, "missing", "there is none", SETUP)
    if found.transport_type != "core.local":
        return Finding(
            what,
            "wrong",
            f"it is reached by {found.transport_type}, not on this machine",
            f"verdi computer relabel {LOCALHOST} NEW-NAME && {SETUP}",
        )
    if not found.is_configured:
        return Finding(what, "missing", "it is not configured for this user", SETUP)
    interval = found.get_minimum_job_poll_interval()
    words = f"{found.transport_type}, {found.scheduler_type}"
    if interval > _LONG:
        words += f"; a job's end is seen after up to {interval:g} s"
    return Finding(what, "there", words)


def _make() -> None:
    """As ``verdi presto`` does."""
    try:
        found = Computer.collection.get(label=LOCALHOST)
    except NotExistent:
        profile = get_profile()
        if profile is None:
            raise ValueError("no profile is loaded") from None
        found = Computer(
            label=LOCALHOST,
            hostname=LOCALHOST,
            description="This machine, made by aiida-cgcnn setup",
            transport_type="core.local",
            scheduler_type="core.direct",
            workdir=str(Path(get_config().dirpath) / "scratch" / profile.name),
        ).store()
        found.set_minimum_job_poll_interval(1)
        found.set_default_mpiprocs_per_machine(1)
    found.configure(user=User.collection.get_default(), safe_interval=0)
