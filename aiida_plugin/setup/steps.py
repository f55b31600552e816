"""All parts of the set-up in their order."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

from aiida_plugin.setup.checks import SETUP, Finding, Part, ensure_all
from aiida_plugin.setup.profile import Broker, open_profile

#: the processes of this package: what they give depends on their inputs alone
_CACHED = "'aiida.calculations:cgcnn.*'"


def set_up(profile: str | None = None, *, broker: Broker | None = None, postgres: bool = False) -> Iterator[Finding]:
    """Make what is missing: profile, computer, codes, model nodes, pseudopotentials.

    What is there is left as it is, so that a second run changes nothing; what cannot be made is said, and does not stop
    the rest, unless it is the profile.

    Parameters
    ----------
    profile, broker, postgres
        See :func:`aiida_plugin.setup.profile.open_profile`.

    Yields
    ------
    Finding
        Of each part, as soon as it is known.
    """
    opened = open_profile(profile, broker=broker, postgres=postgres)
    yield opened
    if not opened.is_bad:
        yield from map(_of_this_profile, chain(ensure_all(_parts()), [caching()]))


def check(profile: str | None = None) -> Iterator[Finding]:
    """What there is and what is missing, with the services; changes nothing."""
    opened = open_profile(profile, make=False)
    yield opened
    if not opened.is_bad:
        from aiida_plugin.setup.services import services

        every = chain(_parts(), services())
        yield from map(_of_this_profile, chain(ensure_all(every, make=False), [caching()]))


def caching() -> Finding:
    """Whether what was computed before is taken again; left to the user."""
    from aiida.manage.configuration import get_config_option

    if get_config_option("caching.default_enabled"):
        return Finding("caching", "there", "on for all processes")
    on = [name for name in get_config_option("caching.enabled_for") if "cgcnn" in name]
    if on:
        return Finding("caching", "there", f"on for {', '.join(on)}")
    words = "off; with it, what was computed before is not computed again"
    return Finding("caching", "optional", words, f"verdi config set --append caching.enabled_for {_CACHED}")


def _parts() -> Iterator[Part]:
    """Imported when it is their turn: they need a profile."""
    from aiida_plugin.setup.codes import codes, pretrained_models
    from aiida_plugin.setup.computer import computer
    from aiida_plugin.setup.pseudopotentials import pseudopotentials

    yield computer()
    yield from codes()
    yield from pretrained_models()
    yield pseudopotentials()


def _of_this_profile(finding: Finding) -> Finding:
    """With the profile named in the command, where it is not the default one."""
    from aiida.manage.configuration import get_config, get_profile

    profile = get_profile()
    if profile is None or profile.name == get_config().default_profile_name:
        return finding
    command = finding.command
    for start in ("verdi", SETUP):
        command = command.replace(start, f"{start} -p {profile.name}")
    return replace(finding, command=command)
