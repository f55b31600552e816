"""Pages of a reference database on disk: an interrupted fetch goes on after the last page, and a complete one
is read again.

A folder for each (provider, address, settings, query, fields), in it one for each version of the database, in that one
file a page. A page is written under another name and put in place when it is whole. No key is in any of them.
"""

import hashlib
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cgcnn_ase.core.arrays import Floats, Strings
from cgcnn_ase.core.errors import DatasetError
from cgcnn_ase.core.files import atomic_path, atomic_write, default_cache_folder
from cgcnn_ase.sources.client import Page, Query, ReferenceClient
from cgcnn_ase.structures.packed import PackedStructures, load_packed, pack
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
