"""All parts of the set-up in their order."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from aiida_plugin.engines.checks import SETUP, Finding, Part, ensure, look
from aiida_plugin.setup.profile import Broker, open_profile

_CACHED = "'aiida.calculations:cgcnn.*'"  # the processes of this package: what they give depends on their inputs alone


def set_up(profile: str | None = None, *, broker: Broker | None = None, postgres: bool = False) -> Iterator[Finding]:
    """Make what is missing: profile, computer, codes, model nodes, and what engines need besides.

    What is there is left as it is, so that a second run changes nothing; what cannot be made is said, and does not stop
    the rest, unless it is the profile. Parameters as in :func:`aiida_plugin.setup.profile.open_profile`.
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
