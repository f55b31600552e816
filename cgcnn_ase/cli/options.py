"""Options that more than one command has."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ase import Atoms


def one_structure(path: str, structure_id: str | None, *, order_disordered: bool = False) -> "tuple[str, Atoms]":
    """The one structure that a path names, or of several that with the id ``structure_id``, and its id."""
    from cgcnn_ase.structures import collect_paths, iter_file

    files = collect_paths(path)
    if len(files) != 1:
        raise ValueError(f"{path}: takes one structure at a time, there are {len(files)} files")
    records = list(iter_file(files[0], order_disordered=order_disordered))
    ids = [record.id for record in records]
    few = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
    if structure_id is None and len(records) != 1:
        raise ValueError(f"{path}: holds {len(ids)} structures; name one with --structure ({few})")
    if structure_id is not None and structure_id not in ids:
        raise ValueError(f"{path}: no structure {structure_id!r}; allowed: {few}")
    record = records[0 if structure_id is None else ids.index(structure_id)]
    return record.id, record.unwrap()


#: along all three vectors, along each, or not said
Repeats = int | tuple[int, int, int] | None


def repeats(text: str | None) -> Repeats:
    """``3`` or ``5x2x1``, also with commas or spaces; None as it is."""
    if text is None:
        return None
    joined = text.lower().replace(",", "x")
    parts = joined.split("x") if "x" in joined else joined.split()
    if len(parts) not in (1, 3) or not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"--supercell {text}: give one whole number, or three as in 5x2x1")
    numbers = [int(part) for part in parts]
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1], numbers[2])


#: here in words, as help text must not import the networks
PRESET_NAMES = "cgcnn-2018, cgcnn-2018-eq4, cgnn, cgcnn-defects-max, alignn or alignn-small"
Targets = Annotated[
    list[str] | None,
    typer.Option(help="Column to learn, where there are several; may be given several times. NAME:classification."),
]
Task = Annotated[str, typer.Option(help="regression, classification, or multi: the last column has classes.")]
Unit = Annotated[str, typer.Option(help="Unit of the target.")]
Val = Annotated[
    float | None, typer.Option(help="Part for validation, where the data set has no split.  [default: 0.1]")
]
Test = Annotated[float | None, typer.Option(help="Part for the test, where the data set has no split.  [default: 0.1]")]
Fidelity = Annotated[
    str | None,
    typer.Option(help="Whose values of vacancy-formation-energy: witman, kumagai, jarvis or chgnet."),
]
Elements = Annotated[
    list[str] | None,
    typer.Option(help="Element whose sites are taken; all by default. May be given several times."),
]
Dopants = Annotated[
    list[str] | None,
    typer.Option(help="Element to put in, on sites or between them. May be given several times."),
]
MinDistance = Annotated[float, typer.Option(help="Å between a defect and its image, where no supercell is given.")]
OrderDisordered = Annotated[
    bool, typer.Option("--order-disordered", help="One ordered supercell where sites are partially occupied.")
]
