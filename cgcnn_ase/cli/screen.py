"""``cgcnn-ase screen``."""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cgcnn_ase.cli.command import console, echo_note, echo_stderr, errors_as_usage
from cgcnn_ase.cli.options import (
    Dopants,
    Elements,
    Fidelity,
    Matrix,
    MinDistance,
    OrderDisordered,
    OrderingAtoms,
    OrderingModel,
    OrderingName,
    OrderingNum,
    OrderingSeed,
    OrderingTime,
    Overwrite,
    Population,
    RelaxFmax,
    RelaxSteps,
    Repeats,
    Supercell,
    chemical_potentials,
    complete_model,
    ordering_options,
    repeats_or_matrix,
)
from cgcnn_ase.core.errors import install_line
from cgcnn_ase.core.parallel import available_cores
from cgcnn_ase.core.progress import with_progress

if TYPE_CHECKING:
    from ase import Atoms

    from cgcnn_ase.defects.screening import HostResult, Ranking, Screened
    from cgcnn_ase.structures.ordering import OrderingOptions

# rows of the table on stdout
_SHOWN = 20


def screen(
    host: Annotated[
        str,
        typer.Argument(
            metavar="HOST",
            help="A structure file, a folder of them, or the name of a cathode (see `cgcnn-ase cathode`).",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the table, the pictures and the DFT folders.")
    ],
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="vacancy, antisite, substitution, interstitial, cation-mixing or complex; may be given several times."
            "  [default: vacancy]"
        ),
    ] = None,
    element: Elements = None,
    dopant: Dopants = None,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            autocompletion=complete_model,
            help="Pretrained name or model folder: a model of sites reads vacancies off the host, one of energies "
            "compares supercells; chgnet and sevenn take these interatomic potentials.",
        ),
    ] = "vacancy-formation-energy",
    second_opinion: Annotated[
        list[str] | None,
        typer.Option(
            help="Another model, chgnet or sevenn: how far its energies of the same defects differ "
            "(second_opinion_std). Several times."
        ),
    ] = None,
    fidelity: Fidelity = None,
    population: Population = "hypothetical",
    mu: Annotated[
        list[str] | None,
        typer.Option(
            help="Chemical potential in eV/atom, as O=-5.2, on the scale of the model; by default those of --mu-limit. "
            "Several times."
        ),
    ] = None,
    mu_limit: Annotated[
        str,
        typer.Option(
            help="Chemical potentials: elements, or a limit of the hull of competing phases, as Li-rich or O-poor."
        ),
    ] = "elements",
    entries: Annotated[
        Path | None,
        typer.Option(
            help="Of --mu-limit: competing phases, a folder of `cgcnn-ase fetch` or pymatgen's entries in JSON; by "
            "default the package's table of the Materials Project.",
        ),
    ] = None,
    relax: Annotated[
        bool,
        typer.Option(
            "--relax",
            help="Of a potential (cathode-potential, chgnet): relax the atoms of each supercell, whose vectors stay, "
            "before their energies are compared.",
        ),
    ] = False,
    fmax: RelaxFmax = 0.05,
    steps: RelaxSteps = 500,
    supercell: Supercell = None,
    min_distance: MinDistance = 10.0,
    max_atoms: Annotated[int | None, typer.Option(help="Most atoms in a supercell.")] = None,
    num: Annotated[int, typer.Option(help="Of a cathode by name: how many different structures.")] = 1,
    n_atoms: Annotated[int, typer.Option(help="Of a cathode by name: about so many atoms each.")] = 100,
    li_vacancy: Annotated[float, typer.Option(help="Of a cathode by name: part of the lithium removed before.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of a cathode by name: same seed, same structures.")] = 42,
    top: Annotated[int, typer.Option(help="DFT folders of the defects of lowest energy.")] = 10,
    uncertain: Annotated[int, typer.Option(help="DFT folders of the least certain ones.")] = 10,
    order_disordered: OrderDisordered = False,
    ordering: OrderingName = None,
    ordering_atoms: OrderingAtoms = None,
    ordering_time: OrderingTime = None,
    ordering_seed: OrderingSeed = None,
    ordering_num: OrderingNum = None,
    ordering_model: OrderingModel = None,
    overwrite: Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines: all rows as JSON on stdout.")] = False,
) -> None:
    """Rank the defects of hosts by what they cost, with the uncertainty; prepare DFT of the cheapest and least certain.

    Writes ranking.csv, ranking.png, histogram.png, and in dft/lowest, dft/uncertain and dft/pristine a folder for each
    defect and each pristine cell with inputs of VASP (without POTCAR) and of Quantum ESPRESSO.

    Exit code 0: done; 1: some hosts failed, each named on stderr; 2: nothing could be done.
    """
    with errors_as_usage():
        if (output / "ranking.csv").exists() and not overwrite:
            raise ValueError(
                f"--output {output}: it holds a ranking.csv already; choose another folder, or add --overwrite"
            )
        order = ordering_options(
            order_disordered, ordering=ordering, atoms=ordering_atoms, time=ordering_time, seed=ordering_seed,
            num=ordering_num, model=ordering_model,
        )  # fmt: skip
        hosts, repeated, total = _hosts(
            host, repeats_or_matrix(supercell), order, num=num, n_atoms=n_atoms, li_vacancy=li_vacancy, seed=seed
        )
        from cgcnn_ase.defects.costs import Relaxation
        from cgcnn_ase.defects.screening import Ranking, Screening, screen_hosts

        screening = Screening(
            kinds=tuple(kind or ["vacancy"]),
            model=model,
            fidelity=fidelity,
            chemical_potentials=chemical_potentials(mu),
            population=population,
            relaxation=Relaxation(fmax, steps) if relax else None,
            limit=mu_limit,
            entries=entries,
            second_opinion=tuple(second_opinion or ()),
            options={
                "elements": element, "dopants": dopant, "supercell": repeated,
                "min_distance": min_distance, "max_atoms": max_atoms,
            },
        )  # fmt: skip
        if entries is not None and mu_limit == "elements":
            raise ValueError("--entries are of --mu-limit: name the limit, as --mu-limit Li-rich")
        screening.check()
        failed: list[str] = []
        results = screen_hosts(_good(hosts, failed), screening, workers=min(total, available_cores()))
        ranking = Ranking(
            _screened(with_progress(results, "Screening", total), failed), n_lowest=top, n_uncertain=uncertain
        )
        if not len(ranking):
            raise ValueError(failed[0] if failed else f"{host}: no defect of the kinds and elements asked for")
        _write(ranking, output)
    if as_json:
        typer.echo(json.dumps(ranking.rows(), indent=1))
    else:
        _show(ranking)
    echo_note(f"{len(ranking)} defects ranked in {output / 'ranking.csv'}; structures for DFT in {output / 'dft'}")
    for note in ranking.about_energies():
        echo_note(note)
    if (warning := ranking.warning()) is not None:
        echo_stderr(f"cgcnn-ase: warning: {warning}")
    if (unconverged := ranking.unconverged()) is not None:
        echo_stderr(f"cgcnn-ase: warning: {unconverged}")
    for problem in failed:
        echo_stderr(problem)
    if failed:
        raise typer.Exit(1)


