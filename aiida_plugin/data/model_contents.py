"""The files of a model, and what they say of it. Nothing here needs torch, but for an original ``.pth.tar``."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cgcnn_ase.models.folder import CONFIG, WEIGHTS, model_entries, read_config, read_weights
from cgcnn_ase.models.registry import find_models

#: what a model folder may hold besides; neighbors.safetensors are the nearest training structures, for explanations
BESIDES = ("README.md", "training-ids.txt.gz", "neighbors.safetensors")


def model_path(name: str | Path) -> Path:
    """The folder or file of a model.

    Parameters
    ----------
    name
        Pretrained name, model or run folder, or an original ``.pth.tar`` file. The name of one of several models that
        share a folder stands for the folder.

    Raises
    ------
    UnknownModelError, CheckpointError
        If there is none, or its files are damaged.
    ValueError
        If these are models of several folders (``all``).
    """
    paths = list(dict.fromkeys(ref.path for ref in find_models(name)))
    if len(paths) > 1:
        raise ValueError(
            f"{name}: these are the models of {len(paths)} folders; a node holds one: take them one by one"
        )
    return paths[0]


def read_contents(path: Path) -> dict[str, bytes]:
    """The files of a model by name, if they are whole.

    Raises
    ------
    CheckpointError
        If a file is missing or damaged.
    """
    if not path.is_dir():
        return {path.name: path.read_bytes()}
    config = read_config(path)
    contents = {WEIGHTS: read_weights(path, config), CONFIG: (path / CONFIG).read_bytes()}
    return contents | {name: (path / name).read_bytes() for name in BESIDES if (path / name).is_file()}


def describe(path: Path) -> dict[str, Any]:
    """What a model's files say of it: lists hold one item for each model of the folder, in the same order."""
    return _of_folder(read_config(path)) if path.is_dir() else _of_original(path)


def hash_of_files(files: Mapping[str, str]) -> str:
    """One sha256 of the names of some files and their sha256: two models with the same have the same files."""
    return hashlib.sha256("".join(f"{sha}  {name}\n" for name, sha in sorted(files.items())).encode()).hexdigest()


def _of_folder(config: dict[str, Any]) -> dict[str, Any]:
    entries = model_entries(config)
    targets = [entry["target"] for entry in entries]
    return {
        "name": config["name"],
        "names": [entry["name"] for entry in entries],
        "targets": [target["name"] for target in targets],
        "units": [target["unit"] for target in targets],
        "tasks": [target["task"] for target in targets],
        "levels": [target.get("level", "crystal") for target in targets],
        "train_hashes": [entry["training"].get("train_hash") for entry in entries],
        "architecture": config["network"]["architecture"].get("architecture", "cgcnn"),
        "n_members": config["n_members"],
        "package_version": config["package_version"],
        "sha256": config["sha256"][WEIGHTS],
    }


def _of_original(path: Path) -> dict[str, Any]:
    """Of a ``.pth.tar``, which does not say what it was trained on nor with which version."""
    from cgcnn_ase.models.registry import load_model

    model = load_model(path)
    return {
        "name": model.name,
        "names": [model.name],
        "targets": [model.target.name],
        "units": [model.target.unit],
        "tasks": [model.target.task],
        "levels": [model.target.level],
        "train_hashes": [None],
        "architecture": "cgcnn",
        "n_members": 1,
        "package_version": None,
        "sha256": model.sha256,
    }
