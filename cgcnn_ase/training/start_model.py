"""Start from a trained model: copy its members, freeze the layers that should stay."""

import copy
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import nn

from cgcnn_ase.core.targets import ALIASES, TargetSpec, is_name_of
from cgcnn_ase.nn.network import Network, NetworkConfig

if TYPE_CHECKING:  # a model knows of its calibration, and this of pydantic, which training does without
    from cgcnn_ase.models.crystal_model import CrystalModel

Frozen = Literal["none", "embedding", "convolutions"]


def can_reuse_head(model: "CrystalModel", targets: tuple[TargetSpec, ...]) -> bool:
    """Tell whether a model to tune learns its own target on, with its own head and scaler."""
    if len(targets) != 1:
        return False
    learned = [(t.name, t.task, t.n_classes, t.transform, t.level) for t in (targets[0], model.target)]
    return learned[0] == learned[1]


def own_target(target: TargetSpec, columns: Sequence[str], task: str, unit: str) -> TargetSpec | None:
    """The target of a model to tune where the columns to learn (NAME or NAME:KIND, or none) mean it, else None.

    A kind or task that is not the model's means another target. A ValueError is raised where the unit contradicts the
    model's own name.
    """
    column, _, kind = (columns[0] if columns else target.name).partition(":")
    own_kind = "log10" if target.transform == "log10" else target.task
    if len(columns) > 1 or not is_name_of(column, target.name) or kind not in ("", own_kind):
        return None
    if not kind and task != target.task and (task != "regression" or not columns):
        return None
    if target.task == "classification" or unit.casefold() in ("", target.unit.casefold()):
        return target
    if columns and column == target.name:
        raise ValueError(f"unit {unit!r}: the model to tune has {target.name} in {target.unit}; convert the labels")
    return None


def new_head_warning(model: "CrystalModel", targets: Sequence[TargetSpec]) -> str:
    """Word the warning of a model to tune that learns something else than its target."""
    target = model.target
    asked = ", ".join(f"{t.name} ({t.task}{f', {t.learned_unit}' if t.learned_unit else ''})" for t in targets)
    return (
        f"{asked}: not the target of {model.name}, {target.name} ({target.task}, {target.learned_unit}), so a new head "
        "is learned and what the model knows of its own target is not used; names of that target: "
        f"{', '.join((target.name, *ALIASES.get(target.name, ())))}"
    )


def check_start(model: "CrystalModel", config: NetworkConfig) -> None:
    """Raise a ValueError unless networks of these sizes can start from a model's members.

    Their pooling and heads may differ.
    """
    has = model.networks[0].config.architecture
    if replace(has, pooling=config.architecture.pooling, dropout=config.architecture.dropout) != config.architecture:
        raise ValueError(f"the model to tune has {has}, the settings ask for {config.architecture}")


def inherited_settings(model: "CrystalModel") -> dict[str, object]:
    """Settings of a run that a model to tune decides: graph, network, kind of head and number of members."""
    network = model.networks[0].config
    return {
        "graph": asdict(model.graph),
        "network": asdict(network.architecture),
        "mean_variance": network.mean_variance,
        "quantiles": network.quantiles,
        "n_members": len(model.members),
    }


def finetune_member(
    model: "CrystalModel", k: int, frozen: Frozen = "none", *, config: NetworkConfig | None = None, seed: int = 0
) -> Network:
    """A copy of member k (counted around if there are fewer) with the layers up to ``frozen`` fixed.

    ``embedding`` fixes the embeddings of elements and bonds, ``convolutions`` these and all convolutions. The running
    statistics of fixed layers stay as they are, too. With ``config`` the network gets a new head of that kind, and the
    pooling of that name, whose weights the seed decides; of what reads the pooling it keeps the layers that still fit.
    """
    if frozen not in get_args(Frozen):
        raise ValueError(f"unknown layers {frozen!r} to freeze; allowed: {', '.join(get_args(Frozen))}")
    network = copy.deepcopy(model.networks[k % len(model.networks)])
    if config is None:
        network = _with_own_head(network, model)
    else:
        check_start(model, config)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            fresh = Network(config)
        # all that has the same name and shape, which is all but the pooling's own weights and what they widen
        state, trained = fresh.architecture.state_dict(), network.architecture.state_dict()
        same = {k: tensor for k, tensor in trained.items() if k in state and state[k].shape == tensor.shape}
        fresh.architecture.load_state_dict(state | same)
        network = fresh
    for group in network.architecture.backbone[: get_args(Frozen).index(frozen)]:
        for part in group:
            part.requires_grad_(False)
    return network


def config_for_target(model: "CrystalModel") -> NetworkConfig:
    """Sizes of a network with the outputs of one model; several models may share a network and its head."""
    return replace(model.networks[0].config, n_outputs=model.target.n_outputs)


def _with_own_head(network: Network, model: "CrystalModel") -> Network:
    """The network, and of its head only what is the model's own."""
    config = config_for_target(model)
    if config == network.config:
        return network
    with torch.random.fork_rng():
        model_network = Network(config)
    model_network.architecture = network.architecture
    columns = list(range(network.config.n_outputs))[model.outputs]
    _copy_rows(network.head.out, model_network.head.out, columns)
    if network.head.scale is not None and model_network.head.scale is not None:
        model_network.head.scale[0].load_state_dict(network.head.scale[0].state_dict())
        n_parts = 2 if network.head.error == "quantile" else 1  # below and above, or one scale
        rows = [part * network.config.n_outputs + column for part in range(n_parts) for column in columns]
        _copy_rows(network.head.scale[2], model_network.head.scale[2], rows)
    return model_network.train(network.training)


def _copy_rows(source: nn.Module, target: nn.Module, rows: list[int]) -> None:
    target.load_state_dict({name: tensor[rows] for name, tensor in source.state_dict().items()})


def eval_frozen_modules(network: nn.Module, *, norms: bool = False) -> None:
    """Put modules whose parameters are all fixed, or all batch norms, into evaluation: running statistics stay."""
    for module in network.modules():
        parameters = list(module.parameters())
        fixed = bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
        if fixed or (norms and isinstance(module, nn.BatchNorm1d)):
            module.eval()
