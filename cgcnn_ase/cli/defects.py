"""``cgcnn-ase defects``."""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cgcnn_ase.cli.command import console, echo_note, errors_as_usage
from cgcnn_ase.cli.options import (
    Dopants,
    Elements,
    MinDistance,
    OrderDisordered,
    OrderingAtoms,
    OrderingModel,
    OrderingName,
    OrderingSeed,
    OrderingTime,
    Overwrite,
    Supercell,
    one_structure,
    ordering_options,
    repeats_or_matrix,
)
from cgcnn_ase.core.progress import with_progress

if TYPE_CHECKING:
    from ase import Atoms

    from cgcnn_ase.defects.generate import Repeats
    from cgcnn_ase.defects.plan import Defect, Manifest

MANIFEST = "manifest.csv"

# rows of the table; the manifest has all
_MAX_ROWS = 100

_SINGLE = "vacancy, antisite, substitution, interstitial"


def defects(
    structure: Annotated[str, typer.Argument(metavar="STRUCTURE", help="The host.", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder to write: a file for each defect, and manifest.csv.")
    ],
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{_SINGLE}, cation-mixing, complex, or all (the first four, where they can be); may be given several "
            "times.  [default: vacancy]"
        ),
    ] = None,
    element: Elements = None,
    dopant: Dopants = None,
    supercell: Supercell = None,
    min_distance: MinDistance = 10.0,
    diagonal: Annotated[
        bool, typer.Option("--diagonal", help="Supercells that only multiply the host's cell vectors.")
    ] = False,
    max_atoms: Annotated[int | None, typer.Option(help="Most atoms in a supercell.")] = None,
    num: Annotated[
        int | None, typer.Option(help="So many random structures with vacancies, instead of all distinct ones.")
    ] = None,
    n_vacancies: Annotated[
        float, typer.Option(help="Vacancies in each random structure; below 1, a fraction of the element's atoms.")
    ] = 1,
    seed: Annotated[int, typer.Option(help="Of random structures and distortions.")] = 42,
    pair: Annotated[tuple[str, str], typer.Option(help="Elements that change places in cation mixing.")] = ("Li", "Ni"),
    pair_range: Annotated[
        str, typer.Option("--pair-range", help="Pairs of cation mixing: all, or of each site the near or the far ones.")
    ] = "all",
    complex_of: Annotated[
        list[str] | None, typer.Option("--of", help=f"What complexes are made of: {_SINGLE}.  [default: vacancy]")
    ] = None,
    size: Annotated[int, typer.Option(help="Most defects in a complex.")] = 2,
    cutoff: Annotated[
        float | None, typer.Option(help="Å between the defects of a pair (as far as can be) or complex (4).")
    ] = None,
    interstitials: Annotated[str, typer.Option(help="How places are found: holes or voronoi.")] = "holes",
    min_radius: Annotated[float, typer.Option(help="Å from an interstitial to the nearest atom.")] = 1.0,
    charges: Annotated[
        bool, typer.Option("--charges", help="Guess charge states with doped, for the manifest.")
    ] = False,
    distort: Annotated[
        bool, typer.Option("--distort", help="Distort the bonds at the defect with ShakeNBreak.")
    ] = False,
    bond_distortion: Annotated[float, typer.Option(help="Of --distort: -0.3 makes bonds 30 % shorter.")] = -0.3,
    file_format: Annotated[str, typer.Option("--format", help="extxyz, cif or vasp.")] = "extxyz",
    dft: Annotated[
        bool,
        typer.Option("--dft", help="Also a folder for each, and the pristine cell, with input of DFT, in OUTPUT/dft."),
    ] = False,
    structure_id: Annotated[
        str | None, typer.Option("--structure", help="Id of the host, such as file:3, where the file holds several.")
    ] = None,
    order_disordered: OrderDisordered = False,
    ordering: OrderingName = None,
    ordering_atoms: OrderingAtoms = None,
    ordering_time: OrderingTime = None,
    ordering_seed: OrderingSeed = None,
    ordering_model: OrderingModel = None,
    overwrite: Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines: the manifests as JSON.")] = False,
) -> None:
    """Make the point defects of a host, each in a supercell, with a manifest of how it was made.

    Exit code 0: done; 2: nothing could be done.
    """
    with errors_as_usage():
        if file_format not in ("extxyz", "cif", "vasp"):
            raise ValueError(f"--format {file_format}: allowed are extxyz, cif, vasp")
        repeats = _repeats(supercell)
        from cgcnn_ase.defects.generate import DefectOptions, generate_defects

        order = ordering_options(
            order_disordered, ordering=ordering, atoms=ordering_atoms, time=ordering_time, seed=ordering_seed,
            model=ordering_model,
        )  # fmt: skip
        name, host = one_structure(structure, structure_id, order_disordered=order)
        options = DefectOptions(
            kind=kind or "vacancy", element=element, dopant=dopant, supercell=repeats, min_distance=min_distance,
            diagonal=diagonal, max_atoms=max_atoms, num=num, n_vacancies=n_vacancies, seed=seed, pair=pair,
            range=pair_range, of=complex_of or "vacancy", size=size, cutoff=cutoff, interstitials=interstitials,
            min_radius=min_radius, charges=charges, distort=distort, bond_distortion=bond_distortion,
        )  # fmt: skip
        generated = generate_defects(host, options, name=name)
        folder = _DefectFolder(output, file_format, host if dft else None, overwrite=overwrite)
        manifests = folder.write(with_progress(generated, "Defects", num))
        if as_json:
            typer.echo(json.dumps([manifest.to_info()["defect"] for manifest in manifests], indent=1))
        else:
            _print_table(manifests)
        echo_note(f"{len(manifests)} structures and manifest.csv in {output}")