def _hosts(
    host: str,
    repeated: Repeats | Matrix,
    order: "bool | OrderingOptions",
    *,
    num: int,
    n_atoms: int,
    li_vacancy: float,
    seed: int,
) -> "tuple[Iterator[tuple[str, Atoms | str]], Repeats | Matrix, int]":
    """Names and structures (or why there is none), the supercell to take, and how many hosts there are."""
    if Path(host).exists():
        _check_ambiguous(host)
        from cgcnn_ase.structures import collect_paths, read_structures

        paths = collect_paths(host)
        records = read_structures(paths, order_disordered=order)
        return (
            ((r.id, r.atoms if r.atoms is not None else f"{r.source}: {r.error}") for r in records),
            repeated,
            len(paths),
        )
    from cgcnn_ase.cathodes import cathodes

    try:
        built = cathodes(host, num=num, n_atoms=n_atoms, li_vacancy=li_vacancy, seed=seed)
    except ValueError as error:
        if "/" in host or "." in Path(host).name[-8:]:
            raise ValueError(f"{host}: no such file or folder") from error
        raise ValueError(f"{host}: no such file or folder, and no cathode: {error}") from error
    named = ((host if num == 1 else f"{host}-{k}", atoms) for k, atoms in enumerate(built))
    return named, 1 if repeated is None else repeated, num


