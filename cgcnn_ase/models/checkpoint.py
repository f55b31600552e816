"""Save and load models: ``model.safetensors`` and ``config.json`` in a folder. Loading one executes nothing."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from pydantic import TypeAdapter
from torch import nn

from cgcnn_ase.core.environment import package_version
from cgcnn_ase.core.errors import unknown_name
from cgcnn_ase.core.targets import Scaler, TargetSpec, output_slices
from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.models.folder import (
    CONFIG,
    FORMAT_VERSION,
    WEIGHTS,
    CheckpointError,
    Json,
    model_entries,
    read_config,
    read_weights,
    write_files,
)
from cgcnn_ase.nn.architecture import DEFAULT, architecture_names
from cgcnn_ase.nn.network import Network, NetworkConfig
from cgcnn_ase.uncertainty import CALIBRATIONS, Calibration
from cgcnn_ase.uncertainty.regression_calibration import LABELS

# names of a model's calibrations in its files, each with its arrays under its own name
_CALIBRATION, _DROPOUT_CALIBRATION = "trust", "dropout_trust"
# which of the networks' outputs is a model's first, where the models of a folder do not fill them all
_FIRST_OUTPUT = "first_output"


def save_model(model: CrystalModel, folder: Path) -> Path:
    """Write a model's weights, settings and calibration into a folder, and return it.

    ``config.json`` holds the sha256 of the weights and of itself, so that a damaged file is found on loading.
    """
    return save_models([model], folder, name=model.name or folder.name)


def save_models(models: Sequence[CrystalModel], folder: Path, *, name: str) -> Path:
    """Write models that share their members into one folder, and return it.

    A single one is the folder's own; several have an entry each under ``models``. ValueError if they do not share their
    members, or two have the same name.
    """
    weights = weights_content(models)
    first, several = models[0], len(models) > 1
    entries = [_entry(model) for model in models]
    is_part = sum(model.target.n_outputs for model in models) < first.networks[0].config.n_outputs
    if is_part:
        entries = [entry | {_FIRST_OUTPUT: model.outputs.start} for entry, model in zip(entries, models, strict=True)]
    on_labels = any(LABELS in (entry[kind] or {}) for entry in entries for kind in (_CALIBRATION, _DROPOUT_CALIBRATION))
    config: Json = {
        "format_version": FORMAT_VERSION if is_part or on_labels else 2 if several else 1,
        "package_version": package_version(),
        "name": name,
        "n_members": len(first.members),
        "network": asdict(first.networks[0].config),
        "graph": asdict(first.graph),
        **({"models": entries} if several else entries[0] | {"name": name}),
    }
    write_files(folder, config, weights)
    return folder


def weights_content(models: Sequence[CrystalModel]) -> bytes:
    """Return the content of the weights' file of models that share their members; raises as :func:`save_models`."""
    from safetensors.torch import save

    first = models[0]
    if any(model.members is not first.members for model in models):
        raise ValueError("models of one folder must share their members")
    if len({model.name for model in models}) < len(models):
        raise ValueError(f"models of one folder need names that differ: {', '.join(model.name for model in models)}")
    tensors = {key: tensor.contiguous() for key, tensor in first.members.state_dict().items()}
    for model in models:
        for kind, calibration in _calibrations(model).items():
            if calibration is not None:
                prefix = _prefix(kind, model.name, several=len(models) > 1)
                tensors |= {f"{prefix}{key}": torch.from_numpy(array) for key, array in calibration.arrays().items()}
    return save(tensors)


def _entry(model: CrystalModel) -> Json:
    """Return the settings that are a single model's, not the folder's."""
    return {
        "name": model.name,
        "target": asdict(model.target),
        "scaler": asdict(model.scaler),
        **{kind: None if each is None else each.to_config() for kind, each in _calibrations(model).items()},
        "training": model.training_record,
    }


