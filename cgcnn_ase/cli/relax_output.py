"""Writers of relaxed structures: a table and extended XYZ that grow row by row, trajectories, JSON, or a terminal."""

import csv
import hashlib
import json
import re
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn

from cgcnn_ase.core.files import atomic_path
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.potential.relax_results import COLUMNS, Relaxed, RelaxOptions
from cgcnn_ase.structures import StructureRecord, UniqueIds, iter_file, structure_id
from cgcnn_ase.structures.record import PACKED_SUFFIX, suffix_of

if TYPE_CHECKING:
    from ase import Atoms

# what a frame says beside energy, forces and stress
_INFO = (
    "energy_std", "scale", "steps", "converged", "max_force", "max_force_std", "in_domain", "in_domain_reason",
    "domain_score", "model", "model_sha256", "n_reference_calls",
)  # fmt: skip


@dataclass(frozen=True)
class Earlier:
    """Structures that an earlier run has relaxed, by id and source."""

    done: frozenset[tuple[str, str]] = frozenset()

    def records(self, files: Collection[Path]) -> Iterator[StructureRecord]:
        """Read the structures that are still to relax, one at a time, under the names that they have in a whole run."""
        alone = {source for name, source in self.done if _is_alone(name, Path(source))}
        names = UniqueIds(files)
        for path in files:
            if str(path) in alone:
                names.check(StructureRecord(structure_id(path), str(path), None, None))
                continue
            for record in map(names.check, iter_file(path)):
                if (record.id, record.source) not in self.done:
                    yield record


def _is_alone(name: str, source: Path) -> bool:
    """Tell by its name that a structure is the only one of its file, so that the file need not be read again."""
    stem = structure_id(source)
    return suffix_of(source.name) != PACKED_SUFFIX and (name == stem or name.endswith(f"_{stem}"))


class RelaxWriter:
    """Writer of the rows of one run; a context manager.

    Parameters
    ----------
    output
        A ``.csv`` file for the table, or an ``.extxyz`` file for the structures, with the table beside it.
    as_json
        Write the rows as a JSON list on stdout.
    trajectory
        Folder for a file of all steps for each structure.
    earlier
        Append to what is in ``output``.
    """

    def __init__(
        self, output: Path | None, *, as_json: bool, trajectory: Path | None, earlier: Earlier | None = None
    ) -> None:
        self._table = self._frames = None
        self._rows: list[Relaxed] | None = None
        self._json: str | None = "[" if as_json else None
        if output is not None:
            table, frames = outputs(output)
            self._table = _open(table, append=earlier is not None)
            self._frames = None if frames is None else _open(frames, append=earlier is not None)
        elif not as_json:
            self._rows = [] if sys.stdout.isatty() else None
            self._table = sys.stdout if self._rows is None else None
        if self._table is not None and (earlier is None or not earlier.done):
            csv.writer(self._table, lineterminator="\n").writerow(COLUMNS)
            self._table.flush()
        self._trajectory = trajectory
        self._names = FileNames(name for name, _ in (earlier or Earlier()).done)
        if trajectory is not None:
            trajectory.mkdir(exist_ok=True)

    def write(self, row: Relaxed) -> None:
        """Add a row; its frames are on disk before its line of the table, which --resume goes by."""
        if row.atoms is not None:
            if self._trajectory is not None:
                with atomic_path(self._trajectory / f"{self._names(row.id)}.extxyz") as tmp:
                    tmp.write_text("".join(_steps(row)), encoding="utf-8")
            if self._frames is not None:
                self._frames.write(_frame(row.atoms, {name: getattr(row, name) for name in ("id", *_INFO)}))
                self._frames.flush()
        values = row.row()
        if self._table is not None:
            csv.writer(self._table, lineterminator="\n").writerow(values.values())
            self._table.flush()
        if self._json is not None:
            sys.stdout.write(self._json + json.dumps(values))
            self._json = ",\n"
        if self._rows is not None:
            self._rows.append(replace(row, atoms=None, trajectory=()))

    def __enter__(self) -> "RelaxWriter":
        return self

    def __exit__(self, *error: object) -> None:
        del error
        if self._json is not None:
            sys.stdout.write("[]\n" if self._json == "[" else "]\n")
        if self._rows:
            _show(self._rows)
        for file in (self._table, self._frames):
            if file is not None and file is not sys.stdout:
                file.close()


def outputs(output: Path) -> tuple[Path, Path | None]:
    """The table and, if ``output`` is one, the file of the structures."""
    return (output, None) if output.suffix.lower() == ".csv" else (output.with_suffix(".csv"), output)


def check_output(output: Path | None, trajectory: Path | None, paths: Collection[str], files: Collection[Path]) -> None:
    """Raise ValueError where results cannot be written, or would be written over what is no result of this command."""
    if trajectory is not None:
        if not trajectory.parent.is_dir():
            raise ValueError(f"--trajectory {trajectory}: the folder {trajectory.parent} does not exist")
        if trajectory.exists() and not trajectory.is_dir():
            raise ValueError(f"--trajectory {trajectory}: is a file; name a folder")
        if any(file.resolve().parent == trajectory.resolve() for file in files):
            raise ValueError(f"--trajectory {trajectory}: holds structures to relax; name another folder")
    if output is None:
        return
    if output.suffix.lower() not in (".csv", ".extxyz"):
        raise ValueError(f"--output {output}: allowed are names that end in .csv or .extxyz")
    if not output.parent.is_dir():
        raise ValueError(f"--output {output}: the folder {output.parent} does not exist")
    if output in files or str(output) in paths:
        raise ValueError(f"--output {output}: is one of the structures to relax; name another file or folder")
    table, _ = outputs(output)
    if table.exists() and not _is_ours(table):
        raise ValueError(f"--output {output}: {table} was not written by cgcnn-ase relax; name another file")


