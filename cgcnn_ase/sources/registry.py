"""Sources of reference data by name: the Materials Project, OPTIMADE providers, and those of other packages.

A source is one file with a client (:class:`cgcnn_ase.sources.client.ReferenceClient`) and a function that opens it, and
one registration: an entry point of the group ``cgcnn_ase.sources``, or ``@SOURCES.register("name")``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cgcnn_ase.core.registry import Registry
from cgcnn_ase.sources.client import Query, ReferenceClient
from cgcnn_ase.sources.optimade.providers import PROVIDERS


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Options that a source gets when its client is opened."""

    provider: str  # the name that the source is registered under, or the URL of an OPTIMADE server
    # what will be asked: a source refuses what it cannot answer before the network is touched
    query: Query = field(default_factory=Query)
    url: str | None = None  # another address of the same database, by default the source's own
    thermo_type: str | None = None  # functional and corrections of the energies, where the source has several
    # more properties: our name to the database's name and unit
    properties: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    ask_key: Callable[[], str] | None = None  # asks a person for a key, where the source needs one and finds none


# opens a client; it raises `ValueError` for options that it does not take
Source = Callable[[SourceOptions], ReferenceClient]

SOURCES: Registry[Source] = Registry(
    "provider",
    "cgcnn_ase.sources",
    {
        "mp": "cgcnn_ase.sources.materials_project.client:open_source",
        **dict.fromkeys(PROVIDERS, "cgcnn_ase.sources.optimade.client:open_source"),
    },
)


def open_client(
    provider: str = "mp",
    *,
    query: Query | None = None,
    url: str | None = None,
    thermo_type: str | None = None,
    properties: Mapping[str, tuple[str, str]] | None = None,
    ask_key: Callable[[], str] | None = None,
) -> ReferenceClient:
    """Open the client of a database for :func:`cgcnn_ase.sources.fetch.fetch`; the network is not touched yet.

    Parameters
    ----------
    provider
        ``mp`` for the Materials Project, an OPTIMADE provider (``oqmd``, ``jarvis``, ...), the name of a source that
        another package registers, or the URL of any OPTIMADE server.
    query, url, thermo_type, properties, ask_key
        See :class:`SourceOptions`.

    Raises
    ------
    ValueError
        If there is no such provider, or it cannot take the options or the query.
    """
    options = SourceOptions(
        provider=provider, query=query or Query(), url=url, thermo_type=thermo_type, properties=properties or {},
        ask_key=ask_key,
    )  # fmt: skip
    if "://" in provider:
        from cgcnn_ase.sources.optimade.client import open_source

        return open_source(options)
    return SOURCES.get(provider)(options)
