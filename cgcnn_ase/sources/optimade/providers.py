"""OPTIMADE providers by name, from ``providers.yaml``, and any server by its URL."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Literal
from urllib.parse import urlsplit

import yaml

from cgcnn_ase.core.errors import unknown_name
from cgcnn_ase.core.settings import parse_settings
from cgcnn_ase.sources.properties import conversion

Evidence = Literal["documented", "seen", "assumed", "user"]


@dataclass(frozen=True)
class ProviderProperty:
    """Name and unit that a provider has for one of our properties."""

    field: str  # its name there, ``_prefix_name``; ``.`` steps into a dictionary
    unit: str  # its unit there, as `cgcnn_ase.sources.properties.conversion` reads it
    evidence: Evidence = "assumed"  # how we know
    # smaller values of the provider mean this one of ours: OQMD computes negative distances to the hull for compounds
    # on it, the distance to the hull of all others
    at_least: float | None = None

    @property
    def top(self) -> str:
        """The property of the response that holds it."""
        return self.field.partition(".")[0]


@dataclass(frozen=True)
class Provider:
    """One database behind an OPTIMADE server."""

    # name, title, url: name on the command line, full name, base URL (without ``/v1``)
    name: str
    title: str
    url: str
    # licence, citation: of the data; an empty licence is asked of the server
    licence: str = ""
    citation: tuple[str, ...] = ()
    properties: Mapping[str, ProviderProperty] = field(default_factory=dict)  # by our names
    # what is the same for all its records: functional, corrections
    words: Mapping[str, str] = field(default_factory=dict)
    page_limit: int = 100  # records asked for at once
    missing: tuple[float | str, ...] = ()  # values that stand for "not computed"

    def __post_init__(self) -> None:
        """Check that every unit can be converted."""
        for name, known in self.properties.items():
            conversion(name, known.unit)


def find_provider(name: str) -> Provider:
    """The provider of a name, or one that is known by the URL of its server only.

    A `ValueError` lists them if there is none, or says that the URL is none, or holds a user, a key or a filter.
    """
    if "://" in name:
        return _at(name)
    if name in PROVIDERS:
        return PROVIDERS[name]
    raise unknown_name("provider", name, [*PROVIDERS, "a URL"])


def _at(url: str) -> Provider:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError(
            f"provider {parts.scheme}://{parts.hostname or ''}{parts.path}: needed is the base URL of an OPTIMADE "
            "server, http(s)://host/path and nothing else"
        )
    base = parts.netloc + parts.path.rstrip("/").removesuffix("/structures").removesuffix("/v1")
    return Provider(name=base, title=base, url=f"{parts.scheme}://{base}")


def _load() -> dict[str, Provider]:
    text = files("cgcnn_ase.sources.optimade").joinpath("providers.yaml").read_text(encoding="utf-8")
    described: dict[str, dict[str, object]] = yaml.safe_load(text)
    return {name: parse_settings(Provider, {"name": name, **values}) for name, values in described.items()}


# the providers by name
PROVIDERS: dict[str, Provider] = _load()
