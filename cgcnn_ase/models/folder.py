"""The files of a model folder, and whether they are whole. Nothing here needs torch."""

import hashlib
import json
from pathlib import Path
from typing import Any, TypeAlias

from cgcnn_ase.core.environment import package_version

# 1: one model a folder; 2: several models that share their members, too; 3: calibrated on a user's labels, too, or one
# of the targets of its networks alone. Each folder is written in the oldest format that holds what is in it
FORMAT_VERSION = 3
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"

# an object of a JSON file
Json: TypeAlias = dict[str, Any]


class CheckpointError(ValueError):
    """A model that cannot be loaded; the message names the file and what is wrong with it."""


def write_files(folder: Path, config: Json, weights: bytes) -> None:
    """Write both files; the configuration gets the sha256 of the weights and of itself."""
    config = config | {"sha256": {WEIGHTS: hashlib.sha256(weights).hexdigest()}}
    config["sha256"][CONFIG] = own_hash(config)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_bytes(weights)
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def read_config(folder: Path) -> Json:
    """The checked ``config.json`` of a model folder; no weights are read.

    :class:`CheckpointError` if it is missing, damaged or of a newer format.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: no {name} in this model folder; it needs {WEIGHTS} and {CONFIG}")
    try:
        config = json.loads(_read(folder / CONFIG))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{folder / CONFIG}: damaged: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("format_version"), int):
        raise CheckpointError(f"{folder / CONFIG}: not a model's configuration: it has no format_version")
    if config["format_version"] > FORMAT_VERSION:
        raise CheckpointError(
            f"{folder}: format_version {config['format_version']} is newer than {FORMAT_VERSION}, the newest that "
            f"cgcnn-ase {package_version()} reads; upgrade cgcnn-ase"
        )
    stated = config.get("sha256", {}).get(CONFIG) if isinstance(config.get("sha256"), dict) else None
    if stated != own_hash(config):
        raise CheckpointError(f"{folder / CONFIG}: damaged: its content does not fit the sha256 in it")
    return config


def model_entries(config: Json) -> list[Json]:
    """Return the part of ``config.json`` of each model of the folder: name, target, scaler, calibration, training."""
    entries: list[Json] = config.get("models", [config])
    return entries


def model_entry(config: Json, name: str | None) -> Json:
    """Return the part of a folder's ``config.json`` that is one model's."""
    return next(entry for entry in model_entries(config) if entry["name"] == name)


def stated_scale(training: Json, *, is_potential: bool) -> str | None:
    """Return the scale of energies that the record of a training states; potentials of before are uncorrected."""
    return training.get("scale") or ("uncorrected" if is_potential else None)


def read_weights(folder: Path, config: Json) -> bytes:
    """The weights' file of a model folder; :class:`CheckpointError` if ``config.json`` speaks of another."""
    weights = _read(folder / WEIGHTS)
    computed, stated = hashlib.sha256(weights).hexdigest(), config["sha256"][WEIGHTS]
    if computed != stated:
        raise CheckpointError(
            f"{folder / WEIGHTS}: damaged: its sha256 is {computed[:12]}..., {CONFIG} says {stated[:12]}..."
        )
    return weights


def own_hash(config: Json) -> str:
    """sha256 of a configuration without this hash itself."""
    hashes = (
        {k: v for k, v in config["sha256"].items() if k != CONFIG} if isinstance(config.get("sha256"), dict) else {}
    )
    return hashlib.sha256(json.dumps(config | {"sha256": hashes}, sort_keys=True).encode()).hexdigest()


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from error
