"""From a reference database to a data set that is ready for training: source by name, pages, cache, one packed folder.

The sources are the Materials Project, OPTIMADE providers, and those of other packages. A source is one file with a
client (:class:`cgcnn_ase.sources.client.ReferenceClient`) and a function that opens it, and one registration: an entry
point of the group ``cgcnn_ase.sources``, or ``@SOURCES.register("name")``.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from cgcnn_ase.core.errors import DatasetError, FetchError
from cgcnn_ase.core.files import atomic_path, check_replaceable, clear_folder
from cgcnn_ase.core.progress import progress_bar
from cgcnn_ase.core.registry import Registry
from cgcnn_ase.sources.client import SCHEME, CursorError, Query, ReferenceClient, Retry, SourceOptions, with_retries
from cgcnn_ase.sources.folder import FILES, PageCache, PageText, Provenance, write_folder
from cgcnn_ase.sources.optimade.server import PROVIDERS
from cgcnn_ase.sources.properties import ENERGIES, check_fields

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
    """Open the client of a database for :func:`fetch`; the network is not touched yet.

    Parameters
    ----------
    provider
        ``mp`` for the Materials Project, an OPTIMADE provider (``oqmd``, ``jarvis``, ...), the name of a source that
        another package registers, or the URL of any OPTIMADE server.
    query, url, thermo_type, properties, ask_key
        See :class:`~cgcnn_ase.sources.client.SourceOptions`.

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


def fetch(
    client: ReferenceClient,
    query: Query,
    output: str | Path,
    *,
    fields: Sequence[str],
    cache: Path | None = None,
    offline: bool = False,
    overwrite: bool = False,
    attempts: int = 6,
    seed: int = 0,
    progress: bool = False,
    say: Callable[[str], None] | None = None,
) -> Provenance:
    """Fetch the records of a query into a folder that :func:`cgcnn_ase.data.dataset.load_dataset` reads.

    Each page is kept on disk as soon as it is there. Where the fetch is interrupted, the same call goes on after the
    last page; where all pages are there, none is asked for again. Memory does not grow with the number of records.

    Parameters
    ----------
    client
        The database, as :func:`cgcnn_ase.sources.fetch.open_client` gives it.
    query
        The records that are wanted.
    output
        A folder that is empty or not there yet. It gets ``structures.npz``, ``properties.csv.gz`` (id, reduced
        formula, number of sites, a column for each field in its unit, what the database says in words),
        ``provenance.json``, ``README.md`` and, where records could not be used, ``refused.csv``.
    fields
        Properties in our names, :data:`cgcnn_ase.sources.properties.UNITS`.
    cache
        Folder of the pages, by default ``~/.cache/cgcnn-ase/reference``.
    offline
        Take the newest complete answer to this query from the cache; nothing is asked of the network.
    overwrite
        Put the data set in the place of an earlier fetch in `output`, which stays until all records are there.
    attempts, seed
        Most attempts of a request, and the seed of the waits between.
    progress
        Show a progress bar on stderr.
    say
        Is told what happens on the way, line by line.

    Raises
    ------
    FetchError
        If the database refuses, cannot be reached, or has nothing that fits, in words.
    DatasetError
        If `output` is not empty, or the records hold energies of more than one scheme.
    ValueError
        If a field is not known, or with `overwrite` if `output` holds anything but an earlier fetch.
    """
    output = Path(output)
    names = check_fields(fields, client.units)
    if not names:
        raise ValueError(f"no field is asked for; allowed are {', '.join(client.units)}")
    if overwrite:
        check_replaceable(output, FILES, marks=["provenance.json"], what="an earlier fetch")
    elif output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DatasetError(f"{output}: it is there already and not empty; choose another folder, or add --overwrite")
    tell = say or (lambda _: None)
    if offline:
        pages = _newest(client, query, names, cache)
        tell(f"offline: database version {pages.version}, fetched {pages.retrieved}")
    else:
        retry = partial(with_retries, attempts=attempts, seed=np.random.default_rng(seed), say=say)
        pages = PageCache.of(client, query, names, client.version(retry=retry), cache)
        _Reader(client, query, pages, retry, tell, progress).complete()
    with atomic_path(output.resolve()) as tmp:
        tmp.mkdir(parents=True)
        counts = write_folder(tmp, pages.pages(), names)
        provenance = Provenance(
            url=client.url,
            database_version=pages.version,
            settings=client.settings,
            query=query.as_dict(),
            fields=names,
            units={name: client.units[name] for name in names},
            retrieved=pages.retrieved,
            **client.credit(names)._asdict(),
            **counts._asdict(),
        )
        provenance.write(tmp)
        if overwrite:
            clear_folder(output)
    return provenance


