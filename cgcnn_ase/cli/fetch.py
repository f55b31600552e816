"""``cgcnn-ase fetch``."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cgcnn_ase.cli.command import echo_note, echo_stderr, errors_as_usage, is_terminal
from cgcnn_ase.cli.options import Overwrite

if TYPE_CHECKING:
    from cgcnn_ase.sources.client import Bounds, ReferenceClient

# refused records that are named one by one; all of them are in refused.csv
_NAMED = 10

# what is fetched where nothing is said
_FIELDS = ("formation_energy_per_atom", "energy_above_hull", "band_gap")


def fetch(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the data set; it must be empty or not there yet.")
    ],
    provider: Annotated[
        str,
        typer.Option(
            help="The database: mp (the Materials Project), an OPTIMADE provider (oqmd, jarvis, aflow, alexandria, "
            "mc3d, ...), the URL of any OPTIMADE server, or a source of another package."
        ),
    ] = "mp",
    ids: Annotated[list[str] | None, typer.Option(help="Records by name, as mp-149.")] = None,
    formula: Annotated[list[str] | None, typer.Option(help="Reduced formula, as LiNiO2.")] = None,
    chemsys: Annotated[
        list[str] | None, typer.Option(help="Chemical system, as Li-Ni-O: all of these elements and no others.")
    ] = None,
    elements: Annotated[list[str] | None, typer.Option(help="Elements that are all contained, as Li,O.")] = None,
    exclude_elements: Annotated[list[str] | None, typer.Option(help="Elements that are not contained.")] = None,
    ranges: Annotated[
        list[str] | None,
        typer.Option(
            "--range", metavar="NAME=LOW:HIGH", help="Bounds of a property, as band_gap=1:3 or energy_above_hull=:0.05."
        ),
    ] = None,
    stable: Annotated[
        bool | None, typer.Option("--stable/--not-stable", help="On the convex hull, or off it.", show_default=False)
    ] = None,
    max_atoms: Annotated[int | None, typer.Option(help="Most atoms in a cell.")] = None,
    limit: Annotated[int | None, typer.Option(help="So many records at most.")] = None,
    fields: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Properties, by their names here, as K_VRH,G_VRH.  [default: {','.join(_FIELDS)}, as far "
            "as the database has them, and each --property]"
        ),
    ] = None,
    properties: Annotated[
        list[str] | None,
        typer.Option(
            "--property",
            metavar="NAME=FIELD:UNIT",
            help="Of an OPTIMADE server: what it calls a property, as band_gap=_prefix_gap:eV.",
        ),
    ] = None,
    thermo_type: Annotated[
        str | None,
        typer.Option(
            help="Of the Materials Project: functional and corrections of the energies; GGA_GGA+U, R2SCAN or "
            "GGA_GGA+U_R2SCAN.  [default: GGA_GGA+U]"
        ),
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help="Another address of the interface.", show_default=False)] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of the pages that are kept.  [default: ~/.cache/cgcnn-ase/reference]")
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Only from the cache: the newest complete answer to this query.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines: the provenance as JSON on stdout.")] = False,
) -> None:
    """Fetch computed crystals from a database into a folder that `cgcnn-ase train` reads.

    Several conditions must all hold; options that take a list may be given several times, or with commas. What came is
    kept on disk page by page: the same command goes on after an interruption. The Materials Project needs a key, in
    MP_API_KEY or in the configuration of ASE or pymatgen; it is never written anywhere.

    Exit code 0: all done; 1: some records could not be used (named on stderr and in refused.csv), the rest is written;
    2: nothing could be done.
    """
    with errors_as_usage():
        from cgcnn_ase.sources.client import Query
        from cgcnn_ase.sources.fetch import fetch as fetch_records
        from cgcnn_ase.sources.fetch import open_client

        query = Query(
            ids=_several(ids),
            formula=_several(formula),
            chemsys=_systems(chemsys),
            elements=_several(elements),
            exclude_elements=_several(exclude_elements),
            ranges=dict(_range(text) for text in ranges or ()),
            stable=stable,
            max_atoms=max_atoms,
            limit=limit,
        )
        extra = dict(_property(text) for text in properties or ())
        client = open_client(
            provider, query=query, url=endpoint, thermo_type=thermo_type, properties=extra,
            ask_key=_ask_key if _somebody_types() else None,
        )  # fmt: skip
        if not query.as_dict() and not offline:
            echo_stderr("no condition is given: this is the whole database")
        try:
            provenance = fetch_records(
                client,
                query,
                output,
                fields=_several(fields) or _default_fields(client, extra),
                cache=cache,
                offline=offline,
                overwrite=overwrite,
                progress=is_terminal(),
                say=echo_note,
            )
        except KeyboardInterrupt:
            echo_stderr("interrupted: what came is kept, the same command goes on")
            raise typer.Exit(130) from None
    if as_json:
        import json

        typer.echo(json.dumps(provenance.as_dict(), indent=1, ensure_ascii=False))
    echo_note(f"{provenance.n_records} structures in {output}: {provenance.provider}, {provenance.database_version}")
    echo_note(f"licence {provenance.licence}; what to cite is in {output / 'README.md'}")
    if provenance.n_refused:
        _name_refused(output / "refused.csv", provenance.n_refused)
        raise typer.Exit(1)


def _somebody_types() -> bool:
    return sys.stdin.isatty()


def _default_fields(client: "ReferenceClient", extra: Mapping[str, tuple[str, str]]) -> tuple[str, ...]:
    """The usual properties that the database has, and the user's own; all that it has if it has none of these."""
    return tuple(dict.fromkeys((*(name for name in _FIELDS if name in client.units), *extra))) or tuple(client.units)


