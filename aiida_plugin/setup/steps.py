"""All parts of the set-up in their order, from the profile on.

The profile is the one that is named, else the default one, else a new one as ``verdi presto`` makes it.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from aiida.common.exceptions import ConfigurationError, IncompatibleStorageSchema, MissingConfigurationError
from aiida.manage.configuration import get_config, get_profile, load_profile, reset_config

from aiida_plugin.engines.checks import ERRORS, SETUP, Finding, Part, ensure, error_line, look

if TYPE_CHECKING:
    from aiida.manage.configuration import Profile

Broker = Literal["zeromq", "rabbitmq", "none"]

_FIRST = "presto"  # the name that ``verdi presto`` gives a first profile
_PATIENCE = 120  # seconds; making one takes two


def open_profile(
    name: str | None, *, broker: Broker | None = None, postgres: bool = False, make: bool = True
) -> Finding:
    """Load the profile, by default the user's default one; where there is none, `make` it.

    Parameters
    ----------
    name
        Of the profile.
    broker
        Of a new one; by default ZeroMQ, which comes with AiiDA and needs no service.
    postgres
        Whether a new one keeps its data in PostgreSQL on this machine, and not in SQLite.

    Returns
    -------
    Finding
        Unless it is bad, the profile is loaded now.
    """
    try:
        config = get_config(create=make)
        known, default = config.profile_names, config.default_profile_name
    except MissingConfigurationError:
        return _missing(name, [])
    except ConfigurationError as error:
        return Finding("profile", "wrong", error_line(error), "verdi config list")
    if (name or default) in known:
        return _as_asked(_load(str(name or default), "there"), broker, postgres)
    if name is None and known:
        words = f"none is the default one; there {_those(known)}"
        return Finding("profile", "wrong", words, f"verdi profile set-default {known[0]}")
    how = _presto(name or _FIRST, broker or "zeromq", postgres)
    if not make:
        return _missing(name, known)
    if broker == "rabbitmq" and not _has_rabbitmq():
        words = "RabbitMQ does not answer on this machine; start it, or take --broker zeromq, which needs no service"
        return Finding("profile", "wrong", words)
    done = run_verdi(*how, timeout=_PATIENCE)
    if done.returncode:
        return Finding("profile", "wrong", f"`verdi {' '.join(how)}` failed: {_why(done, postgres)}")
    reset_config()  # it was written by another process
    if default in known:  # verdi presto makes each new profile the default one
        get_config().set_default_profile(default, overwrite=True).store()
    return _load(name or _FIRST, "made")


def _missing(name: str | None, known: list[str]) -> Finding:
    words = f"no profile {name!r}; there {_those(known)}" if name else "none is configured"
    return Finding("profile", "missing", words, f"{SETUP} -p {name}" if name else SETUP)


def describe(profile: "Profile") -> str:
    """Describe a profile by its name, storage and broker; no host, user or password."""
    broker = (profile.process_control_backend or "no broker").removeprefix("core.")
    return f"{profile.name} ({profile.storage_backend.removeprefix('core.')}, {broker})"


def run_verdi(*words: str, timeout: float) -> subprocess.CompletedProcess[str]:
    """Run ``verdi`` in a process of its own, on the same configuration, for so many seconds at most."""
    environment = os.environ | {"AIIDA_PATH": str(get_config().dirpath)}
    command = [sys.executable, "-m", "aiida", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, check=False)


def _presto(name: str, broker: Broker, postgres: bool) -> list[str]:
    brokers: dict[str, list[str]] = {"zeromq": ["--use-zeromq"], "rabbitmq": [], "none": ["--no-broker"]}
    storage = ["--use-postgres"] if postgres else []
    return ["presto", "--non-interactive", "--profile-name", name, *brokers[broker], *storage]


def _load(name: str, state: Literal["there", "made"]) -> Finding:
    try:
        profile = load_profile(name, allow_switch=True)
        profile.storage_cls(profile).close()
    except IncompatibleStorageSchema:
        words = f"the data of {name} are of another version of AiiDA"
        return Finding("profile", "wrong", words, f"verdi -p {name} storage migrate")
    except ERRORS as error:
        words = f"{name} cannot be opened: {type(error).__name__}"
        return Finding("profile", "wrong", words, f"verdi -p {name} status")
    return Finding("profile", state, describe(profile))


def _as_asked(finding: Finding, broker: Broker | None, postgres: bool) -> Finding:
    """Turn the finding of a profile that is there but differs from what was asked for."""
    profile = get_profile()
    if finding.is_bad or profile is None:
        return finding
    if postgres and profile.storage_backend != "core.psql_dos":
        return Finding(
            "profile", "wrong", f"{finding.message} is there already, without PostgreSQL; name a new one with -p"
        )
    if broker is not None and (profile.process_control_backend or "none").removeprefix("core.") != broker:
        command = f"verdi -p {profile.name} profile configure-broker {'none' if broker == 'none' else f'core.{broker}'}"
        return Finding("profile", "wrong", f"{finding.message} is there already, with another broker", command)
    return finding


def _has_rabbitmq() -> bool:
    from aiida.brokers.rabbitmq.defaults import detect_rabbitmq_config

    try:
        detect_rabbitmq_config()
    except ConnectionError:
        return False
    return True


def _why(done: subprocess.CompletedProcess[str], postgres: bool) -> str:
    """Its last line; of PostgreSQL it holds the connection, which is kept to oneself."""
    if postgres:
        return "PostgreSQL on this machine lets nobody in as administrator; see `verdi presto --help` for its options"
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"


def _those(names: list[str]) -> str:
    return f"{'is' if len(names) == 1 else 'are'} {', '.join(names)}" if names else "is none"


_CACHED = "'aiida.calculations:cgcnn.*'"  # the processes of this package: what they give depends on their inputs alone


def set_up(profile: str | None = None, *, broker: Broker | None = None, postgres: bool = False) -> Iterator[Finding]:
    """Make what is missing: profile, computer, codes, model nodes, and what engines need besides.

    What is there is left as it is, so that a second run changes nothing; what cannot be made is said, and does not stop
    the rest, unless it is the profile. Parameters as in :func:`aiida_plugin.setup.steps.open_profile`.
    """
    return _findings(open_profile(profile, broker=broker, postgres=postgres), ensure)


def check(profile: str | None = None) -> Iterator[Finding]:
    """Find what there is and what is missing, with the services; changes nothing.

    Without a profile it is said what of the codes is on this machine.
    """
    opened = open_profile(profile, make=False)
    return _without_profile(opened) if opened.state == "missing" else _findings(opened, look, with_services=True)


def _without_profile(opened: Finding) -> Iterator[Finding]:
    from aiida_plugin.engines.base import engines
    from aiida_plugin.setup.codes import unstored, wanted_codes

    yield opened
    yield from map(unstored, wanted_codes())
    for engine in engines():
        yield from (look(part) for part in engine.setup_parts() if not part.needs_profile)


def _findings(opened: Finding, visit: Callable[[Part], Finding], *, with_services: bool = False) -> Iterator[Finding]:
    yield opened
    if not opened.is_bad:
        yield from (_of_this_profile(visit(part)) for part in _parts(with_services))


def _parts(with_services: bool) -> Iterator[Part]:
    """Yield the parts, which are imported when it is their turn: they need a profile."""
    from aiida_plugin.engines.base import engines
    from aiida_plugin.setup.codes import codes, computer, pretrained_models
    from aiida_plugin.setup.services import services

    yield computer()
    yield from codes()
    yield from pretrained_models()
    for engine in engines():
        yield from engine.setup_parts()
    yield from services() if with_services else ()
    yield Part("caching", _caching)


def _caching() -> Finding:
    """Find whether what was computed before is taken again; left to the user."""
    from aiida.manage.configuration import get_config_option

    if get_config_option("caching.default_enabled"):
        return Finding("caching", "there", "on for all processes")
    on = [name for name in get_config_option("caching.enabled_for") if "cgcnn" in name]
    if on:
        return Finding("caching", "there", f"on for {', '.join(on)}")
    words = "off; with it, what was computed before is not computed again"
    return Finding("caching", "optional", words, f"verdi config set --append caching.enabled_for {_CACHED}")


def _of_this_profile(finding: Finding) -> Finding:
    """Name the profile in the command, where it is not the default one."""
    from aiida.manage.configuration import get_config, get_profile

    profile = get_profile()
    if profile is None or profile.name == get_config().default_profile_name:
        return finding
    command = finding.command
    for start in ("verdi", SETUP):
        command = command.replace(start, f"{start} -p {profile.name}")
    return replace(finding, command=command)