def _calibrations(model: CrystalModel) -> dict[str, Calibration | None]:
    return {_CALIBRATION: model.calibration, _DROPOUT_CALIBRATION: model.dropout_calibration}


def _prefix(kind: str, name: str, *, several: bool) -> str:
    return f"{kind}.{name}." if several else f"{kind}."


def load_folder(folder: Path) -> CrystalModel:
    """Load a folder that holds one model; errors as of :func:`load_models`, and if there are several."""
    models = load_models(folder)
    if len(models) > 1:
        raise CheckpointError(f"{folder}: holds several models, name one: {', '.join(m.name for m in models)}")
    return models[0]


def load_models(folder: Path) -> list[CrystalModel]:
    """Load all models of a folder; they share their members.

    :class:`CheckpointError` if a file is missing, damaged, of a newer format, or not a model's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    config = read_config(folder)
    weights = read_weights(folder, config)
    try:
        tensors = load(weights)
        tag = config["network"]["architecture"].get("architecture", DEFAULT)
        if tag not in architecture_names():
            raise unknown_name("architecture", tag, architecture_names())
        network = TypeAdapter(NetworkConfig).validate_python(config["network"])
        graph = TypeAdapter(GraphConfig).validate_python(config["graph"])
        with torch.random.fork_rng(devices=[]):  # the initial weights are drawn; the caller's random state stays
            members = nn.ModuleList(Network(network) for _ in range(config["n_members"]))
        weights_of = {k: v for k, v in tensors.items() if k.split(".")[0] not in (_CALIBRATION, _DROPOUT_CALIBRATION)}
        _check_weights(members, weights_of, network.architecture.architecture)
        members.load_state_dict(weights_of)
        entries = model_entries(config)
        targets = tuple(TypeAdapter(TargetSpec).validate_python(entry["target"]) for entry in entries)
        is_part = all(_FIRST_OUTPUT in entry for entry in entries)
        if not is_part and sum(target.n_outputs for target in targets) != network.n_outputs:
            raise ValueError(f"the network has {network.n_outputs} outputs, which its targets do not fill")
        several = len(entries) > 1
        return [
            CrystalModel(
                members,
                graph=graph,
                target=target,
                scaler=Scaler(entry["scaler"]["mean"], entry["scaler"]["std"]),
                calibration=_read_calibration(_CALIBRATION, entry, target, tensors, several=several),
                dropout_calibration=_read_calibration(_DROPOUT_CALIBRATION, entry, target, tensors, several=several),
                name=entry["name"],
                sha256=config["sha256"][WEIGHTS],
                training=entry["training"],
                first_output=entry.get(_FIRST_OUTPUT, columns.start),
            )
            for entry, target, columns in zip(entries, targets, output_slices(targets), strict=True)
        ]
    except (SafetensorError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: not a model of this package: {error}") from error


def _check_weights(members: nn.ModuleList, tensors: dict[str, torch.Tensor], architecture: str) -> None:
    """See that a file's weights are those of the network that the configuration speaks of."""
    expected = members.state_dict()
    for what, names in (
        ("have no", expected.keys() - tensors.keys()),
        ("hold, too,", tensors.keys() - expected.keys()),
        (
            "have another shape of",
            {k for k, tensor in tensors.items() if k in expected and expected[k].shape != tensor.shape},
        ),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(
                f"{WEIGHTS} is not of the {architecture} network in {CONFIG}: its weights {what} {min(names)}{more}"
            )


def _read_calibration(
    kind: str, entry: Json, target: TargetSpec, tensors: dict[str, torch.Tensor], *, several: bool
) -> Calibration | None:
    if entry.get(kind) is None:
        return None
    prefix = _prefix(kind, entry["name"], several=several)
    arrays = {key.removeprefix(prefix): t.numpy() for key, t in tensors.items() if key.startswith(prefix)}
    return CALIBRATIONS[target.task].from_files(entry[kind], arrays)
