"""Options that more than one command has."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from ase import Atoms

    from cgcnn_ase.structures.ordering import OrderingOptions


def one_structure(
    path: str, structure_id: str | None, *, order_disordered: "bool | OrderingOptions" = False
) -> "tuple[str, Atoms]":
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
#: a row of integers for each vector of the supercell
Matrix = tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]]


def repeats(text: str | None) -> Repeats:
    """``3`` or ``5x2x1``, also with commas or spaces; None as it is."""
    if text is None:
        return None
    numbers = _whole_numbers(text)
    if len(numbers) not in (1, 3) or any(number < 0 for number in numbers):
        raise ValueError(f"--supercell {text}: give one whole number, or three as in 5x2x1")
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1], numbers[2])


def repeats_or_matrix(text: str | None) -> Repeats | Matrix:
    """As :func:`repeats`, or nine numbers, the rows of a matrix."""
    numbers = [] if text is None else _whole_numbers(text)
    if text is None or len(numbers) in (1, 3):
        return repeats(text)
    if len(numbers) != 9:
        raise ValueError(
            f"--supercell {text}: give one, three or nine whole numbers, as in 3, 3x3x1 or (rows of a matrix) "
            "'2 1 0 -1 2 0 0 0 1'"
        )
    a, b, c, d, e, f, g, h, i = numbers
    return (a, b, c), (d, e, f), (g, h, i)


def _whole_numbers(text: str) -> list[int]:
    """Split ``3x3x1``, ``3,3,1`` or ``3 3 1``; empty where a part is no whole number."""
    parts = text.lower().replace(",", " ").replace("x", " ").split()
    try:
        return [int(part) for part in parts]
    except ValueError:
        return []


def chemical_potentials(items: Sequence[str] | None, *, element: str | None = None) -> dict[str, float] | None:
    """``O=-5.2`` and the like as energies (eV/atom) by element; a bare number is that of ``element``."""
    from cgcnn_ase.core.elements import symbols

    result: dict[str, float] = {}
    for text in items or ():
        name, equals, value = text.partition("=")
        if not equals and element is not None:
            name, value = element, text
        if name.strip() in result:
            raise ValueError(f"--mu {text}: the energy of {name.strip()} is given twice; give one")
        try:
            result[name.strip()] = float(value)
        except ValueError as error:
            raise ValueError(f"--mu {text}: give an element and its energy in eV/atom, as O=-5.2") from error
        if name.strip() not in symbols()[1:]:
            raise ValueError(f"--mu {text}: {name!r} is no element")
    return result or None


def check_picture(option: str, path: Path | None) -> None:
    """See that a picture can be written under this name: a ValueError says what is allowed."""
    if path is None:
        return
    if path.suffix.lower() not in PICTURES:
        raise ValueError(f"{option} {path}: allowed are names that end in .png, .pdf or .svg")
    if not path.parent.is_dir():
        raise ValueError(f"{option} {path}: the folder {path.parent} does not exist")


def complete_model(incomplete: str) -> list[str]:
    """Names of pretrained models for the shell's completion."""
    from cgcnn_ase.models.registry import model_names

    return [name for name in model_names() if name.startswith(incomplete)]


PICTURES = (".png", ".pdf", ".svg")


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
Paths = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH...",
        help="Structure files, folders, globs, or - for a list of paths on stdin.",
        show_default=False,
    ),
]
Population = Annotated[
    Literal["known", "hypothetical"],
    typer.Option(
        help="Whose errors the interval is made for: crystals known to a database, mostly stable and relaxed, or "
        "hypothetical ones, generated, substituted or searched."
    ),
]
Elements = Annotated[
    list[str] | None,
    typer.Option(help="Element whose sites are taken; all by default. May be given several times."),
]
Dopants = Annotated[
    list[str] | None,
    typer.Option(help="Element to put in, on sites or between them. May be given several times."),
]
Supercell = Annotated[
    str | None,
    typer.Option(help="3x3x1, or 3 along all vectors, or nine numbers in quotes: rows of a matrix."),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Write over an earlier run in OUTPUT; without it, one is refused.")
]
# the next two are of --relax
RelaxFmax = Annotated[float, typer.Option("--fmax", help="Of --relax: largest force that may remain, eV/Å.")]
RelaxSteps = Annotated[int, typer.Option("--steps", help="Of --relax: most steps of a structure.")]
MinDistance = Annotated[float, typer.Option(help="Å between a defect and its image, where no supercell is given.")]
OrderDisordered = Annotated[
    bool, typer.Option("--order-disordered", help="An ordered supercell where sites are partially occupied.")
]
# each of these asks for --order-disordered, too
OrderingName = Annotated[
    str | None,
    typer.Option(
        "--ordering",
        help="Of partially occupied sites: ewald (lowest electrostatic energy), random, sqs, or lowest (in energy).  "
        "[default: ewald]",
    ),
]
OrderingAtoms = Annotated[
    int | None, typer.Option("--ordering-atoms", help="About so many atoms in an ordered supercell.  [default: 120]")
]
OrderingTime = Annotated[
    float | None,
    typer.Option("--ordering-time", help="Seconds for an ordering; then the best is taken.  [default: 20]"),
]
OrderingSeed = Annotated[int | None, typer.Option("--ordering-seed", help="Same seed, same ordering.  [default: 42]")]
OrderingNum = Annotated[
    int | None, typer.Option("--ordering-num", help="So many different orderings of each.  [default: 1]")
]
OrderingModel = Annotated[
    str | None,
    typer.Option("--ordering-model", help="What gives the energies for lowest.  [default: formation-energy-per-atom]"),
]


def ordering_options(
    order_disordered: bool,
    *,
    ordering: str | None = None,
    atoms: int | None = None,
    time: float | None = None,
    seed: int | None = None,
    num: int | None = None,
    model: str | None = None,
) -> "bool | OrderingOptions":
    """How to order what is disordered, False where nothing asks for it."""
    asked = {"method": ordering, "n_atoms": atoms, "time_limit": time, "seed": seed, "num": num}
    options = {name: value for name, value in asked.items() if value is not None}
    if not options and model is None:
        return order_disordered
    from cgcnn_ase.structures.ordering import OrderingOptions

    energies = None
    if ordering == "lowest":
        from cgcnn_ase.energies.energy_model import ModelEnergies

        energies = ModelEnergies(model or "formation-energy-per-atom")
    elif model is not None:
        raise ValueError(f"--ordering-model {model}: it is for --ordering lowest")
    return OrderingOptions(**options, energies=energies)  # type: ignore[arg-type]
