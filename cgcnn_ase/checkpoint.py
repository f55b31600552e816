"""Save and load models: ``model.safetensors`` and ``config.json`` in a folder. Loading one executes nothing."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.model_folder import (
    FORMAT_VERSION,
    WEIGHTS,
    CheckpointError,
    package_version,
    read_config,
    read_weights,
    write_files,
)
from cgcnn_ase.nn.model import CrystalModel
from cgcnn_ase.nn.network import Network, NetworkConfig, config_class
from cgcnn_ase.targets import Scaler, TargetSpec

#: calibrations of a model, each with its arrays under its own name
_TRUSTS = ("trust", "dropout_trust")


def save_model(model: CrystalModel, folder: Path) -> Path:
    """Write a model's weights, settings and calibration into a folder, and return it.

    ``config.json`` holds the sha256 of the weights and of itself, so that a damaged file is found on loading.
    """
    from safetensors.torch import save

    tensors = {name: tensor.contiguous() for name, tensor in model.members.state_dict().items()}
    trusts = {name: getattr(model, name) for name in _TRUSTS}
    for prefix, trust in trusts.items():
        if trust is not None:
            tensors |= {f"{prefix}.{name}": torch.from_numpy(array) for name, array in trust.arrays().items()}
    config: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "package_version": package_version(),
        "name": model.name or folder.name,
        "n_members": len(model.members),
        "network": asdict(model.networks[0].config),
        "graph": asdict(model.graph),
        "target": asdict(model.target),
        "scaler": asdict(model.scaler),
        **{name: None if trust is None else trust.to_config() for name, trust in trusts.items()},
        "training": model.training_record,
    }
    write_files(folder, config, save(tensors))
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
    weights = read_weights(folder, config)
    try:
        tensors = load(weights)
        network = _network_config(config["network"])
        with torch.random.fork_rng(devices=[]):  # the initial weights are drawn; the caller's random state stays
            members = [Network(network) for _ in range(config["n_members"])]
        model = CrystalModel(
            members,
            graph=TypeAdapter(GraphConfig).validate_python(config["graph"]),
            target=TypeAdapter(TargetSpec).validate_python(config["target"]),
            scaler=Scaler(config["scaler"]["mean"], config["scaler"]["std"]),
            **{name: _trust(name, config, tensors) for name in _TRUSTS},
            name=config["name"],
            sha256=config["sha256"][WEIGHTS],
            training=config["training"],
        )
        model.members.load_state_dict({k: v for k, v in tensors.items() if k.split(".")[0] not in _TRUSTS})
    except (SafetensorError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: not a model of this package: {error}") from error
    return model


def _network_config(values: dict[str, Any]) -> NetworkConfig:
    architecture = values["architecture"]
    chosen = TypeAdapter(config_class(architecture)).validate_python(architecture)
    return TypeAdapter(NetworkConfig).validate_python(values | {"architecture": chosen})


def _trust(name: str, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Any:
    if config.get(name) is None:
        return None
    from cgcnn_ase.uncertainty.trust import Trust

    prefix = f"{name}."
    arrays = {key.removeprefix(prefix): t.numpy() for key, t in tensors.items() if key.startswith(prefix)}
    return Trust.from_files(config[name], arrays)
