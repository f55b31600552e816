"""``cgcnn-ase cathode``."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from cgcnn_ase.cli.command import console, echo_note, echo_stderr, errors_as_usage
from cgcnn_ase.cli.options import Overwrite, complete_model, repeats
from cgcnn_ase.core.progress import with_progress

if TYPE_CHECKING:
    from ase import Atoms

    from cgcnn_ase.cathodes.build import LiRemoval
    from cgcnn_ase.structures.arrangement import OrderingMethod

# file endings by format
_ENDINGS = {"extxyz": ".extxyz", "cif": ".cif", "vasp": ".vasp"}
# columns of manifest.csv; those from ``atoms.info`` keep their names
_COLUMNS = (
    "id", "cathode", "composition_asked", "composition", "li_content", "li_vacancy_asked", "li_vacancy", "ordering",
    "li_removal", "antisite_exchange", "seed", "supercell", "n_atoms", "oxidation_states", "reference", "file",
)  # fmt: skip
_SHOWN = ("id", "composition", "li_content", "ordering", "li_removal", "seed", "n_atoms", "file")


def cathode(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="NCM811, NCA, LiNiO2, LiFePO4, LiMn2O4, LNMO, Li2MnO3, O3-NaCoO2, P2-Na0.67MnO2, a formula such "
            "as LiNi0.8Co0.1Mn0.08Al0.02O2, or a structure file; its sites may be partially occupied.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the structures and manifest.csv.", show_default=False)
    ],
    supercell: Annotated[
        str | None,
        typer.Option(help="Repeats of the conventional cell (of the file's), as 5x2x1 or 3; else the size decides."),
    ] = None,
    n_atoms: Annotated[int, typer.Option(help="About so many atoms, before lithium is removed.")] = 100,
    ordering: Annotated[
        str,
        typer.Option(
            help="Where the metals go: random, ewald (lowest electrostatic energy), sqs, or lowest (in energy)."
        ),
    ] = "random",
    ordering_time: Annotated[float, typer.Option(help="Seconds that ewald may take; then the best is taken.")] = 20.0,
    antisite_exchange: Annotated[
        float, typer.Option(help="Part of the lithium (sodium) that changes places with nickel, such as 0.02.")
    ] = 0.0,
    li_vacancy: Annotated[float, typer.Option(help="Part of the lithium (sodium) to remove, 0 to 1.")] = 0.0,
    li_removal: Annotated[
        str,
        typer.Option(help="Which lithium goes: random, ewald (lowest electrostatic energy), or lowest (in energy)."),
    ] = "random",
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            autocompletion=complete_model,
            help="Pretrained name or model folder that gives the energies for lowest.",
        ),
    ] = "formation-energy-per-atom",
    n_candidates: Annotated[int, typer.Option(help="Candidates that lowest chooses from.")] = 20,
    num: Annotated[int, typer.Option(help="How many different structures.")] = 1,
    seed: Annotated[int, typer.Option(help="Same seed, same structures.")] = 42,
    tolerance: Annotated[float, typer.Option(help="Largest error of a share of metal or of lithium removed.")] = 0.02,
    file_format: Annotated[str, typer.Option("--format", help="extxyz, cif or vasp.")] = "extxyz",
    overwrite: Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines: a JSON list on stdout.")] = False,
) -> None:
    """Build cathode structures: layered oxides and their mixtures, olivine, spinel, lithium-rich.

    Exit code 0: all written; 1: fewer different ones than asked for, which are written; 2: nothing was.
    """
    from cgcnn_ase.cathodes import cathodes

    with errors_as_usage():
        if file_format not in _ENDINGS:
            raise ValueError(f"--format {file_format}: allowed are {', '.join(_ENDINGS)}")
        if (output / "manifest.csv").exists() and not overwrite:
            raise ValueError(
                f"--output {output}: it holds a manifest.csv already; choose another folder, or add --overwrite"
            )
        structures, problem = _collected(
            cathodes(
                name,
                num=num,
                supercell=repeats(supercell),
                n_atoms=n_atoms,
                ordering=cast("OrderingMethod", ordering),
                li_vacancy=li_vacancy,
                li_removal=cast("LiRemoval", li_removal),
                antisite_exchange=antisite_exchange,
                ordering_time=ordering_time,
                model=model if "lowest" in (ordering, li_removal) else None,
                n_candidates=n_candidates,
                tolerance=tolerance,
                seed=seed,
            ),
            num,
        )
        rows = _write(structures, output, file_format)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    else:
        _show(rows)
    echo_note(f"{len(rows)} structure{'s' * (len(rows) > 1)} and manifest.csv in {output}")
    if problem is not None:
        echo_stderr(f"cgcnn-ase: {problem}")
        raise typer.Exit(1)


def _collected(built: "Iterator[Atoms]", num: int) -> "tuple[list[Atoms], str | None]":
    """The structures, and why there are fewer than asked for; none at all is an error."""
    structures: list[Atoms] = []
    try:
        structures.extend(with_progress(built, "Building", num))
    except ValueError as error:
        if not structures:
            raise
        return structures, str(error)
    return structures, None


def _write(structures: "Sequence[Atoms]", folder: Path, file_format: str) -> list[dict[str, object]]:
    """The files and the manifest; its rows."""
    from ase.io import write

    from cgcnn_ase.cathodes import cathode_ids

    folder.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    rows = []
    for stem, atoms in zip(cathode_ids(structures), structures, strict=True):
        file = folder / (stem + _ENDINGS[file_format])
        options = {"sort": True, "direct": True} if file_format == "vasp" else {}
        write(file, atoms, format=file_format, **options)
        rows.append(
            {name: ({"id": stem, "n_atoms": len(atoms), "file": file.name} | atoms.info)[name] for name in _COLUMNS}
        )
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as manifest:
        writer = csv.DictWriter(manifest, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return rows


def _clear(folder: Path) -> None:
    """Remove the structures of an earlier run, going by its manifest."""
    manifest = folder / "manifest.csv"
    if manifest.exists():
        with manifest.open(newline="", encoding="utf-8") as lines:
            names = [Path(row["file"]).name for row in csv.DictReader(lines)]
        for name in names:
            (folder / name).unlink(missing_ok=True)
        manifest.unlink()


def _show(rows: list[dict[str, object]]) -> None:
    from rich.table import Table

    table = Table(*_SHOWN)
    for row in rows:
        table.add_row(*(f"{row[name]:.4g}" if isinstance(row[name], float) else str(row[name]) for name in _SHOWN))
    console().print(table)