def _newest(client: ReferenceClient, query: Query, fields: tuple[str, ...], root: Path | None) -> PageCache:
    pages = PageCache.newest(client, query, fields, root)
    if pages is None:
        raise FetchError(
            f"offline: the cache has no complete answer of {client.name} ({client.url}) to this query with these fields"
        )
    return pages


class _Reader:
    """Reads the pages that a cache lacks, and checks that all of an answer belongs together."""

    def __init__(
        self,
        client: ReferenceClient,
        query: Query,
        cache: PageCache,
        retry: Retry,
        tell: Callable[[str], None],
        progress: bool,
    ) -> None:
        self._client, self._query, self._cache, self._retry = client, query, cache, retry
        self._tell, self._progress = tell, progress
        self._has_energies = any(name in ENERGIES for name in cache.fields)
        self._scheme: tuple[str, ...] | None = None

    def complete(self) -> None:
        """Read what is missing; from the start where the database no longer knows how to go on."""
        if self._cache.is_complete:
            state = f"database version {self._cache.version}, fetched {self._cache.retrieved}"
            self._tell(f"all of it is in the cache: {state}")
            return
        try:
            self._read()
        except CursorError as error:
            self._tell(f"{error}; reading from the start")
            self._cache.clear()
            self._read()

    def _read(self) -> None:
        client, cache = self._client, self._cache
        n_records = 0
        refused: tuple[str, str] | None = None
        cursor: str | None = None
        with progress_bar(f"Fetching from {client.name}", shown=self._progress) as step:

            def count(page: PageText) -> None:
                nonlocal n_records, cursor, refused
                self._check_scheme(page)
                n_records += len(page.words)
                refused = refused or next(iter(page.refused), None)
                cursor = page.cursor
                step(len(page.words) + len(page.refused), total=page.total)

            cached = cache.pages()
            for page in cached:
                count(page.text())
            if cached:
                self._tell(f"{n_records} records are in the cache already; going on")
            new = client.pages(self._query, cache.fields, after=cursor, retry=self._retry)
            for position, answer in enumerate(new, start=len(cached)):
                count(cache.save(answer, position).text())
        state = client.version(retry=self._retry)
        if state != cache.version:
            cache.clear()
            raise FetchError(
                f"{client.name}: the database changed from version {cache.version} to {state} while it was read; "
                "start again"
            )
        if not n_records:
            cache.clear()
            why = f"; one was refused: {refused[0]}: {refused[1]}" if refused else ""
            raise FetchError(f"{client.name} ({client.url}) has no record that can be used for this query{why}")
        cache.finish()

    def _check_scheme(self, page: PageText) -> None:
        """Refuse energies of different functionals or corrections in one data set."""
        if not self._has_energies:
            return
        for words in page.words:
            scheme = tuple(words.get(name, "not stated") for name in SCHEME)
            if self._scheme is not None and scheme != self._scheme:
                first, second = (f"{functional} with corrections {fix}" for functional, fix in (self._scheme, scheme))
                raise DatasetError(
                    f"the records hold energies of two schemes that cannot be compared: {first}, and {second}; "
                    "ask for one of them (the Materials Project: --thermo-type; other providers: --provider and "
                    "--fields)"
                )
            self._scheme = scheme
