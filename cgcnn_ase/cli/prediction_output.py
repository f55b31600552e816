"""Writers of predictions: CSV line by line, JSON, extended XYZ with the structures, or a table on a terminal."""

import csv
import json
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from io import StringIO
from math import floor, log10
from pathlib import Path
from typing import IO, TYPE_CHECKING

from cgcnn_ase.core.files import atomic_path
from cgcnn_ase.prediction.results import COLUMNS, MEMBERS, SITE_COLUMNS, Prediction
from cgcnn_ase.structures import StructureRecord, UniqueIds, iter_file
from cgcnn_ase.structures.ordering import OrderDisordered, OrderingWarning

if TYPE_CHECKING:
    from cgcnn_ase.core.arrays import Floats, Floats32


def _fields(*, of_sites: bool) -> tuple[str, ...]:
    """CSV files also hold where each structure came from, which is what --resume goes by."""
    return (*(SITE_COLUMNS if of_sites else COLUMNS), "source")


@dataclass(frozen=True)
class Done:
    """Files and names that an earlier run has finished."""

    files: frozenset[Path] = frozenset()
    names: UniqueIds = field(default_factory=UniqueIds)


class Writer(ABC):
    """A place for predictions; a context manager that closes it."""

    def __init__(self, file: IO[str], done: Done | None = None) -> None:
        self.file, self.n_written, self.done = file, 0, done or Done()
        self.notes: list[str] = []  # of the whole batch, for the formats that have a place for them

    @abstractmethod
    def write(self, prediction: Prediction, members: "Floats | Floats32 | None" = None) -> None:
        """Add one prediction; it is on disk, as a complete line, when this returns."""

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *error: object) -> None:
        del error
        self.file.flush()
        if self.file is not sys.stdout:
            self.file.close()


def open_output(
    output: Path | None,
    *,
    as_json: bool,
    resume: bool,
    sources: Sequence[Path],
    models: Collection[tuple[str, str]],
    of_sites: bool = False,
    order_disordered: OrderDisordered = False,
    members: bool = False,
) -> Writer:
    """The writer that the options ask for; ``models`` have name and sha256 of those that predict."""
    suffix = "" if output is None else output.suffix.lower()
    fields = _fields(of_sites=of_sites) + ((MEMBERS,) if members else ())
    if output is not None and suffix not in (".csv", ".json", ".extxyz"):
        raise ValueError(f"--output {output}: allowed are names that end in .csv, .json or .extxyz")
    if resume and suffix != ".csv":
        raise ValueError("--resume needs --output FILE.csv")
    if of_sites and suffix == ".extxyz":
        raise ValueError(f"--output {output}: .extxyz holds one prediction a structure; of sites take .csv or .json")
    if members and (suffix == ".extxyz" or (output is None and not as_json and sys.stdout.isatty())):
        raise ValueError("--member-values are written to a .csv or .json file: give --output FILE.csv")
    if output is not None and not output.parent.is_dir():
        raise ValueError(f"--output {output}: the folder {output.parent} does not exist")
    if suffix == ".csv" and output is not None:
        done = _done(output, fields, sources, models) if resume and output.exists() else Done()
        return CsvWriter(output.open("a" if done.files else "w", newline="", encoding="utf-8"), fields, done)
    if suffix == ".extxyz" and output is not None:
        return XyzWriter(output.open("w", encoding="utf-8"), order_disordered=order_disordered)
    if output is not None:
        return JsonWriter(output.open("w", encoding="utf-8"))
    if as_json:
        return JsonWriter(sys.stdout)
    return TableWriter(sys.stdout) if sys.stdout.isatty() else CsvWriter(sys.stdout, fields)


class CsvWriter(Writer):
    """One complete line for each prediction, flushed at once."""

    def __init__(self, file: IO[str], fields: Sequence[str], done: Done | None = None) -> None:
        super().__init__(file, done)
        self._fields = fields
        self._csv = csv.writer(file, lineterminator="\n")
        if not self.done.files:
            self._csv.writerow(fields)
            self.file.flush()

    def write(self, prediction: Prediction, members: "Floats | Floats32 | None" = None) -> None:
        """Append a line; numbers with all their digits."""
        row = [getattr(prediction, name) for name in self._fields if name != MEMBERS]
        self._csv.writerow([*row, " ".join(map(repr, members.tolist()))] if members is not None else row)
        self.file.flush()
        self.n_written += 1


class JsonWriter(Writer):
    """A JSON list, one object a line; closed wherever the run is stopped.

    Where there is a word for the whole batch, the last object has it as ``batch_note``.
    """

    def __init__(self, file: IO[str]) -> None:
        super().__init__(file)
        self.file.write("[")
        self._last: dict[str, object] | None = None

    def write(self, prediction: Prediction, members: "Floats | Floats32 | None" = None) -> None:
        """Keep an object, as it may be the last, and append the one before."""
        if self._last is not None:
            self.file.write(json.dumps(self._last) + ",\n")
        self._last = prediction.to_dict() | ({} if members is None else {MEMBERS: members.tolist()})
        self.n_written += 1

    def __exit__(self, *error: object) -> None:
        if self._last is not None:
            note = {"batch_note": "; ".join(self.notes)} if self.notes else {}
            self.file.write(json.dumps(self._last | note))
        self.file.write("]\n")
        super().__exit__(*error)


