"""Original CGCNN ``.pth.tar`` checkpoints as models of this package."""

import hashlib
import math
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import torch

from cgcnn_ase.core.elements import DESCRIPTOR_SIZE
from cgcnn_ase.core.targets import Scaler, TargetSpec, Task
from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.models.restricted_pickle import ADMITTED, UnsafeCheckpointError, unpickle
from cgcnn_ase.nn.cgcnn import CGCNNConfig
from cgcnn_ase.nn.network import Network, NetworkConfig

# what the eight published files predict, by file name
PUBLISHED: dict[str, TargetSpec] = {
    "formation-energy-per-atom": TargetSpec(name="formation_energy_per_atom", unit="eV/atom", per_atom=True),
    "final-energy-per-atom": TargetSpec(name="total_energy_per_atom", unit="eV/atom", per_atom=True),
    "band-gap": TargetSpec(name="band_gap", unit="eV"),
    "efermi": TargetSpec(name="efermi", unit="eV"),
    "bulk-moduli": TargetSpec(name="bulk_modulus", unit="GPa", transform="log10"),
    "shear-moduli": TargetSpec(name="shear_modulus", unit="GPa", transform="log10"),
    "poisson-ratio": TargetSpec(name="poisson_ratio", unit="1"),
    "semi-metal-classification": TargetSpec(name="is_metal", unit="probability", task="classification"),
}

# the scales of the published energies, as their errors on crystals of the Materials Project show
_SCALES = {"formation-energy-per-atom": "mp-legacy", "final-energy-per-atom": "uncorrected"}

# the graph of the original code: the 12 nearest within 8 Å, the missing ones replaced by atom 0 at 9 Å
ORIGINAL_GRAPH = GraphConfig(rule="knn", cutoff=8.0, n_neighbors=12, padding="first-atom")


def is_legacy(path: Path) -> bool:
    """Return whether a path looks like an original checkpoint."""
    return path.name.endswith((".pth.tar", ".pth", ".tar"))


def load_legacy(path: Path) -> CrystalModel:
    """Read an original checkpoint as a model; errors as of :func:`read_legacy_checkpoint`.

    The target of a file with one of the eight published names is known; another's is called ``prediction`` with no
    unit.
    """
    checkpoint = read_legacy_checkpoint(path)
    stem = path.name.split(".")[0]
    unknown = TargetSpec(name="prediction", unit="", task=checkpoint.task)
    target = PUBLISHED.get(stem, unknown)
    if target.task != checkpoint.task:
        target = unknown
    with torch.random.fork_rng(devices=[]):  # the initial weights are drawn; the caller's random state stays
        network = Network(_config(checkpoint))
    weights = {name: checkpoint.state[original] for name, original in _original_names(network).items()}
    network.load_state_dict(network.state_dict() | weights)
    return CrystalModel(
        [network],
        graph=ORIGINAL_GRAPH,
        target=target,
        scaler=Scaler(checkpoint.mean, checkpoint.std),
        name=stem,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        training={"source": "original CGCNN checkpoint", "epoch": checkpoint.epoch}
        | ({"scale": _SCALES[stem]} if target is not unknown and stem in _SCALES else {}),
    )


class LegacyCheckpoint(NamedTuple):
    """An original CGCNN model, as its file holds it; the widths and numbers are read off the shapes of the weights."""

    # by the names of the reference code: embedding, convs.i.{fc_full,bn1,bn2}, conv_to_fc, fcs.i, fc_out
    state: dict[str, torch.Tensor]
    mean: float  # of the normalizer, in the unit of the target: prediction = output * std + mean
    std: float  # 1 for a classifier, whose mean is 0
    task: Task
    epoch: int  # how many epochs the model was trained for
    args: dict[str, object]  # command-line arguments of the training run
    atom_features: int  # F, width of the atom vectors
    bond_features: int  # width of the distance expansion
    hidden: int  # h, width of the hidden layers
    n_conv: int
    n_hidden: int  # n_h, number of hidden layers


