"""Options that have an effect only beside others: one that is given in vain is refused, not ignored."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, cast

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
