"""The folder of a fetched data set: structures, properties, refused records, and the origin of it all."""

import csv
import gzip
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cgcnn_ase.core.arrays import Bools
from cgcnn_ase.sources.page_cache import CachedPage
from cgcnn_ase.structures.composition import formula_of
from cgcnn_ase.structures.packed import PackedStructures, write_packed

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