def _config(checkpoint: LegacyCheckpoint) -> NetworkConfig:
    classification = checkpoint.task == "classification"
    return NetworkConfig(
        architecture=CGCNNConfig(
            n_features=checkpoint.atom_features,
            n_convolutions=checkpoint.n_conv,
            n_hidden=checkpoint.hidden,
            n_hidden_layers=checkpoint.n_hidden,
            n_gaussians=checkpoint.bond_features,
            cutoff=0.2 * (checkpoint.bond_features - 1),
            dropout=0.5 if classification else 0.0,
        ),
        n_outputs=2 if classification else 1,
    )


_ORIGINAL_NAMES = {
    "architecture.embedding.linear.": "embedding.",
    "architecture.convolutions.": "convs.",
    "architecture.to_crystal.": "conv_to_fc.",
    "architecture.hidden.": "fcs.",
    "head.out.": "fc_out.",
    ".full.": ".fc_full.",
    ".edge_norm.": ".bn1.",
    ".node_norm.": ".bn2.",
}


def _original_names(network: Network) -> dict[str, str]:
    """The original's names of our network's weights, but for the batch counters of the norms, which it has not."""
    names = {}
    for name in network.state_dict():
        if not name.endswith("num_batches_tracked"):
            names[name] = name
            for ours, original in _ORIGINAL_NAMES.items():
                names[name] = names[name].replace(ours, original)
    return names


# how deep lists may lie in one another in the arguments of the training run
_DEEPEST = 4


