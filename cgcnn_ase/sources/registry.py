"""Sources of reference data by name: the Materials Project, OPTIMADE providers, and those of other packages.

A source is one file with a client (:class:`cgcnn_ase.sources.client.ReferenceClient`) and a function that opens it, and
one registration: an entry point of the group ``cgcnn_ase.sources``, or ``@SOURCES.register("name")``.
"""

from collections.abc import Callable, Mapping

from cgcnn_ase.core.registry import Registry
from cgcnn_ase.sources.client import Query, ReferenceClient, SourceOptions
from cgcnn_ase.sources.optimade.providers import PROVIDERS

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
