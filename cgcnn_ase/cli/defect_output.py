"""Where defects go: a folder with a file for each and the manifest; and what is said about them."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cgcnn_ase.cli.messages import echo_stderr
from cgcnn_ase.defects.manifest import KEY, Manifest, read_manifest, write_manifest

if TYPE_CHECKING:
    from cgcnn_ase.defects.plan import Defect

MANIFEST = "manifest.csv"

#: rows of the table; the manifest has all
_MAX_ROWS = 100


class DefectFolder:
    """A folder for defects.

    Parameters
    ----------
    path
        The folder; it is made where there is none.
    file_format
        ``extxyz``, ``cif`` or ``vasp``: also the suffix of the files.
    overwrite
        Whether it may hold something; the files of an earlier run are removed.

    Raises
    ------
    ValueError
        If it is a file, or is not empty and may not be.
    """

    def __init__(self, path: Path, file_format: str, *, overwrite: bool = False) -> None:
        self.path, self.file_format = path, file_format
        if path.exists() and not path.is_dir():
            raise ValueError(f"--output {path}: is a file; name a folder")
        if path.is_dir() and any(path.iterdir()):
            if not overwrite:
                raise ValueError(f"--output {path}: is not empty; name another folder, or add --overwrite")
            self._clear()
        path.mkdir(parents=True, exist_ok=True)

    def _clear(self) -> None:
        """Remove what an earlier run wrote, going by its manifest."""
        manifest = self.path / MANIFEST
        if not manifest.exists():
            return
        for row in read_manifest(manifest):
            for suffix in ("extxyz", "cif", "vasp"):
                (self.path / f"{Path(row.id).name}.{suffix}").unlink(missing_ok=True)
        manifest.unlink()

    def write(self, defects: "Iterable[Defect]") -> list[Manifest]:
        """Write each defect as it comes; all manifests.

        Raises
        ------
        ValueError
            If the format needs a cell that a structure has not.
        """
        manifests: list[Manifest] = []
        stream = iter(defects)
        first = next(stream, None)  # what goes wrong at once leaves no file

        def rows() -> Iterator[Manifest]:
            for defect in chain(() if first is None else (first,), stream):
                self._write_one(defect)
                manifests.append(defect.manifest)
                yield defect.manifest

        write_manifest(self.path / MANIFEST, rows())
        return manifests

    def _write_one(self, defect: "Defect") -> None:
        import ase.io

        atoms, manifest = defect
        if self.file_format != "extxyz" and atoms.cell.rank < 3:
            raise ValueError(f"--format {self.file_format}: needs a cell vector in each direction; use extxyz")
        options = {"sort": True, "direct": True} if self.file_format == "vasp" else {}
        ase.io.write(self.path / f"{manifest.id}.{self.file_format}", atoms, format=self.file_format, **options)


def print_json(manifests: Sequence[Manifest]) -> None:
    """A JSON list of the manifests."""
    typer.echo(json.dumps([manifest.to_info()[KEY] for manifest in manifests], indent=1))


def print_table(manifests: Sequence[Manifest]) -> None:
    """A table for people."""
    from rich.console import Console
    from rich.table import Table

    numbers = ("multiplicity", "atoms", "distance", "image distance")
    columns = ["id", "kind", "site", "multiplicity", "formula", "atoms", "image distance"]
    if any(manifest.distance for manifest in manifests):
        columns.insert(4, "distance")
    if any(manifest.charges for manifest in manifests):
        columns.append("charges")
    table = Table()
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", no_wrap=True)
    for manifest in manifests[:_MAX_ROWS]:
        cells = {
            "id": manifest.id,
            "kind": manifest.kind,
            "site": "" if manifest.site_index is None else f"{manifest.site_index} {manifest.wyckoff}",
            "multiplicity": str(manifest.multiplicity),
            "formula": manifest.formula,
            "atoms": str(manifest.n_atoms),
            "distance": "" if manifest.distance is None else f"{manifest.distance:.2f} Å",
            "image distance": f"{manifest.image_distance:.2f} Å",
            "charges": " ".join(f"{charge:+d}" if charge else "0" for charge in manifest.charges),
        }
        table.add_row(*(cells[column] for column in columns))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    if len(manifests) > _MAX_ROWS:
        echo_stderr(f"... and {len(manifests) - _MAX_ROWS} more; manifest.csv has all")
