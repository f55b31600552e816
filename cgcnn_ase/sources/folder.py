"""The pages of a reference database on disk while it is fetched, and the folder of the data set that they make.

By the pages an interrupted fetch goes on after the last one, and a complete one is read again: a folder for each
(provider, address, settings, query, fields), in it one for each version of the database, in that one file a page. A
page is written under another name and put in place when it is whole. No key is in any of them. A data set is
structures, properties, refused records, and the origin of it all.
"""

import csv
import gzip
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cgcnn_ase.core.arrays import Bools, Floats, Strings
from cgcnn_ase.core.errors import DatasetError
from cgcnn_ase.core.files import atomic_path, atomic_write, default_cache_folder
from cgcnn_ase.sources.client import Page, Query, ReferenceClient
from cgcnn_ase.structures.composition import formula_of
from cgcnn_ase.structures.packed import PackedStructures, load_packed, pack, write_packed
from cgcnn_ase.structures.record import StructureError

# raise when the meaning of a cached page changes
CACHE_VERSION = 1

_COMPLETE = "complete.json"
_ABOUT = "about.json"


class PageText(NamedTuple):
    """Everything in a page beside structures and numbers; see `client.Page`."""

    cursor: str
    total: int | None
    refused: list[tuple[str, str]]
    words: list[dict[str, str]]  # of each record, in order


@dataclass(frozen=True)
class CachedPage:
    """One page as it lies on disk; nothing of it stays in memory."""

    path: Path

    def text(self) -> PageText:
        """Cursor, total, refused ids and words."""
        with self._open() as archive:
            text = json.loads(str(archive["text"]))
        refused = [(name, why) for name, why in text["refused"]]
        return PageText(text["cursor"], text["total"], refused, text["words"])

    def ids(self) -> Strings:
        """Of the records, in the order of the page."""
        with self._open() as archive:
            ids: Strings = archive["ids"]
        return ids

    def structures(self) -> PackedStructures:
        """The structures, in the order of the page."""
        try:
            return load_packed(self.path, is_part=True)
        except StructureError as error:
            raise self._damaged(error.reason) from error

    def values(self) -> Floats:
        """One row for each record, one column for each field; NaN where there is no value."""
        with self._open() as archive:
            values: Floats = archive["values"]
        return values

    def _open(self) -> "np.lib.npyio.NpzFile":
        try:
            archive: np.lib.npyio.NpzFile = np.load(self.path, allow_pickle=False)
        except (zipfile.BadZipFile, ValueError, EOFError) as error:
            raise self._damaged(str(error)) from error
        return archive

    def _damaged(self, reason: str) -> DatasetError:
        return DatasetError(f"{self.path}: this page of the cache is damaged ({reason}); remove it and those after it")


@dataclass(frozen=True)
class PageCache:
    """The pages of one answer."""

    folder: Path  # of this client, query, fields and version of the database
    fields: tuple[str, ...]  # the columns of each page's values

    @classmethod
    def of(
        cls, client: ReferenceClient, query: Query, fields: Sequence[str], version: str, root: Path | None = None
    ) -> "PageCache":
        """The cache of a question, made where it is not there yet.

        `root` holds all of them, by default ``~/.cache/cgcnn-ase/reference`` (XDG_CACHE_HOME, CGCNN_ASE_CACHE).
        """
        folder = _folder(client, query, fields, root) / (re.sub(r"[^\w.-]", "_", version) or "unknown")
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / _ABOUT).exists():
            about = _question(client, query, fields) | {"version": version, "retrieved": _now()}
            atomic_write(folder / _ABOUT, json.dumps(about, indent=1))
        return cls(folder, tuple(fields))

    @classmethod
    def newest(
        cls, client: ReferenceClient, query: Query, fields: Sequence[str], root: Path | None = None
    ) -> "PageCache | None":
        """The complete answer that was read last to the same question, of whatever version; None if there is none."""
        folder = _folder(client, query, fields, root)
        caches = [cls(each.parent, tuple(fields)) for each in folder.glob(f"*/{_COMPLETE}")]
        return max(caches, key=lambda cache: cache.retrieved, default=None)

    @property
    def version(self) -> str:
        """Of the database."""
        return str(self._about["version"])

    @property
    def retrieved(self) -> str:
        """When reading began: ISO 8601, UTC."""
        return str(self._about["retrieved"])

    @property
    def is_complete(self) -> bool:
        """True where all pages are there."""
        return (self.folder / _COMPLETE).exists()

    def pages(self) -> list[CachedPage]:
        """The pages that are there, in order, up to the first gap."""
        pages: list[CachedPage] = []
        while (path := self._page(len(pages))).exists():
            pages.append(CachedPage(path))
        return pages

    def save(self, page: Page, position: int) -> CachedPage:
        """Put a page at a position (from 0)."""
        packed = pack([record.id for record in page.records], [record.atoms for record in page.records])
        values = np.array(
            [[record.values.get(name, np.nan) for name in self.fields] for record in page.records], dtype=np.float64
        )
        text = {
            "cursor": page.cursor,
            "total": page.total,
            "refused": page.refused,
            "words": [record.words for record in page.records],
        }
        path = self._page(position)
        with atomic_path(path) as tmp:
            np.savez_compressed(
                tmp,
                text=np.array(json.dumps(text)),
                values=values.reshape(len(page.records), len(self.fields)),
                **packed._asdict(),
            )
        return CachedPage(path)

    def finish(self) -> None:
        """Say that all pages are there."""
        atomic_write(self.folder / _COMPLETE, json.dumps({"pages": len(self.pages())}))

    def clear(self) -> None:
        """Forget all pages; the next reading begins now."""
        for path in (self.folder / _COMPLETE, *self.folder.glob("page-*")):
            path.unlink(missing_ok=True)
        atomic_write(self.folder / _ABOUT, json.dumps({**self._about, "retrieved": _now()}, indent=1))

    def _page(self, position: int) -> Path:
        return self.folder / f"page-{position:06d}.npz"

    @property
    def _about(self) -> Mapping[str, object]:
        about: Mapping[str, object] = json.loads((self.folder / _ABOUT).read_text(encoding="utf-8"))
        return about


