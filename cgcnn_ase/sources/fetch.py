"""From a reference database to a data set that is ready for training: pages, cache, one packed folder."""

import csv
import gzip
import io
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cgcnn_ase.core.arrays import Bools
from cgcnn_ase.core.errors import DatasetError, FetchError
from cgcnn_ase.sources.client import ENERGIES, SCHEME, CursorError, Provenance, Query, ReferenceClient, check_fields
from cgcnn_ase.sources.page_cache import CachedPage, PageCache, PageText
from cgcnn_ase.sources.retry import Retry, with_retries
from cgcnn_ase.structures.composition import formula_of
from cgcnn_ase.structures.packed import PackedStructures, write_packed


class Counts(NamedTuple):
    """What came of the pages."""

    n_records: int
    n_refused: int
    n_doubled: int  #: came more than once, kept once


def write_folder(folder: Path, pages: Sequence[CachedPage], fields: Sequence[str]) -> Counts:
    """Write ``structures.npz``, ``properties.csv.gz`` and, where something was refused, ``refused.csv``.

    Records that came more than once are kept once, as they came first.
    """
    keep = _firsts(pages)

    def structures() -> Iterator[PackedStructures]:
        for page, kept in zip(pages, keep, strict=True):
            yield _rows(page.structures(), kept)

    n_records = write_packed(folder / "structures.npz", structures)
    _write_properties(folder / "properties.csv.gz", pages, keep, fields)
    n_refused = _write_refused(folder / "refused.csv", pages)
    return Counts(n_records, n_refused, sum(int((~kept).sum()) for kept in keep))


def _firsts(pages: Sequence[CachedPage]) -> list[Bools]:
    """For each page, which of its records no page before has, nor a row before."""
    ids = [page.ids() for page in pages]
    first = np.zeros(sum(map(len, ids)), dtype=bool)
    first[np.unique(np.concatenate(ids), return_index=True)[1]] = True
    return np.split(first, np.cumsum([len(each) for each in ids])[:-1])


def _rows(packed: PackedStructures, kept: Bools) -> PackedStructures:
    if kept.all():
        return packed
    sizes = np.diff(packed.offsets)
    atoms = np.repeat(kept, sizes)
    return PackedStructures(
        ids=packed.ids[kept],
        lattice=packed.lattice[kept],
        offsets=np.concatenate([[0], np.cumsum(sizes[kept])]),
        numbers=packed.numbers[atoms],
        frac=packed.frac[atoms],
        pbc=packed.pbc[kept],
    )


def _write_properties(path: Path, pages: Sequence[CachedPage], keep: Sequence[Bools], fields: Sequence[str]) -> None:
    names = sorted({name for page in pages for words in page.text().words for name in words})
    # without a time and a name in its head, the same records give the same file
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="") as lines,
    ):
        table = csv.writer(lines, lineterminator="\n")
        table.writerow(["id", "reduced_formula", "nsites", *fields, *names])
        for page, kept in zip(pages, keep, strict=True):
            structures, values, words = page.structures(), page.values(), page.text().words
            for k in np.flatnonzero(kept).tolist():
                numbers = structures.numbers[structures.offsets[k] : structures.offsets[k + 1]]
                table.writerow(
                    [
                        structures.ids[k],
                        formula_of(numbers),
                        len(numbers),
                        *("" if np.isnan(value) else repr(value) for value in values[k].tolist()),
                        *(words[k].get(name, "") for name in names),
                    ]
                )


def _write_refused(path: Path, pages: Sequence[CachedPage]) -> int:
    """Each id once."""
    refused: dict[str, str] = {}
    for page in pages:
        refused.update(page.text().refused)
    if refused:
        with path.open("w", newline="", encoding="utf-8") as lines:
            csv.writer(lines, lineterminator="\n").writerows([("id", "why"), *refused.items()])
    return len(refused)