class TableWriter(Writer):
    """Tables for people, one a model, when all is predicted or the run is stopped: CSV is for files and pipes."""

    def __init__(self, file: IO[str]) -> None:
        super().__init__(file)
        self._tables: dict[tuple[str, str, str, str, str], list[tuple[str, ...]]] = {}

    def write(self, prediction: Prediction, members: "Floats | Floats32 | None" = None) -> None:
        """Keep the cells of a row."""
        del members
        head = (prediction.property, prediction.unit, prediction.model, prediction.model_sha256, prediction.scale or "")
        self._tables.setdefault(head, []).append(_cells(prediction))
        self.n_written += 1

    def __exit__(self, *error: object) -> None:
        from rich.console import Console
        from rich.table import Table

        screen = Console(file=self.file, highlight=False)
        for (name, unit, model, sha256, scale), rows in self._tables.items():
            used = [k for k in range(len(_HEADS)) if any(row[k] for row in rows)]
            of = "" if unit in ("", "1") else f" ({unit})"
            on = f", on the scale {scale}" if scale else ""
            screen.print(f"{name}{of} by {model}, sha256 {sha256[:_SHORT]}{on}", markup=False, soft_wrap=True)
            table = Table()
            for k in used:
                right = _HEADS[k] in ("site", "equal sites", "atoms", "value", "std")
                table.add_column(_HEADS[k], justify="right" if right else "left", no_wrap=k < _DOMAIN)
            for row in rows:
                table.add_row(*(row[k] for k in used))
            screen.print(table)
        super().__exit__(*error)


# hex digits of a sha256 that tell models apart
_SHORT = 12
_HEADS = ("id", "site", "element", "equal sites", "formula", "atoms", "value", "std", "90 % interval", "90 % set",
          "second opinions: std", "in domain")  # fmt: skip
_DOMAIN = _HEADS.index("in domain")


def _cells(p: Prediction) -> tuple[str, ...]:
    """One row of the table, empty where nothing is known; the std has two digits and decides those of the others."""
    digits = 4 if not p.std else max(0, 1 - floor(log10(p.std)))
    numbers = (p.value, p.std, p.lower, p.upper, p.second_opinion_std)
    value, std, lower, upper, disagreement = ("" if x is None else f"{x:.{digits}f}" for x in numbers)
    counts = ("" if n is None else str(n) for n in (p.site_index, p.multiplicity, p.n_atoms))
    site, multiplicity, n_atoms = counts
    return (
        p.id, site, p.element or "", multiplicity, p.formula or "", n_atoms, value, std,
        f"{lower} to {upper}" if lower and upper else "",
        "" if p.class_set is None else " or ".join(map(str, p.class_set)), disagreement,
        {True: "yes", False: f"no: {p.reason}", None: ""}[p.in_domain],
    )  # fmt: skip


class XyzWriter(Writer):
    """Extended XYZ: the structures, each with its prediction in the comment line."""

    def __init__(self, file: IO[str], *, order_disordered: OrderDisordered = False) -> None:
        super().__init__(file)
        self._order_disordered = order_disordered
        self._source: str | None = None
        self._records: Iterator[StructureRecord] = iter(())
        self._record: StructureRecord | None = None

    def write(self, prediction: Prediction, members: "Floats | Floats32 | None" = None) -> None:
        """Append a frame."""
        del members
        from ase.io.extxyz import write_extxyz

        atoms = self._structure(prediction).unwrap().copy()
        fields = {k: v for k, v in prediction.to_dict().items() if k not in ("error", "source") and v not in (None, "")}
        # the file's own info stays; of a key that is also the prediction's, as original_KEY
        kept = {f"original_{key}" if key in fields or key == "id" else key: v for key, v in atoms.info.items()}
        atoms.info = {"id": prediction.id, **{key: value for key, value in fields.items() if key != "id"}, **kept}
        frame = StringIO()
        write_extxyz(frame, [atoms])
        self.file.write(frame.getvalue())  # whole frames only, whenever the run is stopped
        self.file.flush()
        self.n_written += 1

    def _structure(self, prediction: Prediction) -> StructureRecord:
        """Read the prediction's file again, alongside the predictions: they come in the order of its structures."""
        if self._source != prediction.source:
            self._source = prediction.source
            self._records = iter_file(prediction.source, order_disordered=self._order_disordered)
            self._record = None
        # (the name of a folder may stand before the id of a file, see UniqueIds)
        while self._record is None or not f"_{prediction.id}".endswith(f"_{self._record.id}"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", OrderingWarning)  # told when it was predicted
                self._record = next(self._records)
        return self._record


def _done(output: Path, fields: Sequence[str], sources: Sequence[Path], models: Collection[tuple[str, str]]) -> Done:
    """Read what an earlier run has finished; a broken last line and the rows of its file are cut off."""
    text = output.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    rows = list(csv.DictReader(lines))
    if lines and tuple(next(csv.reader(lines[:1]))) != tuple(fields):
        raise ValueError(f"--resume: {output} was not written by cgcnn-ase predict: its header is another")
    others = {row["model"] for row in rows if (row["model"], row["model_sha256"]) not in models}
    if others:
        raise ValueError(f"--resume: {output} holds predictions of another model ({', '.join(sorted(others))})")
    if not rows:
        return Done()
    last = rows[-1]["source"]  # the file in hand when the run stopped may hold more structures
    kept = [row for row in rows if row["source"] != last]
    if kept and {(row["model"], row["model_sha256"]) for row in kept} != set(models):
        raise ValueError(f"--resume: {output} lacks predictions of one of the models")
    with atomic_path(output) as tmp, tmp.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
    finished = {row["source"] for row in kept}
    done = Done(frozenset(path for path in sources if str(path) in finished))
    for row in kept:
        done.names.check(StructureRecord(row["id"], row["source"], None, None))
    done.names.expect(sources)  # the files to come are named as if there had been no interruption
    return done
