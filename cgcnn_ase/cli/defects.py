"""``cgcnn-ase defects``."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cgcnn_ase.cli.messages import echo_stderr, errors_as_usage, is_terminal
from cgcnn_ase.cli.options import Dopants, Elements

if TYPE_CHECKING:
    from cgcnn_ase.defects.generate import Repeats
    from cgcnn_ase.defects.plan import Defect

_SINGLE = "vacancy, antisite, substitution, interstitial"


def defects(
    structure: Annotated[list[str], typer.Argument(metavar="STRUCTURE", help="The host.", show_default=False)],
    output: Annotated[Path, typer.Option(help="Folder to write: a file for each defect, and manifest.csv.")],
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{_SINGLE}, cation-mixing, complex, or all (the first four, where they can be); may be given several "
            "times.  [default: vacancy]"
        ),
    ] = None,
    element: Elements = None,
    dopant: Dopants = None,
    supercell: Annotated[
        str | None, typer.Option(help="n, or three numbers such as 3 3 1, or nine (rows of a matrix, in quotes).")
    ] = None,
    min_distance: Annotated[
        float, typer.Option(help="Å between a defect and its image, where no supercell is given.")
    ] = 10.0,
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
        str, typer.Option("--range", help="Pairs of cation mixing: all, or of each site the near or the far ones.")
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
    structure_id: Annotated[
        str | None, typer.Option("--structure", help="Id of the host, such as file:3, where the file holds several.")
    ] = None,
    order_disordered: Annotated[
        bool, typer.Option("--order-disordered", help="One ordered supercell where sites are partially occupied.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write into OUTPUT although it is not empty, over an earlier run.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines: the manifests as JSON.")] = False,
) -> None:
    """Make the point defects of a host, each in a supercell, with a manifest of how it was made.

    Exit code 0: done; 2: nothing could be done.
    """
    with errors_as_usage():
        if file_format not in ("extxyz", "cif", "vasp"):
            raise ValueError(f"--format {file_format}: allowed are extxyz, cif, vasp")
        path, repeats = _host_and_supercell(structure, supercell)
        from cgcnn_ase.cli.defect_output import DefectFolder, print_json, print_table
        from cgcnn_ase.cli.options import one_structure
        from cgcnn_ase.defects.generate import DefectOptions, generate_defects

        name, host = one_structure(path, structure_id, order_disordered=order_disordered)
        options = DefectOptions(
            kind=kind or "vacancy", element=element, dopant=dopant, supercell=repeats, min_distance=min_distance,
            diagonal=diagonal, max_atoms=max_atoms, num=num, n_vacancies=n_vacancies, seed=seed, pair=pair,
            range=pair_range, of=complex_of or "vacancy", size=size, cutoff=cutoff, interstitials=interstitials,
            min_radius=min_radius, charges=charges, distort=distort, bond_distortion=bond_distortion,
        )  # fmt: skip
        result = generate_defects(host, options, name=name)
        folder = DefectFolder(output, file_format, overwrite=overwrite)
        manifests = folder.write(_with_progress(result, num))
        if as_json:
            print_json(manifests)
        else:
            print_table(manifests)
        echo_stderr(f"{len(manifests)} structures and manifest.csv in {output}")


def _host_and_supercell(words: Sequence[str], supercell: str | None) -> "tuple[str, Repeats]":
    """The file, and the supercell as numbers; of ``--supercell 3 3 1`` the last two come among the arguments."""
    files = [word for word in words if not (supercell and word.lstrip("-").isdigit())]
    if len(files) != 1:
        raise ValueError(f"{' '.join(words)}: give one host, there are {len(files)}")
    if supercell is None:
        return files[0], None
    text = supercell.replace(",", " ").replace("x", " ").split() + [word for word in words if word not in files]
    try:
        numbers = [int(word) for word in text]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 3, 9):
        raise ValueError(f"--supercell {' '.join(text)}: give one, three or nine whole numbers")
    if len(numbers) == 9:
        return files[0], [numbers[0:3], numbers[3:6], numbers[6:9]]
    return files[0], numbers[0] if len(numbers) == 1 else numbers


def _with_progress(result: "Iterator[Defect]", total: int | None) -> "Iterator[Defect]":
    """Show a progress bar where somebody is looking."""
    if not is_terminal():
        yield from result
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("Defects", total=total)
        for defect in result:
            progress.advance(task)
            yield defect
