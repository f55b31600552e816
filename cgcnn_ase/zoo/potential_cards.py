"""The card of a pretrained potential, its README.md, from what was measured in training, and against DFT."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cgcnn_ase.core.elements import symbols
from cgcnn_ase.core.files import atomic_write
from cgcnn_ase.models.checkpoint import load_folder
from cgcnn_ase.models.folder import CARD, WEIGHTS, Json, read_config, read_weights, stated_scale, write_files


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
