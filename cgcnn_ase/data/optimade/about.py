"""What an OPTIMADE server says about itself: the state of its data, its licence, its units."""

from collections.abc import Mapping
from typing import Any

from cgcnn_ase.data.errors import FetchError
from cgcnn_ase.data.optimade.providers import Provider
from cgcnn_ase.data.property_units import same_unit


def stated_version(meta: Mapping[str, Any]) -> str:
    """A name for the state of a database, from the ``meta`` of an answer to a question for all structures.

    >>> stated_version({"data_available": 17, "implementation": {"name": "X", "version": "2"}, "api_version": "1.2.0"})
    '17 records, X 2, OPTIMADE 1.2.0'
    """
    implementation = meta.get("implementation") or {}
    parts = [
        (meta.get("database") or {}).get("version"),
        f"{meta['data_available']} records" if isinstance(meta.get("data_available"), int) else None,
        " ".join(str(implementation[key]) for key in ("name", "version") if implementation.get(key)),
        f"OPTIMADE {meta['api_version']}" if meta.get("api_version") else None,
    ]
    return ", ".join(str(part) for part in parts if part)


def stated_provider(meta: Mapping[str, Any]) -> tuple[str, ...]:
    """Who stands behind a server, name and home page, from the ``meta`` of an answer; empty where it is not said.

    >>> stated_provider({"provider": {"name": "X", "homepage": {"href": "https://x.org"}}})
    ('X, https://x.org',)
    """
    provider = meta.get("provider") or {}
    page = provider.get("homepage")
    said = (provider.get("name"), page.get("href") if isinstance(page, Mapping) else page)
    words = ", ".join(str(each) for each in said if each)
    return (words,) if words else ()


def stated_licence(info: Mapping[str, Any]) -> str:
    """What ``/info`` says of the licence: SPDX identifiers, or a link; empty where it says nothing."""
    data = info.get("data")
    attributes = (data.get("attributes") if isinstance(data, Mapping) else None) or {}
    names = attributes.get("available_licenses") or attributes.get("available_licenses_for_entries") or []
    link = attributes.get("license") or ""
    return " or ".join(str(name) for name in names) or str(link.get("href") if isinstance(link, Mapping) else link)


def check_units(info: Mapping[str, Any], provider: Provider) -> None:
    """Compare the units in ``/info/structures`` with those we know; the user's own are his to know.

    Raises
    ------
    FetchError
        If the server states another unit.
    """
    data = info.get("data")
    listed = (data.get("properties") if isinstance(data, Mapping) else None) or {}
    for name, known in provider.properties.items():
        described = listed.get(known.field) or {}
        unit = described.get("unit") or described.get("x-optimade-unit")
        if unit in (None, "inapplicable") or known.evidence == "user" or same_unit(str(unit), known.unit):
            continue
        raise FetchError(
            f"{provider.name}: the server states the unit {unit!r} for {known.field}, we know {known.unit!r}; "
            f"say yourself which it is: {name}={known.field}:UNIT"
        )
