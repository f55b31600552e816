"""Cached pages become one data set folder, page by page: memory does not grow with their number."""

import csv
import gzip
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cgcnn_ase.data.formula import formula_of
from cgcnn_ase.data.page_cache import CachedPage
from cgcnn_ase.structures.pack import write_packed
from cgcnn_ase.structures.packed import PackedStructures


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


def _firsts(pages: Sequence[CachedPage]) -> list[npt.NDArray[np.bool_]]:
    """For each page, which of its records no page before has, nor a row before."""
    ids = [page.ids() for page in pages]
    first = np.zeros(sum(map(len, ids)), dtype=bool)
    first[np.unique(np.concatenate(ids), return_index=True)[1]] = True
    return np.split(first, np.cumsum([len(each) for each in ids])[:-1])


def _rows(packed: PackedStructures, kept: npt.NDArray[np.bool_]) -> PackedStructures:
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


def _write_properties(
    path: Path, pages: Sequence[CachedPage], keep: Sequence[npt.NDArray[np.bool_]], fields: Sequence[str]
) -> None:
    said = sorted({name for page in pages for words in page.text().words for name in words})
    # without a time and a name in its head, the same records give the same file
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="") as lines,
    ):
        table = csv.writer(lines, lineterminator="\n")
        table.writerow(["id", "reduced_formula", "nsites", *fields, *said])
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
                        *(words[k].get(name, "") for name in said),
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
