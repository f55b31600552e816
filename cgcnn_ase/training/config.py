"""All that decides a training run, and published settings by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from cgcnn_ase.core.errors import unknown_name
from cgcnn_ase.core.targets import TargetSpec
from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.nn.architecture import ARCHITECTURES, DEFAULT, ArchitectureConfig
from cgcnn_ase.nn.cgcnn import CGCNNConfig
from cgcnn_ase.nn.messages import Engine
from cgcnn_ase.nn.pooling import OF_SITES, PoolingName

PRESETS: dict[str, tuple[GraphConfig, ArchitectureConfig]] = {
    name: settings for kind in ArchitectureConfig.kinds().values() for name, settings in kind.presets().items()
}


def preset(name: str) -> tuple[GraphConfig, ArchitectureConfig]:
    """Return the graph and the network of a name.

    Examples
    --------
    >>> graph, architecture = preset("cgnn")
    >>> graph.rule, architecture.n_features
    ('coordinator', 96)
    """
    if name not in PRESETS:
        raise unknown_name("preset", name, list(PRESETS))
    return PRESETS[name]


#: poolings that average over the atoms: what a quantity per atom may be read from
AVERAGES: tuple[PoolingName, ...] = ("mean", "softmax", "gated", "layers")

#: why another is none
_NO_AVERAGE = {
    "sum": "grows with the cell",
    "max": "is decided by a single atom",
    "mean+max": "is decided by a single atom in part",
    "contrast": "is decided by a single atom in part",
}
Loss = Literal["l1", "huber", "mse"]
Accelerator = Literal["auto", "cpu", "gpu"]
Precision = Literal["32-true", "16-mixed", "bf16-mixed"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Hyper-parameters of a run; the same configuration and data give the same weights."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    graph: GraphConfig = field(default_factory=GraphConfig)
    network: ArchitectureConfig = field(default_factory=CGCNNConfig)
    mean_variance: bool = False  #: the head also learns the size of its error
    quantiles: bool = False  #: or the 5 % and 95 % quantiles of the target
    epochs: int = 30
    batch_size: int = 64
    accumulate: int = 1  #: batches whose gradients are added up before a step
    learning_rate: float = 2e-3  #: the maximum of the one-cycle schedule
    freeze_batchnorm_stats: bool = False  #: batch norms keep their running statistics, as those of fixed layers do
    backbone_lr_scale: float = 1.0  #: embeddings and convolutions learn with so many times the learning rate
    weight_decay: float = 1e-2  #: of AdamW; none on norms, biases and embeddings
    loss: Loss = "l1"
    cls_weight: float = 1.0  #: of each classification's loss beside those of the regressions
    gradient_clip: float | None = 10.0
    ema_decay: float | None = None  #: exponential moving average of the weights, per step
    swa_start: float | None = None  #: average of the weights after each epoch from this part of the training on
    checkpoint: Literal["best", "last"] = "best"  #: the epoch that counts: that of the lowest val error, or the last
    patience: int | None = None  #: stop after so many epochs without a better val error
    seed: int = 0
    n_members: int = 1
    cross_fit_folds: int = 0  #: networks trained on parts of the training split, to learn the errors; 0 or >= 2
    engine: Engine = "auto"
    compile: bool = False  #: torch.compile; needs a C++ compiler on the CPU, uses the torch engine
    accelerator: Accelerator = "auto"
    devices: int = 1  #: GPUs, or processes on a CPU, of each node; a step takes devices * nodes batches
    nodes: int = 1
    precision: Precision = "32-true"
    tensorboard: bool = False  #: also write the record for TensorBoard

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "n_members", "accumulate", "devices", "nodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.ema_decay is not None and self.swa_start is not None:
            raise ValueError("the weights are averaged by ema_decay or by swa_start, not by both")
        if self.swa_start is not None and not 0 <= self.swa_start < 1:
            raise ValueError(f"swa_start must be a part of the training, from 0 to less than 1, not {self.swa_start}")
        if self.cross_fit_folds < 0 or self.cross_fit_folds == 1:
            raise ValueError(f"cross_fit_folds must be 0 or at least 2, not {self.cross_fit_folds}")
        for name in ("learning_rate", "backbone_lr_scale", "cls_weight"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        self.network.check_graph(self.graph)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """Configuration from plain values, as in ``config.yaml``, for machines without pydantic: types are trusted.

        Elsewhere :func:`cgcnn_ase.core.settings.parse_settings` reads, and names every mistake.
        """
        network = values.get("network", {})
        try:
            return cls(
                **{
                    **values,
                    "graph": GraphConfig(**values.get("graph", {})),
                    "network": ARCHITECTURES.get(network.get("architecture", DEFAULT))(**network),
                }
            )
        except TypeError as error:
            raise ValueError(f"settings of a run: {error}") from error


def check_targets(targets: Sequence[TargetSpec], config: TrainConfig) -> None:
    """Raise a ValueError where a network is asked for what it cannot say of a target.

    A target of sites needs one of the poolings of sites, one of crystals any other. A quantity per atom is read from an
    average over the atoms: a sum grows with the cell, and a maximum knows of one atom only. Heads that learn their
    error are those of regressions; a classification has probabilities.
    """
    for target in targets:
        _check_pooling(target, config.network)
    if all(target.task == "classification" for target in targets):
        for name in ("mean_variance", "quantiles"):
            if getattr(config, name):
                raise ValueError(
                    f"{name} is of regressions; {', '.join(t.name for t in targets)}: the probabilities of a "
                    f"classification say how sure it is, {name} must be false"
                )


def _check_pooling(target: TargetSpec, network: ArchitectureConfig) -> None:
    pooling = network.pooling
    if target.level == "site" and pooling not in OF_SITES:
        raise ValueError(
            f"{target.name} is a target of sites, which the pooling {pooling!r} puts into one vector a crystal; "
            f"allowed: network.pooling: {' or '.join(OF_SITES)}"
        )
    if target.level == "crystal" and pooling in OF_SITES:
        raise ValueError(
            f"{target.name} is a target of crystals, the pooling {pooling!r} gives a value for each atom; "
            "allowed: network.pooling: mean, sum, max, mean+max, softmax, gated, layers or contrast"
        )
    if target.per_atom and pooling in _NO_AVERAGE:
        raise ValueError(
            f"{target.name} is an average over atoms, the pooling {pooling!r} {_NO_AVERAGE[pooling]}; "
            f"allowed: network.pooling: {' or '.join(AVERAGES)}"
        )
    if target.per_atom and network.is_extensive:
        raise ValueError(f"{target.name} is an average over atoms; network.extensive must be false")


def preset_config(name: str, **changes: Any) -> TrainConfig:
    """Settings of a run with a preset's graph and network (:data:`PRESETS`); keywords add others.

    >>> preset_config("alignn-small", epochs=50).graph.line_graph
    True
    """
    graph, network = preset(name)
    return TrainConfig(**{"graph": graph, "network": network, **changes})