def _question(client: ReferenceClient, query: Query, fields: Sequence[str]) -> dict[str, object]:
    return {
        "cache": CACHE_VERSION,
        "provider": client.name,
        "url": client.url,
        "settings": dict(client.settings),
        "query": query.as_dict(),
        "fields": list(fields),
    }


def _folder(client: ReferenceClient, query: Query, fields: Sequence[str], root: Path | None) -> Path:
    question = json.dumps(_question(client, query, fields), sort_keys=True)
    name = hashlib.sha256(question.encode()).hexdigest()[:16]
    return (root or default_cache_folder() / "reference") / re.sub(r"[^\w.-]", "_", client.name) / name


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


# what a fetch may write
FILES = ("structures.npz", "properties.csv.gz", "refused.csv", "provenance.json", "README.md")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Origin of a data set and how to credit it; no key is in it."""

    provider: str
    url: str
    database_version: str
    licence: str
    citations: tuple[str, ...]
    settings: Mapping[str, str]  # those of the client, as its ``thermo_type``
    query: Mapping[str, object]
    fields: tuple[str, ...]
    units: Mapping[str, str]  # of the fields
    client: str  # package and version
    retrieved: str  # ISO 8601, UTC: when the first page came
    n_records: int
    n_refused: int
    n_doubled: int = 0  # records that came more than once and were kept once

    def as_dict(self) -> dict[str, object]:
        """Everything, in a form that JSON can take."""
        return asdict(self) | {"citations": list(self.citations), "fields": list(self.fields)}

    def write(self, folder: Path) -> None:
        """Write ``provenance.json`` for machines and ``README.md`` for people."""
        text = json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n"
        (folder / "provenance.json").write_text(text, encoding="utf-8")
        (folder / "README.md").write_text(self._readme(), encoding="utf-8")

    def _readme(self) -> str:
        columns = [f"- `{name}`" + (f" ({self.units[name]})" if self.units[name] else "") for name in self.fields]
        settings = [f"{name} {value}" for name, value in self.settings.items()]
        state = ", ".join([f"database version {self.database_version}", *settings])
        refused = f"{self.n_refused} more could not be used (see `refused.csv`). " if self.n_refused else ""
        doubled = f"{self.n_doubled} came more than once and were kept once. " if self.n_doubled else ""
        return "\n".join(
            [
                f"# {self.n_records} structures from {self.provider}",
                "",
                f"Fetched from {self.url} ({state}) at {self.retrieved} with {self.client}. {refused}{doubled}",
                "",
                f"Query: `{json.dumps(dict(self.query), ensure_ascii=False)}`",
                "",
                f"Licence: {self.licence}. Cite:",
                "",
                *(f"- {citation}" for citation in self.citations),
                "",
                "`structures.npz` holds the structures, `properties.csv.gz` a row for each in the same order; an empty",
                "field means that the database has no value. `cgcnn-ase train` reads this folder. Columns:",
                "",
                *columns,
                "",
            ]
        )


class Counts(NamedTuple):
    """Numbers of records in the pages."""

    n_records: int
    n_refused: int
    n_doubled: int  # came more than once, kept once


def write_folder(folder: Path, pages: Sequence[CachedPage], fields: Sequence[str]) -> Counts:
    """Write ``structures.npz``, ``properties.csv.gz`` and, where something was refused, ``refused.csv``.

    Records that came more than once are kept once, as they came first.
    """
    keep = _firsts(pages)

    def structures() -> Iterator[PackedStructures]:
        for page, kept in zip(pages, keep, strict=True):
            yield page.structures().where(kept)

    n_records = write_packed(folder / "structures.npz", structures)
    _write_properties(folder / "properties.csv.gz", pages, keep, fields)
    n_refused = _write_refused(folder / "refused.csv", pages)
    return Counts(n_records, n_refused, sum(int((~kept).sum()) for kept in keep))


def _firsts(pages: Sequence[CachedPage]) -> list[Bools]:
    """For each page a mask of the records that no page or row before has."""
    ids = [page.ids() for page in pages]
    first = np.zeros(sum(map(len, ids)), dtype=bool)
    first[np.unique(np.concatenate(ids), return_index=True)[1]] = True
    return np.split(first, np.cumsum([len(each) for each in ids])[:-1])


def _write_properties(path: Path, pages: Sequence[CachedPage], keep: Sequence[Bools], fields: Sequence[str]) -> None:
    labels = sorted({name for page in pages for words in page.text().words for name in words})
    # without a time and a name in its head, the same records give the same file
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="") as lines,
    ):
        table = csv.writer(lines, lineterminator="\n")
        table.writerow(["id", "reduced_formula", "nsites", *fields, *labels])
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
                        *(words[k].get(name, "") for name in labels),
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