def _check_ambiguous(host: str) -> None:
    """See that what could be the name of a cathode, too, is written as a path."""
    from cgcnn_ase.cathodes import parse_cathode

    if "/" in host or "\\" in host:
        return
    try:
        parse_cathode(host)
    except ValueError:
        return
    raise ValueError(
        f"{host}: is the name of a cathode, and there is a file or folder of that name; write ./{host} for the latter, "
        "or run the command in another folder for the cathode"
    )


def _good(hosts: "Iterator[tuple[str, Atoms | str]]", failed: list[str]) -> "Iterator[tuple[str, Atoms]]":
    """The hosts that could be read."""
    for name, atoms in hosts:
        if isinstance(atoms, str):
            failed.append(atoms)
        else:
            yield name, atoms


def _screened(results: "Iterable[HostResult]", failed: list[str]) -> "Iterator[Screened]":
    """The defects of all hosts; notes what failed."""
    for result in results:
        if result.error is not None:
            failed.append(result.error)
        yield from result.defects


def _write(ranking: "Ranking", output: Path) -> None:
    from importlib.util import find_spec

    from cgcnn_ase.defects.dft_folder import clear_dft_folders, write_dft_folder, write_pristine_folders

    output.mkdir(parents=True, exist_ok=True)
    clear_dft_folders(output / "dft")
    ranking.to_frame().to_csv(output / "ranking.csv", index=False)
    for name, results in (("lowest", ranking.lowest), ("uncertain", ranking.uncertain)):
        for rank, result in enumerate(results, start=1):
            write_dft_folder(output / "dft" / name / f"{rank:03d}_{result.cost.id}", result)
    kept = [*ranking.lowest, *ranking.uncertain]
    cells = [(one.defect.manifest, one.pristine) for one in kept if one.pristine is not None]
    write_pristine_folders(output / "dft" / "pristine", cells)
    if find_spec("matplotlib") is None:
        echo_stderr(f"no pictures: matplotlib is missing; {install_line('plots')}")
        return
    from cgcnn_ase.defects import ranking_plot
    from cgcnn_ase.plotting.model_plots import save

    save(ranking_plot.ranking(ranking.costs), output / "ranking.png")
    save(ranking_plot.histogram(ranking.costs), output / "histogram.png")


def _show(ranking: "Ranking") -> None:
    from rich.table import Table

    heads = ["rank", "id", "energy (eV)", "std", "above first (eV)", "std", "P(cheapest)", "in domain", "multiplicity"]
    compared = any(cost.second_opinion_std is not None for cost in ranking.costs)
    table = Table(*heads, *(["disagreement"] if compared else []))
    rows = zip(ranking.costs, ranking.above_cheapest, ranking.p_cheapest, strict=True)
    for rank, (cost, (above, apart), p) in enumerate(islice(rows, _SHOWN), start=1):
        std = "" if cost.std is None else f"{cost.std:.3f}"
        difference = (f"{above:.3f}", "" if apart is None else f"{apart:.3f}", "" if p is None else f"{p:.2f}")
        domain = {True: "yes", False: "no", None: ""}[cost.in_domain]
        cells = [str(rank), cost.id, f"{cost.energy:.3f}", std, *difference, domain, str(cost.multiplicity)]
        if compared:
            cells.append("" if cost.second_opinion_std is None else f"{cost.second_opinion_std:.3f}")
        table.add_row(*cells)
    console(140).print(table)
    if len(ranking) > _SHOWN:
        echo_note(f"... and {len(ranking) - _SHOWN} more")