def _is_ours(table: Path) -> bool:
    with table.open(newline="", encoding="utf-8", errors="replace") as file:
        return next(csv.reader(file), []) in ([], list(COLUMNS))


def read_earlier(output: Path, settings: RelaxOptions, model: CrystalModel) -> Earlier:
    """Read what an earlier run has relaxed, and cut off what it has not finished and what failed.

    Raises
    ------
    ValueError
        If it was relaxed by another model or with other settings, as far as the table tells.
    """
    table, frames = outputs(output)
    if not table.exists():
        return Earlier()
    lines = table.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    rows = [row for row in csv.DictReader(lines) if not row["error"]]
    for row in rows:
        _check_same(row, table, settings, model)
    if frames is not None:
        ends = list(islice(_frame_ends(frames), len(rows))) if frames.exists() else []
        rows = rows[: len(ends)]
        with frames.open("ab") as file:
            file.truncate(ends[-1] if ends else 0)
    with atomic_path(table) as tmp, tmp.open("w", newline="", encoding="utf-8") as file_of_rows:
        if rows:
            writer = csv.DictWriter(file_of_rows, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return Earlier(frozenset((row["id"], row["source"]) for row in rows))


def _check_same(row: dict[str, str], table: Path, settings: RelaxOptions, model: CrystalModel) -> None:
    def refuse(what: str) -> NoReturn:
        raise ValueError(f"--resume: {table} holds structures that were relaxed {what}; give the same, or another file")

    if (row["model"], row["model_sha256"]) != (model.name, model.sha256):
        refuse(f"by another model ({row['model']}, sha256 {row['model_sha256'][:12]})")
    if row["converged"] == "True" and float(row["max_force"]) > settings.fmax:
        refuse(f"with a larger --fmax than {settings.fmax:g}")
    if row["converged"] == "False" and int(row["steps"]) != settings.steps:
        refuse(f"with --steps {row['steps']}")


def _frame_ends(path: Path) -> Iterator[int]:
    """Positions in bytes where the whole frames of an extended XYZ file end."""
    with path.open("rb") as file:
        while (count := file.readline().strip()).isdigit():
            for _ in range(int(count) + 1):
                if not file.readline().endswith(b"\n"):
                    return
            yield file.tell()


def _frame(atoms: "Atoms", fields: dict[str, object]) -> str:
    """One frame of extended XYZ; what the structure's own file said under a name that is taken stays as original_NAME.

    (An empty text would not survive.)
    """
    from ase.calculators.calculator import all_properties
    from ase.io.extxyz import write_extxyz

    kept = {
        f"original_{key}" if key in fields or key in all_properties else key: value
        for key, value in atoms.info.items()
        if key != "max_force_std"  # of this very frame
    }
    frame, text = atoms.copy(), StringIO()
    frame.calc = atoms.calc
    frame.info = {**{key: value for key, value in fields.items() if value not in (None, "")}, **kept}
    write_extxyz(text, [frame])
    return text.getvalue()


def _steps(row: Relaxed) -> Iterator[str]:
    for step, atoms in enumerate(row.trajectory):
        fields = {"id": row.id, "step": step, "max_force_std": atoms.info.get("max_force_std")}
        yield _frame(atoms, fields | {"model": row.model, "model_sha256": row.model_sha256})


class FileNames:
    """Names of files for ids, each for one id only.

    Examples
    --------
    >>> name = FileNames()
    >>> name("runs/a:0"), name("..")
    ('runs_a_0', '__')
    """

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self._ids: dict[str, str] = {}
        for name in ids:
            self(name)

    def __call__(self, structure: str) -> str:
        """Return the file's name without its suffix."""
        safe = re.sub(r"[^\w.+()-]", "_", structure)[:150]
        safe = re.sub(r"^\.+", lambda dots: "_" * len(dots[0]), safe) or "_"
        if self._ids.setdefault(safe.lower(), structure) != structure:
            return f"{safe}_{hashlib.sha256(structure.encode()).hexdigest()[:8]}"
        return safe


def _open(path: Path, *, append: bool) -> IO[str]:
    return path.open("a" if append else "w", newline="", encoding="utf-8")


def _show(rows: list[Relaxed]) -> None:
    """A table for people; CSV is for files and pipes."""
    from rich.console import Console
    from rich.table import Table

    screen = Console(highlight=False)
    good = [row for row in rows if row.error is None]
    if not good:
        return
    by = f"{good[0].model}, sha256 {good[0].model_sha256[:12]}"
    screen.print(f"relaxed by {by}; energies in eV, forces in eV/Å", markup=False, soft_wrap=True)
    cells = [_cells(row) for row in good]
    used = [k for k in range(len(_HEADS)) if any(row[k] for row in cells)]
    table = Table()
    for k in used:
        table.add_column(_HEADS[k], justify="left" if _HEADS[k] in _LEFT else "right")
    for row in cells:
        table.add_row(*(row[k] for k in used))
    screen.print(table)


_LEFT = ("id", "formula", "converged", "in domain")
_HEADS = ("id", "formula", "energy", "std", "steps", "converged", "largest force", "volume", "in domain")


def _cells(row: Relaxed) -> tuple[str, ...]:
    assert row.energy is not None
    return (
        row.id, row.formula or "", f"{row.energy:.3f}", "" if row.energy_std is None else f"{row.energy_std:.3f}",
        str(row.steps), "yes" if row.converged else "no", f"{row.max_force:.3f}",
        "" if row.volume_change is None else f"{row.volume_change:+.1%}",
        {True: "yes", False: f"no: {row.in_domain_reason}", None: ""}[row.in_domain],
    )  # fmt: skip