def _ask_key() -> str:
    key: str = typer.prompt("Key of the Materials Project", hide_input=True, err=True)
    return key


def _several(values: Sequence[str] | None) -> tuple[str, ...]:
    """Each once of the values that are given several times, or with commas."""
    return tuple(dict.fromkeys(part.strip() for text in values or () for part in text.split(",")))


def _systems(values: Sequence[str] | None) -> tuple[str, ...]:
    """Chemical systems; ``Li,Ni,O`` could be one of three elements or three of one, and is asked about."""
    for text in values or ():
        parts = [part.strip() for part in text.split(",")]
        if len(parts) > 1 and not any("-" in part for part in parts):
            raise ValueError(
                f"--chemsys {text}: is it the system {'-'.join(parts)} (then write it so), or each element by itself "
                f"(then give {' '.join(f'--chemsys {part}' for part in parts)})?"
            )
    return _several(values)


def _range(text: str) -> "tuple[str, Bounds]":
    """``band_gap=1:3``, ``band_gap=1:``, ``band_gap=:3``."""
    name, equals, bounds = text.partition("=")
    low, colon, high = bounds.partition(":")
    try:
        if not equals or not colon:
            raise ValueError
        return name.strip(), (float(low) if low.strip() else None, float(high) if high.strip() else None)
    except ValueError:
        raise ValueError(f"--range {text}: give a property and its bounds, as band_gap=1:3 or band_gap=1:") from None


def _property(text: str) -> tuple[str, tuple[str, str]]:
    """``band_gap=_prefix_gap:eV``."""
    name, equals, described = text.partition("=")
    field, colon, unit = described.rpartition(":")
    if not (name.strip() and equals and field.strip() and colon):
        raise ValueError(
            f"--property {text}: give our name, the server's and its unit, as band_gap=_prefix_gap:eV, or :1 for none"
        )
    return name.strip(), (field.strip(), unit.strip())


def _name_refused(path: Path, n: int) -> None:
    import csv

    with path.open(newline="", encoding="utf-8") as lines:
        for k, row in enumerate(csv.DictReader(lines)):
            if k == _NAMED:
                echo_stderr(f"... and {n - _NAMED} more, see {path}")
                break
            echo_stderr(f"{row['id']}: {row['why']}")
    echo_stderr(f"{n} records could not be used")
