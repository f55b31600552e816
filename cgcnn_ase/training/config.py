"""All that decides a training run; published settings by name, and those of ALIGNN, translated.

Of the ``config.json`` of ALIGNN's ``train_alignn.py`` (https://github.com/usnistgov/alignn), what decides the network
and its training is translated, with ALIGNN's own default where the file says nothing; what would make another network
or training and cannot be had here is refused; what is left is named, not used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, cast

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


#: of the networks that are ALIGNN here: how each normalises
_NORMS = {"alignn": "batch", "alignn_layernorm": "layer", "alignn_atomwise": "layer"}

#: key there -> setting here, and the default there
_TRAINING = {
    "epochs": ("epochs", 300),
    "batch_size": ("batch_size", 64),
    "learning_rate": ("learning_rate", 1e-2),
    "weight_decay": ("weight_decay", 0.0),
    "random_seed": ("seed", 123),
    "n_early_stopping": ("patience", None),
    "log_tensorboard": ("tensorboard", False),
}
_NETWORK = {
    "alignn_layers": ("n_alignn", 4),
    "gcn_layers": ("n_gcn", 4),
    "hidden_features": ("n_features", 256),
    "embedding_features": ("n_embedding", 64),
    "edge_input_features": ("n_distances", 80),
    "triplet_input_features": ("n_cosines", 40),
}

#: key -> the values that mean what is done here; others are refused
_ONLY: dict[str, tuple[object, ...]] = {
    "atom_features": ("cgcnn",),
    "neighbor_strategy": ("k-nearest",),
    "optimizer": ("adamw",),
    "scheduler": ("onecycle",),
    "criterion": ("l1", "mse"),
    "classification_threshold": (None,),
    "target_multiplication_factor": (None, 1, 1.0),
    "standard_scalar_and_pca": (False,),
    "dtype": ("float32",),
}
_ONLY_MODEL: dict[str, tuple[object, ...]] = {
    "atom_input_features": (92,),
    "output_features": (1,),
    "link": ("identity",),
    "zero_inflated": (False,),
    "classification": (False,),
    "calculate_gradient": (False,),
    "atomwise_weight": (0, 0.0),
    "stresswise_weight": (0, 0.0),
    "use_cutoff_function": (False,),
    "extra_features": (0,),
}
#: defaults of the network ``alignn_atomwise`` that differ from what is allowed, so that silence is refused too
_ATOMWISE_DEFAULTS = {"calculate_gradient": True}
_HINTS = {
    "classification_threshold": "write the classes into id_prop.csv and give --task classification",
    "classification": "write the classes into id_prop.csv and give --task classification",
    "calculate_gradient": "forces are not learned here",
}
_SPLIT = ("val_ratio", "test_ratio")
_COUNTS = ("n_train", "n_val", "n_test")


class Translated(NamedTuple):
    """Settings that an ALIGNN file asks for."""

    settings: dict[str, object]  #: as in a YAML file of this package
    val: float  #: part for validation
    test: float  #: part for the test
    unused: list[str]  #: keys that have no meaning here


def is_alignn(values: Mapping[str, object]) -> bool:
    """Tell whether settings by name are those of ALIGNN: the network is under ``model`` and has a ``name``."""
    model = values.get("model")
    return isinstance(model, Mapping) and "name" in model


def translate(values: Mapping[str, object]) -> Translated:
    """The settings of this package that do what an ALIGNN file asks for; a ValueError names a key that is not allowed.

    >>> wanted = translate({"epochs": 20, "filename": "A", "model": {"name": "alignn", "gcn_layers": 2}})
    >>> wanted.settings["epochs"], wanted.settings["network"]["n_gcn"], wanted.settings["batch_size"], wanted.unused
    (20, 2, 64, ['filename'])
    """
    model = cast("Mapping[str, object]", values["model"])
    name = str(model["name"])
    if name not in _NORMS:
        raise ValueError(f"model.name: must be {' or '.join(_NORMS)}, not {name!r}")
    _check(values, _ONLY, "")
    _check((_ATOMWISE_DEFAULTS if name == "alignn_atomwise" else {}) | dict(model), _ONLY_MODEL, "model.")
    settings = _translated(values, _TRAINING)
    if settings["seed"] is None:
        del settings["seed"]
    settings["loss"] = "l1" if name == "alignn_atomwise" else values.get("criterion", "mse")
    settings["gradient_clip"] = None
    settings["graph"] = {
        "rule": "shell",
        "cutoff": values.get("cutoff", 8.0),
        "n_neighbors": values.get("max_neighbors", 12),
        "line_graph": True,
        "merge": True,
    }
    settings["network"] = {"architecture": "alignn", "norm": _NORMS[name]} | _translated(model, _NETWORK)
    used = {"model", "cutoff", "max_neighbors", *_TRAINING, *_ONLY, *_SPLIT, *_COUNTS, "train_ratio"}
    val, test = _parts(values)
    train = values.get("train_ratio")
    if isinstance(train, int | float) and abs(train + val + test - 1) > 1e-6:
        used.discard("train_ratio")  # there the rest of the data is not used, here it is
    unused = [key for key in values if key not in used]
    unused += [f"model.{key}" for key in model if key not in {"name", *_NETWORK, *_ONLY_MODEL}]
    return Translated(settings, val, test, unused)


def _translated(values: Mapping[str, object], keys: Mapping[str, tuple[str, object]]) -> dict[str, object]:
    return {ours: values.get(theirs, default) for theirs, (ours, default) in keys.items()}


def _check(values: Mapping[str, object], only: Mapping[str, tuple[object, ...]], where: str) -> None:
    for key, allowed in only.items():
        if key in values and values[key] not in allowed:
            hint = f": {_HINTS[key]}" if key in _HINTS else ""
            words = " or ".join("null" if value is None else str(value) for value in dict.fromkeys(allowed))
            raise ValueError(f"{where}{key}: must be {words}, not {values[key]!r}{hint}")


def _parts(values: Mapping[str, object]) -> tuple[float, float]:
    """The parts for validation and test; numbers of structures are refused, for formulas stay together."""
    for key in _COUNTS:
        if values.get(key) is not None:
            raise ValueError(
                f"{key}: the split is by parts here, since equal formulas stay together: give {', '.join(_SPLIT)}"
            )
    parts = []
    for key in _SPLIT:
        value = 0.1 if values.get(key) is None else values[key]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{key}: must be a number, not {value!r}")
        parts.append(float(value))
    return parts[0], parts[1]