def read_legacy_checkpoint(path: str | PathLike[str]) -> LegacyCheckpoint:
    """Read an original CGCNN ``.pth.tar`` file, in PyTorch's old or zip format.

    Nothing in it is executed, and its optimizer is ignored. The weights have the right names and shapes and are finite,
    as the normalizer is.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    UnsafeCheckpointError
        If the file asks for anything but tensors, numbers, strings, dicts and lists; the message names it.
    ValueError
        If the file is damaged, is no checkpoint, or holds no CGCNN.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint file {path}")
    content = path.read_bytes()
    try:
        return _interpret(unpickle(content), n_bytes=len(content))
    except UnsafeCheckpointError as error:
        raise UnsafeCheckpointError(f"refused to load {path}: {error}; {ADMITTED}") from None
    except (ValueError, OverflowError) as error:
        raise ValueError(f"cannot read {path} as a CGCNN checkpoint: {error}") from None


def _interpret(loaded: object, n_bytes: int) -> LegacyCheckpoint:
    checkpoint = _mapping(loaded, "the file")
    missing = [key for key in ("state_dict", "normalizer", "epoch") if key not in checkpoint]
    if missing:
        raise ValueError(f"it has no {', '.join(missing)}")
    state = _weights(_mapping(checkpoint["state_dict"], "state_dict"), n_bytes)
    n_conv, n_hidden = _count(state, "convs"), _count(state, "fcs") + 1
    atom_features, hidden, bond_features = _widths(state)
    args = {
        key: _plain_value(value, f"args[{key!r}]")
        for key, value in _mapping(checkpoint.get("args", {}), "args").items()
    }
    task = _task(args, n_outputs=state["fc_out.weight"].shape[0])
    normalizer = _mapping(checkpoint["normalizer"], "normalizer")
    mean, std = (_real(normalizer.get(key), f"normalizer[{key!r}]") for key in ("mean", "std"))
    if std <= 0:
        raise ValueError(f"normalizer['std'] is {std}, not positive")
    epoch = int(_real(checkpoint["epoch"], "epoch"))
    read = LegacyCheckpoint(state, mean, std, task, epoch, args, atom_features, bond_features, hidden, n_conv, n_hidden)
    with torch.device("meta"):  # sizes without memory
        network = Network(_config(read))
    shapes = network.state_dict()
    _check_shapes(state, {original: tuple(shapes[name].shape) for name, original in _original_names(network).items()})
    return read


def _mapping(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} holds a {type(value).__name__}, not a dict")
    # dict.items, since a pickle may shadow the method on an OrderedDict
    return {str(key): item for key, item in dict.items(value)}


def _weights(state: dict[str, object], n_bytes: int) -> dict[str, torch.Tensor]:
    """The floating-point weights, each a tensor of its own; the batch counters of newer versions are left out."""
    weights: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        if name.endswith(".num_batches_tracked"):
            continue
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            raise ValueError(f"{name} holds no floating-point tensor")
        weights[name] = value.detach()
    # a tensor can claim any size with strides of zero: look before copying
    if sum(weight.numel() * weight.element_size() for weight in weights.values()) > n_bytes:
        raise ValueError("its tensors are larger than the file")
    for name, weight in weights.items():
        if not bool(torch.isfinite(weight).all()):
            raise ValueError(f"{name} holds NaN or infinite weights")
    return {name: weight.clone(memory_format=torch.contiguous_format) for name, weight in weights.items()}


def _count(state: dict[str, torch.Tensor], prefix: str) -> int:
    return len({name.split(".")[1] for name in state if name.startswith(f"{prefix}.")})


def _widths(state: dict[str, torch.Tensor]) -> tuple[int, int, int]:
    """F, h and the number of distance functions."""
    names = ("embedding.weight", "convs.0.fc_full.weight", "conv_to_fc.weight", "fc_out.weight")
    missing = [name for name in names if name not in state]
    if missing:
        raise ValueError(f"these weights are not those of a CGCNN: {', '.join(missing)} missing")
    for name in names:
        if state[name].ndim != 2:
            raise ValueError(f"these weights are not those of a CGCNN: {name} is no matrix")
    atom_features, n_descriptor = state["embedding.weight"].shape
    if n_descriptor != DESCRIPTOR_SIZE:
        raise ValueError(
            f"embedding.weight takes {n_descriptor} bits an element; CGCNN's own descriptor has {DESCRIPTOR_SIZE}"
        )
    bond_features = state["convs.0.fc_full.weight"].shape[1] - 2 * atom_features
    if bond_features < 1:
        raise ValueError("these weights are not those of a CGCNN: convs.0.fc_full.weight is too narrow")
    return atom_features, state["conv_to_fc.weight"].shape[0], bond_features


def _check_shapes(state: dict[str, torch.Tensor], expected: dict[str, tuple[int, ...]]) -> None:
    wrong = [f"{name} missing" for name in expected if name not in state]
    wrong += [f"{name} unknown" for name in state if name not in expected]
    wrong += [
        f"{name} of shape {tuple(state[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(f"these weights are not those of a CGCNN: {', '.join(wrong[:3])}{more}")


def _task(args: dict[str, object], n_outputs: int) -> Task:
    stated = args.get("task")
    if stated is None:
        return "classification" if n_outputs == 2 else "regression"
    tasks: tuple[Task, ...] = ("regression", "classification")
    for task in tasks:
        if stated == task:
            return task
    raise ValueError(f"args['task'] is {stated!r:.40}; regression and classification are known")


def _plain_value(value: object, where: str, depth: int = 0) -> object:
    """A value of plain Python types; a tensor of one element becomes a number."""
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        return value.item()
    if isinstance(value, list | tuple) and depth < _DEEPEST:
        return [_plain_value(item, where, depth + 1) for item in value]
    if isinstance(value, dict) and depth < _DEEPEST:
        return {key: _plain_value(item, where, depth + 1) for key, item in _mapping(value, where).items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"{where} holds a {type(value).__name__}, not a number or a string")


def _real(value: object, where: str) -> float:
    number = _plain_value(value, where)
    if not isinstance(number, int | float) or not math.isfinite(number):
        raise ValueError(f"{where} is {number!r:.40}, not a finite number")
    return float(number)
