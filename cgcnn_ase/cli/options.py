"""Options that more than one command has, and rules for those that have an effect only beside others."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, cast

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


Values = Mapping[str, object]  # of all parameters of a command, by their names in Python


class Rule(NamedTuple):
    """When an option has an effect."""

    applies: Callable[[Values], bool]
    belongs_to: str  # the options that it needs, in words


def _given(name: str) -> Callable[[Values], bool]:
    return lambda values: values[name] not in (None, False, (), [])


def _kinds(values: Values) -> set[str]:
    """Kinds of defects that are asked for, those inside complexes too; ``all`` stands for those of one place."""
    kinds = set(cast("list[str] | None", values["kind"]) or ["vacancy"])
    inside = set(cast("list[str] | None", values.get("complex_of")) or ["vacancy"]) if "complex" in kinds else set()
    single = {"vacancy", "antisite", "substitution", "interstitial"} if "all" in kinds else set()
    return kinds | inside | single


def _makes(*kinds: str) -> Callable[[Values], bool]:
    return lambda values: bool(_kinds(values) & set(kinds))


def _is_path(values: Values) -> bool:
    host = str(values["host"])
    return Path(host).exists() or "/" in host or host.lower().endswith((".cif", ".vasp", "xyz", ".json"))


def _classifies(values: Values) -> bool:
    targets = cast("list[str] | None", values["target"]) or []
    return values["task"] == "multi" or any(name.endswith(":classification") for name in targets)


def _names_asked(values: Values) -> set[str]:
    """Properties that a fetch asks for or restricts, by name; empty where it takes what there is."""
    fields = [name for text in cast("list[str] | None", values["fields"]) or [] for name in text.split(",")]
    ranges = [text.partition("=")[0] for text in cast("list[str] | None", values["ranges"]) or []]
    return {name.strip() for name in (*fields, *ranges)} if fields else set()


def _all_described_are_asked(values: Values) -> bool:
    described = {text.partition("=")[0].strip() for text in cast("list[str]", values["properties"])}
    asked = _names_asked(values)
    return not asked or described <= asked


def _without(name: str) -> Callable[[Values], bool]:
    return lambda values: values[name] is None


_NEW_RUN = Rule(lambda values: not values["resume"], "a new run, not --resume")
_WITH_OUTPUT = Rule(lambda values: values["output"] is not None, "--output")
_REGRESSIONS = Rule(lambda values: values["task"] != "classification", "regressions")
_NOT_FOLDS = Rule(_without("k_fold"), "a single run, not --k-fold, which divides all of the data")
_CATHODE = Rule(lambda values: not _is_path(values), "a cathode by name")
_FILE = Rule(_is_path, "a structure file or folder")
_DOPED = Rule(_makes("substitution", "interstitial"), "--kind substitution or interstitial")
_INTERSTITIAL = Rule(_makes("interstitial"), "--kind interstitial")
_MIXING = Rule(_makes("cation-mixing"), "--kind cation-mixing")
_COMPLEX = Rule(_makes("complex"), "--kind complex")
_NO_SUPERCELL = Rule(_without("supercell"), "a supercell that is not given by --supercell")
_RELAX = Rule(_given("relax"), "--relax")
_LOWEST = Rule(
    lambda values: "lowest" in (values["ordering"], values["li_removal"]), "--ordering or --li-removal lowest"
)

#: rules of each command by the Python names of its options
RULES: Mapping[str, Mapping[str, Rule]] = {
    "defects": {
        "n_vacancies": Rule(_given("num"), "--num"),
        "seed": Rule(lambda values: _given("num")(values) or _given("distort")(values), "--num or --distort"),
        "pair": _MIXING,
        "pair_range": _MIXING,
        "complex_of": _COMPLEX,
        "size": _COMPLEX,
        "cutoff": Rule(_makes("cation-mixing", "complex"), "--kind cation-mixing or complex"),
        "interstitials": _INTERSTITIAL,
        "min_radius": _INTERSTITIAL,
        "bond_distortion": Rule(_given("distort"), "--distort"),
        "dopant": Rule(_makes("substitution", "interstitial"), "--kind substitution, interstitial or all"),
        "diagonal": _NO_SUPERCELL,
        "min_distance": _NO_SUPERCELL,
    },
    "screen": {
        **dict.fromkeys(("num", "n_atoms", "li_vacancy", "seed"), _CATHODE),
        **dict.fromkeys(
            ("order_disordered", "ordering", "ordering_atoms", "ordering_time", "ordering_seed", "ordering_num",
             "ordering_model"),
            _FILE,
        ),
        "dopant": _DOPED,
        "fmax": _RELAX,
        "steps": _RELAX,
        "min_distance": Rule(
            lambda values: _is_path(values) and values["supercell"] is None,
            "a host from a file, and a supercell that is not given by --supercell",
        ),
    },
    "fetch": {
        "properties": Rule(_all_described_are_asked, "a property that --fields or --range names"),
        "endpoint": Rule(lambda values: "://" not in str(values["provider"]), "a --provider by name, not by its URL"),
    },
    "voltage": {"fmax": _RELAX, "steps": _RELAX, "fixed_cell": _RELAX},
    "predict": {"seed": Rule(_given("n_dropout"), "--n-dropout")},
    "relax": {"resume": _WITH_OUTPUT},
    "inspect": {
        "overwrite": _WITH_OUTPUT,
        "workers": Rule(
            lambda values: bool(values["duplicates"] or values["model"] or values["other"]),
            "--duplicates, --model or --with",
        ),
    },
    "train": {
        "freeze": Rule(lambda values: values["start"] is not None or values["freeze"] == "none", "--from MODEL"),
        "epochs_factor": Rule(
            lambda values: values["start"] is not None or values["epochs_factor"] == 1.0, "--from MODEL"
        ),
        "cls_weight": Rule(
            lambda values: _classifies(values) or _given("config")(values),
            "--task multi, or a --target NAME:classification beside others",
        ),
        "name": Rule(_without("k_fold"), "a single run, not --k-fold"),
        "unit": _REGRESSIONS,
        "val": _NOT_FOLDS,
        "test": _NOT_FOLDS,
        "overwrite": _NEW_RUN,
    },
    "finetune": {"unit": _REGRESSIONS, "overwrite": _NEW_RUN},
    "optimize": {"overwrite": _NEW_RUN},
    "evaluate": {"overwrite": _WITH_OUTPUT},
    "prepare": {"unit": _REGRESSIONS},
    "cathode": {
        "n_atoms": Rule(_without("supercell"), "a size that is not given by --supercell"),
        "li_removal": Rule(_given("li_vacancy"), "--li-vacancy"),
        "model": _LOWEST,
        "n_candidates": _LOWEST,
    },
}  # fmt: skip


def in_vain(command: str, values: Values, typed: Mapping[str, str]) -> str | None:
    """Name the first option that was given and has no effect beside the others; None if all have.

    Parameters
    ----------
    values
        Of all parameters.
    typed
        How the options that the user gave are written, by their names in Python.
    """
    for name, rule in RULES.get(command, {}).items():
        if name in typed and not rule.applies(values):
            return f"{typed[name]} has no effect here: it belongs to {rule.belongs_to}"
    return None