def _repeats(supercell: str | None) -> "Repeats":
    """The supercell as the options of defects have it: lists, as in their files."""
    numbers = repeats_or_matrix(supercell)
    if numbers is None or isinstance(numbers, int):
        return numbers
    first, second, third = numbers
    if isinstance(first, tuple) and isinstance(second, tuple) and isinstance(third, tuple):
        return [list(first), list(second), list(third)]
    return [row for row in numbers if isinstance(row, int)]


class _DefectFolder:
    """A folder for defects, new or empty; with ``overwrite`` the files of an earlier run are removed."""

    def __init__(
        self, path: Path, file_format: str, dft_host: "Atoms | None" = None, *, overwrite: bool = False
    ) -> None:
        self.path, self.file_format, self.dft_host = path, file_format, dft_host
        if path.exists() and not path.is_dir():
            raise ValueError(f"--output {path}: is a file; name a folder")
        if path.is_dir() and any(path.iterdir()):
            if not overwrite:
                raise ValueError(f"--output {path}: is not empty; name another folder, or add --overwrite")
            self._clear()
        path.mkdir(parents=True, exist_ok=True)

    def _clear(self) -> None:
        """Remove what an earlier run wrote, going by its manifest."""
        from cgcnn_ase.defects.dft_folder import clear_dft_folders

        clear_dft_folders(self.path / "dft")
        manifest = self.path / MANIFEST
        if not manifest.exists():
            return
        from cgcnn_ase.defects.plan import read_manifest

        for row in read_manifest(manifest):
            for suffix in ("extxyz", "cif", "vasp"):
                (self.path / f"{Path(row.id).name}.{suffix}").unlink(missing_ok=True)
        manifest.unlink()

    def write(self, defects: "Iterable[Defect]") -> "list[Manifest]":
        """Write each defect as it comes; all manifests."""
        from cgcnn_ase.defects.plan import write_manifest

        manifests: list[Manifest] = []
        stream = iter(defects)
        first = next(stream, None)  # what goes wrong at once leaves no file

        def rows() -> "Iterator[Manifest]":
            for defect in chain(() if first is None else (first,), stream):
                self._write_one(defect)
                manifests.append(defect.manifest)
                yield defect.manifest

        write_manifest(self.path / MANIFEST, rows())
        if self.dft_host is not None:
            from cgcnn_ase.defects.dft_folder import pristine_supercell, write_pristine_folders

            one_each = {manifest.supercell: manifest for manifest in manifests}.values()
            cells = [(manifest, pristine_supercell(self.dft_host, manifest)) for manifest in one_each]
            write_pristine_folders(self.path / "dft" / "pristine", cells)
        return manifests

    def _write_one(self, defect: "Defect") -> None:
        import ase.io

        atoms, manifest = defect
        if self.file_format != "extxyz" and atoms.cell.rank < 3:
            raise ValueError(f"--format {self.file_format}: needs a cell vector in each direction; use extxyz")
        if self.dft_host is not None:
            from cgcnn_ase.defects.dft_folder import write_dft_folder

            write_dft_folder(self.path / "dft" / "defects" / manifest.id, defect)
        options = {"sort": True, "direct": True} if self.file_format == "vasp" else {}
        ase.io.write(self.path / f"{manifest.id}.{self.file_format}", atoms, format=self.file_format, **options)


def _print_table(manifests: "Sequence[Manifest]") -> None:
    """A table for people."""
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
    console().print(table)
    if len(manifests) > _MAX_ROWS:
        echo_note(f"... and {len(manifests) - _MAX_ROWS} more; manifest.csv has all")
