"""Which targets a network can learn: what does not make sense is refused before anything is trained."""

from collections.abc import Sequence

from cgcnn_ase.nn.cgnn import CGNNConfig
from cgcnn_ase.nn.network import AnyConfig
from cgcnn_ase.nn.pooling import OF_SITES, PoolingName
from cgcnn_ase.targets import TargetSpec
from cgcnn_ase.training.config import TrainConfig

#: poolings that average over the atoms: what a quantity per atom may be read from
AVERAGES: tuple[PoolingName, ...] = ("mean", "softmax", "gated", "layers")
#: why another is none
_NO_AVERAGE = {
    "sum": "grows with the cell",
    "max": "is decided by a single atom",
    "mean+max": "is decided by a single atom in part",
    "contrast": "is decided by a single atom in part",
}


def check_targets(targets: Sequence[TargetSpec], config: TrainConfig) -> None:
    """Raise where a network is asked for what it cannot say of a target.

    A target of sites needs one of the poolings of sites, one of crystals any other. A quantity per atom is
    read from an average over the atoms: a sum grows with the cell, and a maximum knows of one atom only. Heads that
    learn their error are those of regressions; a classification has probabilities.

    Raises
    ------
    ValueError
        Naming the target, the setting, and what is allowed.
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


def _check_pooling(target: TargetSpec, network: AnyConfig) -> None:
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
    if target.per_atom and isinstance(network, CGNNConfig) and network.extensive:
        raise ValueError(f"{target.name} is an average over atoms; network.extensive must be false")
