"""Save and load models: ``model.safetensors`` and ``config.json`` in a folder. Loading one executes nothing."""

import hashlib
import json
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.nn.model import CrystalModel
from cgcnn_ase.nn.network import Network, NetworkConfig
from cgcnn_ase.targets import Scaler, TargetSpec

FORMAT_VERSION = 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"
_TRUST = "trust."


class CheckpointError(ValueError):
    """A model that cannot be loaded; the message names the file and what is wrong with it."""


def package_version() -> str:
    """Version of the installed package, ``unknown`` in a bare checkout."""
    try:
        return version("cgcnn-ase")
    except PackageNotFoundError:
        return "unknown"


def save_model(model: CrystalModel, folder: Path) -> Path:
    """Write a model's weights, settings and calibration into a folder, and return it.

    ``config.json`` holds the sha256 of the weights and of itself, so that a damaged file is found on loading.
    """
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in model.members.state_dict().items()}
    if model.trust is not None:
        tensors |= {_TRUST + name: torch.from_numpy(array) for name, array in model.trust.arrays().items()}
    weights = save(tensors)
    config: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "package_version": package_version(),
        "name": model.name or folder.name,
        "n_members": len(model.members),
        "network": asdict(model.networks[0].config),
        "graph": asdict(model.graph),
        "target": asdict(model.target),
        "scaler": asdict(model.scaler),
        "trust": None if model.trust is None else model.trust.to_config(),
        "training": model.training_record,
        "sha256": {WEIGHTS: hashlib.sha256(weights).hexdigest()},
    }
    config["sha256"][CONFIG] = _own_hash(config)
    (folder / WEIGHTS).write_bytes(weights)
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return folder


def load_folder(folder: Path) -> CrystalModel:
    """Load a model folder.

    Raises
    ------
    CheckpointError
        If a file is missing, damaged, of a newer format, or not a model's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    config = read_config(folder)
    weights = _read(folder / WEIGHTS)
    sha256 = hashlib.sha256(weights).hexdigest()
    if sha256 != config["sha256"][WEIGHTS]:
        raise CheckpointError(
            f"{folder / WEIGHTS}: damaged: its sha256 is {sha256[:12]}..., "
            f"{CONFIG} says {config['sha256'][WEIGHTS][:12]}..."
        )
    try:
        tensors = load(weights)
        network = TypeAdapter(NetworkConfig).validate_python(config["network"])
        with torch.random.fork_rng(devices=[]):  # the initial weights are drawn; the caller's random state stays
            members = [Network(network) for _ in range(config["n_members"])]
        model = CrystalModel(
            members,
            graph=TypeAdapter(GraphConfig).validate_python(config["graph"]),
            target=TypeAdapter(TargetSpec).validate_python(config["target"]),
            scaler=Scaler(config["scaler"]["mean"], config["scaler"]["std"]),
            trust=_trust(config, tensors),
            name=config["name"],
            sha256=sha256,
            training=config["training"],
        )
        model.members.load_state_dict({k: v for k, v in tensors.items() if not k.startswith(_TRUST)})
    except (SafetensorError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: not a model of this package: {error}") from error
    return model


def read_config(folder: Path) -> dict[str, Any]:
    """The checked ``config.json`` of a model folder; no weights are read.

    Raises
    ------
    CheckpointError
        If it is missing, damaged or of a newer format.
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
    if stated != _own_hash(config):
        raise CheckpointError(f"{folder / CONFIG}: damaged: its content does not fit the sha256 in it")
    return config


def _own_hash(config: dict[str, Any]) -> str:
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


def _trust(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Any:
    if config["trust"] is None:
        return None
    from cgcnn_ase.uncertainty.trust import Trust

    arrays = {name.removeprefix(_TRUST): t.numpy() for name, t in tensors.items() if name.startswith(_TRUST)}
    return Trust.from_files(config["trust"], arrays)
