"""Write the card of a folder of pretrained models or of a potential, its README.md, from what was measured."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cgcnn_ase.core.elements import symbols
from cgcnn_ase.core.files import atomic_write
from cgcnn_ase.core.yaml_settings import current_names
from cgcnn_ase.models.checkpoint import load_folder
from cgcnn_ase.models.folder import (
    CARD,
    WEIGHTS,
    Json,
    model_entries,
    read_config,
    read_weights,
    stated_scale,
    write_files,
)

# the file that holds the ids of the training set, one a line
TRAINING_IDS = "training-ids.txt.gz"


@cache
def _texts() -> dict[str, Any]:
    """Sources, limits and scope by data set, and the templates."""
    texts: dict[str, Any] = yaml.safe_load(
        files("cgcnn_ase.zoo").joinpath("card_texts.yaml").read_text(encoding="utf-8")
    )
    return texts


def data_sources() -> list[str]:
    """Names of the data sets whose source a card can state."""
    return list(_texts()["sources"])


def write_card(folder: Path, *, data: str = "") -> Path:
    """Write ``README.md`` of a model folder from its ``config.json``, and return it.

    ``data`` names the data set, one of :func:`data_sources`. A `ValueError` says that the training left no figures of a
    calibrated model on a test split.
    """
    config = read_config(folder)
    entries = model_entries(config)
    recipe, n = current_names(entries[0]["training"]["recipe"]), config["n_members"]
    hashes = {entry["training"]["train_hash"] for entry in entries}
    texts = _texts()
    card = texts["card"].format(
        name=config["name"],
        members="One network" if n == 1 else f"{n} networks together",
        what="each site of a crystal" if entries[0]["target"].get("level") == "site" else "a crystal",
        properties=_listed([_property(entry) for entry in entries]),
        sections="\n".join(_section(entry, folder) for entry in entries),
        n_members=n,
        seeds=f"{recipe['seed']} to {recipe['seed'] + n - 1}",
        source=texts["sources"].get(data, "not recorded."),
        hashes="\n".join(f"sha256 of the ids and targets of the training split: `{value}`" for value in sorted(hashes)),
        ids=TRAINING_IDS,
        chosen="the last epoch counts"
        if recipe.get("checkpoint") == "last"
        else "the validation split chose the epoch",
        tested=texts["test_use"].get(data, texts["test_use"]["default"]),
        weights_hash=config["sha256"][WEIGHTS],
        limits=texts["limits"].get(data, ""),
        knows=texts["scope"].get(data, texts["scope"]["default"]),
        recipe=yaml.safe_dump(recipe, sort_keys=False),
    )
    file = folder / "README.md"
    file.write_text(card, encoding="utf-8")
    return file


def _section(entry: dict[str, Any], folder: Path) -> str:
    """Figures of one model."""
    training, target = entry["training"], entry["target"]
    test = {key: math.nan if value is None else value for key, value in training.get("test", {}).items()}
    if "coverage" not in test:
        raise ValueError(f"{folder}: no calibrated test figures of {entry['name']} to write a card from")
    unit, is_log = target["unit"], target.get("transform") == "log10"
    learned = f" in {unit}, learned as its logarithm" if is_log else f" in {unit}".replace(" in 1", "")
    if "scale" in training:
        learned += f", on the scale `{training['scale']}`"
    section: str = _texts()[target["task"]].format(
        **{key: training[key] for key in ("n_train", "n_val", "n_test")},
        **test,
        mean_squared_z_row=_mean_squared_z_row(test),
        name=entry["name"],
        property=_property(entry).capitalize(),
        samples="sites" if target.get("level") == "site" else "crystals",
        n_classes=target.get("n_classes"),
        learned=learned,
        learned_unit=f"log10({unit})" if is_log else unit.replace("1", ""),
    )
    beside = _texts()["beside"].format(**training["beside"]) if "beside" in training else ""
    return section + beside + _off_equilibrium(entry.get("trust") or {})


def _off_equilibrium(calibration: dict[str, Any]) -> str:
    """Return what the calibration of a regression knows of distorted and of hypothetical crystals."""
    text = ""
    if geometric := calibration.get("geometric"):
        text += _texts()["geometric"].format(**geometric)
    if hypothetical := calibration.get("hypothetical"):
        low, high = hypothetical["above_hull"]
        text += _texts()["hypothetical"].format(**hypothetical, low=low, high=high)
    return text


def _mean_squared_z_row(test: dict[str, Any]) -> str:
    """Row of the table; empty of a model that was measured before this figure was."""
    if "mean_squared_z" not in test:
        return ""
    low, high = test["mean_squared_z_low"], test["mean_squared_z_high"]
    value = f"{test['mean_squared_z']:.2f} ({low:.2f} to {high:.2f})"
    return f"| mean squared z-score, 1 if calibrated (95 % interval) | {value} |\n"


def _property(entry: dict[str, Any]) -> str:
    name: str = entry["target"]["name"]
    return name.removesuffix("_per_atom").replace("_", " ")


def _listed(names: list[str]) -> str:
    return f"the {names[0]}" if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


@dataclass(frozen=True, kw_only=True)
class CardTexts:
    """Texts of a card."""

    title: str
    about: str  # of the frames and the domain
    frames: str  # of the splits
    truth: str  # of the labels that the figures of the training are against
    tells_elements: bool = False  # whether it lists the elements of the frames to learn


def add_to_record(folder: Path, facts: Json) -> None:
    """Add to what ``config.json`` says of the training."""
    config = read_config(folder)
    weights = read_weights(folder, config)
    config["training"] |= facts
    write_files(folder, config, weights)


def add_figures(folder: Path, files: Sequence[Path]) -> None:
    """Put the tables of ``benchmarks/potential.py --only dft --output FILE`` into ``config.json``, by split.

    A ValueError if they are of other weights.
    """
    config = read_config(folder)
    figures: dict[str, Json] = dict(config["training"].get("against_dft", {}))
    for file in files:
        measured = json.loads(file.read_text(encoding="utf-8"))
        tables = {title: each for title, each in measured["tables"].items() if title.startswith("DFT frames")}
        notes = [note for each in tables.values() for note in each["notes"]]
        if f"weights {config['sha256'][WEIGHTS]}" not in notes:
            raise ValueError(f"{file}: not measured with the weights of {folder}; measure again")
        errors, uncertainty = (each["rows"] for each in tables.values())
        figures[measured["settings"]["split"]] = {"errors": errors, "uncertainty": uncertainty, "notes": notes}
    add_to_record(folder, {"against_dft": figures})


def write_potential_card(folder: Path, texts: CardTexts) -> Path:
    """Write ``README.md`` of a potential from its ``config.json``, and return it."""
    config = read_config(folder)
    training = config["training"]
    network = config["network"]["architecture"]
    counts = ", ".join(f"{training[f'n_{split}']:,} {split}" for split in ("train", "val", "test"))
    lines = [
        f"# {config['name']}",
        "",
        texts.title,
        "",
        f"{texts.about}",
        "",
        *(_elements(folder) if texts.tells_elements else []),
        f"Scale of the energies: `{stated_scale(training, is_potential=True)}`.",
        "",
        f"Frames: {counts}; {texts.frames}. One training, seed "
        f"{training['recipe']['seed']}; {network['n_convolutions']} convolutions of {network['n_features']} features "
        f"and {network['n_channels']} channels, harmonics to degree {network['n_degrees']}, cutoff "
        f"{network['cutoff']:g} Å, {config['network']['n_heads']} heads.",
        "",
        f"| {texts.truth} | val | test |",
        "|---|---|---|",
        *(_row(words, key, training) for words, key in _FIGURES),
        "",
        *_against_dft(config["name"], training.get("against_dft", {})),
        f"sha256 of the ids and energies of the training split: `{training['train_hash']}`, of the weights: "
        f"`{config['sha256'][WEIGHTS]}`.",
        "",
        "The test split was looked at once, after the training. `config.json` holds the settings.",
    ]
    file = folder / CARD
    atomic_write(file, "\n".join(lines) + "\n")
    return file


def _elements(folder: Path) -> list[str]:
    """Return the elements of the frames to learn, in words."""
    calibration = load_folder(folder).calibration
    if calibration is None:
        return []
    known = sorted(calibration.domain.elements)
    return [f"Elements that it has learned ({len(known)}): {', '.join(symbols()[z] for z in known)}.", ""]


_FIGURES = (
    ("energy, mean absolute error, eV/atom", "mae"),
    ("forces, mean absolute error of a component, eV/Å", "forces_mae"),
    ("stress, mean absolute error of a component, GPa", "stress_mae"),
    ("coverage of the 90 % interval of the energy", "coverage"),
    ("Spearman correlation of the std of the energy and its error", "energy_spearman"),
    ("Spearman correlation of the std of a force and its error", "forces_spearman"),
    ("share in domain", "in_domain"),
)


def _row(words: str, key: str, training: dict[str, Any]) -> str:
    cells = [
        "–" if (value := training.get(split, {}).get(key)) is None else f"{value:.4f}" for split in ("val", "test")
    ]
    return f"| {words} | {' | '.join(cells)} |"


# columns of the benchmark's tables, and what the card calls them
_ENERGY, _FORCES = "energy, meV/atom", "forces, eV/Å"
_WORTH = (
    ("90 % interval holds", "90 % interval holds"),
    ("out of domain", "out of domain"),
    ("Spearman, energy", "std of the energy and its error, Spearman"),
    ("Spearman, forces", "std of a force and its error, Spearman"),
)


def _against_dft(name: str, figures: dict[str, Json]) -> list[str]:
    """Tables of a potential and its peers on DFT frames, and where these are better, in words."""
    lines: list[str] = []
    for split in sorted(figures, reverse=True):  # val, test
        rows = figures[split]["errors"]
        potentials, sets = (list(dict.fromkeys(row[key] for row in rows)) for key in ("potential", "set"))
        at = {(row["set"], row["potential"]): row for row in rows}
        lines += [
            f"DFT frames of the {split} split: mean absolute errors of the energy per atom, after one offset for each "
            "element fitted on val (eV/Å: of a component of a force). The frames of mptrj are among those that CHGNet "
            "and SevenNet-0 were trained on.",
            "",
            "| set | frames | "
            + " | ".join([f"{each}, meV/atom" for each in potentials] + [f"{each}, eV/Å" for each in potentials])
            + " |",
            "|---" * (2 + 2 * len(potentials)) + "|",
        ]
        for kind in sets:
            cells = [_cell(at[kind, each][_ENERGY], ".1f") for each in potentials]
            cells += [_cell(at[kind, each][_FORCES], ".3f") for each in potentials]
            lines.append(f"| {kind} | {at[kind, potentials[0]]['frames']} | {' | '.join(cells)} |")
        lines += ["", *(_better(name, peer, sets, at) for peer in potentials if peer != name), ""]
        lines += [f"| set ({split}) | {' | '.join(words for _, words in _WORTH)} |", "|---" * (1 + len(_WORTH)) + "|"]
        for row in figures[split]["uncertainty"]:
            lines.append(f"| {row['set']} | {' | '.join(_cell(row[key], '.2f') for key, _ in _WORTH)} |")
        lines.append("")
    return lines


def _better(name: str, peer: str, sets: Sequence[str], at: dict[tuple[str, str], Json]) -> str:
    """Say where a peer has the smaller errors."""
    kinds = [each for each in sets if each != "all"]
    where = []
    for what, key in (("energies", _ENERGY), ("forces", _FORCES)):
        those = [each for each in kinds if (at[each, peer][key] or np.inf) < (at[each, name][key] or np.inf)]
        if those:
            where.append(f"in the {what} of {'all sets' if those == kinds else ', '.join(those)}")
    failed = sum(at[each, peer]["failed"] for each in kinds)
    return f"{peer} is better {' and '.join(where) or 'nowhere'}" + (
        f"; it fails on {failed} frames." if failed else "."
    )


def _cell(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"
