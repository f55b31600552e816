"""Write the card of a folder of pretrained models, its README.md, from what was measured."""

import math
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from cgcnn_ase.core.yaml_settings import current_names
from cgcnn_ase.models.folder import WEIGHTS, model_entries, read_config

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