def fetch(
    client: ReferenceClient,
    query: Query,
    output: str | Path,
    *,
    fields: Sequence[str],
    cache: Path | None = None,
    offline: bool = False,
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
        The database.
    query
        Which records.
    output
        A folder that is empty or not there yet. It gets ``structures.npz``, ``properties.csv.gz`` (id, reduced
        formula, number of sites, a column for each field in its unit, what the database says in words),
        ``provenance.json``, ``README.md`` and, where records could not be used, ``refused.csv``.
    fields
        Properties in our names, :data:`cgcnn_ase.sources.client.UNITS`.
    cache
        Folder of the pages, by default ``~/.cache/cgcnn-ase/reference``.
    offline
        Take the newest complete answer to this query from the cache; nothing is asked of the network.
    attempts, seed
        How often a request is made at most, and the seed of the waits between.
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
        If a field is not known.
    """
    output = Path(output)
    names = check_fields(fields, client.units)
    if not names:
        raise ValueError(f"no field is asked for; allowed are {', '.join(client.units)}")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DatasetError(f"{output}: it is there already and not empty; choose another folder")
    tell = say or _silent
    if offline:
        pages_cache = _offline(client, query, names, cache, tell)
    else:
        retry = partial(with_retries, attempts=attempts, seed=np.random.default_rng(seed), say=say)
        version = client.version(retry=retry)
        pages_cache = PageCache.of(client, query, names, version, cache)
        _complete(pages_cache, client, query, retry, progress=progress, tell=tell)
    whole = output.resolve()
    tmp = whole.with_name(f".{whole.name}.{os.getpid()}")
    tmp.mkdir(parents=True)
    try:
        counts = write_folder(tmp, pages_cache.pages(), names)
        provenance = Provenance(
            url=client.url,
            database_version=pages_cache.version,
            settings=client.settings,
            query=query.as_dict(),
            fields=names,
            units={name: client.units[name] for name in names},
            retrieved=pages_cache.retrieved,
            **client.credit(names)._asdict(),
            **counts._asdict(),
        )
        provenance.write(tmp)
        if output.exists():
            output.rmdir()
        tmp.replace(output)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
    return provenance


def _offline(
    client: ReferenceClient, query: Query, fields: tuple[str, ...], root: Path | None, tell: Callable[[str], None]
) -> PageCache:
    result = PageCache.newest(client, query, fields, root)
    if result is None:
        raise FetchError(
            f"offline: the cache has no complete answer of {client.name} ({client.url}) to this query with these fields"
        )
    tell(f"offline: database version {result.version}, fetched {result.retrieved}")
    return result


def _complete(
    cache: PageCache,
    client: ReferenceClient,
    query: Query,
    retry: Retry,
    *,
    progress: bool,
    tell: Callable[[str], None],
) -> None:
    """Read the pages that are missing."""
    if cache.is_complete:
        tell(f"all of it is in the cache: database version {cache.version}, fetched {cache.retrieved}")
        return
    scheme = _OneScheme(cache.fields)
    try:
        _read(cache, cache.pages(), client, query, retry, scheme, progress=progress, tell=tell)
    except CursorError as error:
        tell(f"{error}; reading from the start")
        cache.clear()
        _read(cache, [], client, query, retry, scheme, progress=progress, tell=tell)


def _read(
    cache: PageCache,
    there: list[CachedPage],
    client: ReferenceClient,
    query: Query,
    retry: Retry,
    scheme: "_OneScheme",
    *,
    progress: bool,
    tell: Callable[[str], None],
) -> None:
    from rich.console import Console
    from rich.progress import Progress

    n_records = 0
    refused: list[tuple[str, str]] = []
    cursor: str | None = None
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task(f"Fetching from {client.name}", total=None)

        def count(text: PageText) -> None:
            nonlocal n_records, cursor
            scheme.check(text.words)
            n_records += len(text.words)
            refused.extend(text.refused[: 1 - len(refused)])
            cursor = text.cursor
            bar.update(task, total=text.total, advance=len(text.words) + len(text.refused))

        for page in there:
            count(page.text())
        if there:
            tell(f"{n_records} records are in the cache already; going on")
        for position, page_new in enumerate(
            client.pages(query, cache.fields, after=cursor, retry=retry), start=len(there)
        ):
            count(cache.save(page_new, position).text())
    state = client.version(retry=retry)
    if state != cache.version:
        cache.clear()
        raise FetchError(
            f"{client.name}: the database changed from version {cache.version} to {state} while it was read; "
            "start again"
        )
    if not n_records:
        cache.clear()
        why = f"; one was refused: {refused[0][0]}: {refused[0][1]}" if refused else ""
        raise FetchError(f"{client.name} ({client.url}) has no record that can be used for this query{why}")
    cache.finish()


class _OneScheme:
    """Refuses energies of different functionals or corrections in one data set."""

    def __init__(self, fields: Sequence[str]) -> None:
        self.matters = any(name in ENERGIES for name in fields)
        self.scheme: tuple[str, ...] | None = None

    def check(self, words: Sequence[dict[str, str]]) -> None:
        """Raise if these records differ from one another or from those before."""
        if not self.matters:
            return
        for each in words:
            scheme = tuple(each.get(name, "not stated") for name in SCHEME)
            if self.scheme is not None and scheme != self.scheme:
                first, second = (f"{functional} with corrections {fix}" for functional, fix in (self.scheme, scheme))
                raise DatasetError(
                    f"the records hold energies of two schemes that cannot be compared: {first}, and {second}; "
                    "ask for one of them (the Materials Project: --thermo-type; other providers: --provider and "
                    "--fields)"
                )
            self.scheme = scheme


def _silent(_: str) -> None:
    """Nobody wants to know."""
