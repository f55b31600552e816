"""Read the original CGCNN ``.pth.tar`` checkpoints without running anything that is in them.

Such a file is a pickle, and a pickle can ask for any Python function to be called. It is therefore read in two steps.
First every name that the file asks for is listed, without building anything, and one that is not needed for tensors,
numbers, strings, dicts and lists refuses the file. Then PyTorch's own restricted unpickler (``weights_only=True``)
builds what is left; numpy scalars become plain Python numbers. Both of PyTorch's formats are read: the old one of the
published files, and the zip archive that ``torch.save`` writes now.
"""

import hashlib
import io
import math
import pickle
import pickletools
import re
import struct
import threading
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from cgcnn_ase.core.elements import DESCRIPTOR_SIZE
from cgcnn_ase.core.targets import Scaler, TargetSpec
from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.nn.cgcnn import CGCNNConfig
from cgcnn_ase.nn.network import Network, NetworkConfig

#: what the eight published files predict, by file name
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

#: the graph of the original code: the 12 nearest within 8 Å, the missing ones replaced by atom 0 at 9 Å
ORIGINAL_GRAPH = GraphConfig(rule="knn", cutoff=8.0, n_neighbors=12, padding="first-atom")


def is_legacy(path: Path) -> bool:
    """Whether a path looks like an original checkpoint."""
    return path.name.endswith((".pth.tar", ".pth", ".tar"))


def load_legacy(path: Path) -> CrystalModel:
    """Read an original checkpoint as a model.

    The target of a file with one of the eight published names is known; another's is called ``prediction`` with no
    unit.

    Raises
    ------
    UnsafeCheckpointError
        If the file asks for anything but tensors and plain values.
    ValueError
        If it is damaged or not a CGCNN.
    """
    checkpoint = read_legacy_checkpoint(path)
    stem = path.name.split(".")[0]
    unknown = TargetSpec(name="prediction", unit="", task=checkpoint.task)
    target = PUBLISHED.get(stem, unknown)
    if target.task != checkpoint.task:
        target = unknown
    with torch.random.fork_rng(devices=[]):  # the initial weights are drawn; the caller's random state stays
        network = Network(_config(checkpoint))
    network.load_state_dict({_new_name(name): tensor for name, tensor in checkpoint.state.items()} | _counters(network))
    return CrystalModel(
        [network],
        graph=ORIGINAL_GRAPH,
        target=target,
        scaler=Scaler(checkpoint.mean, checkpoint.std),
        name=stem,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        training={"source": "original CGCNN checkpoint", "epoch": checkpoint.epoch},
    )


Task = Literal["regression", "classification"]


class LegacyCheckpoint(NamedTuple):
    """An original CGCNN model, as its file holds it.

    Parameters
    ----------
    state
        The weights by the names of the reference code: ``embedding``, ``convs.i.fc_full``, ``convs.i.bn1``,
        ``convs.i.bn2``, ``conv_to_fc``, ``fcs.i``, ``fc_out``.
    mean, std
        The normalizer, in the unit of the target: prediction = output * std + mean. 0 and 1 for a classifier.
    task
        ``"regression"`` or ``"classification"``.
    epoch
        How many epochs the model was trained for.
    args
        The command-line arguments of the training run.
    atom_features, bond_features, hidden, n_conv, n_hidden
        Widths of the atom vectors (F), of the distance expansion and of the hidden layers (h), and the numbers of
        convolutions and hidden layers (n_h), read off the shapes of the weights.
    """

    state: dict[str, torch.Tensor]
    mean: float
    std: float
    task: Task
    epoch: int
    args: dict[str, object]
    atom_features: int
    bond_features: int
    hidden: int
    n_conv: int
    n_hidden: int


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


_RENAMED = {
    "embedding.": "architecture.embedding.linear.",
    "convs.": "architecture.convolutions.",
    "conv_to_fc.": "architecture.to_crystal.",
    "fcs.": "architecture.hidden.",
    "fc_out.": "head.out.",
}
_WITHIN_CONVOLUTION = {".fc_full.": ".full.", ".bn1.": ".edge_norm.", ".bn2.": ".node_norm."}


def _new_name(name: str) -> str:
    """Our name of one of the original's weights."""
    for old, new in _RENAMED.items():
        if name.startswith(old):
            name = new + name.removeprefix(old)
            break
    for old, new in _WITHIN_CONVOLUTION.items():
        name = name.replace(old, new)
    return name


def _counters(network: Network) -> dict[str, Tensor]:
    """The batch counters of the norms, which the original files do not hold."""
    return {k: torch.zeros_like(v) for k, v in network.state_dict().items() if k.endswith("num_batches_tracked")}


_STORAGES = ("BFloat16", "Bool", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short")
_ADMITTED = frozenset(
    {
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        *(f"torch.{kind}Storage" for kind in _STORAGES),
        "_codecs.encode",
        "numpy.dtype",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
    }
)
_ADMITTED_IN_WORDS = "only tensors, numbers, strings, dicts and lists are admitted"

# what a damaged file makes the pickle, zip and torch readers raise
_DAMAGED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
)
_ZIP_MAGIC = b"PK\x03\x04"

# the old format: a magic number, a protocol number, facts of the machine, the object, the keys of its storages
_PICKLES_IN_OLD_FORMAT = 5
_OLD_MAGIC = 0x1950A86A20F9469CFC6C

# how deep lists may lie in one another in the arguments of the training run
_DEEPEST = 4

# torch keeps the admitted names of `safe_globals` in one place for the whole process
_ONE_AT_A_TIME = threading.Lock()


class UnsafeCheckpointError(ValueError):
    """A checkpoint that asks for something other than tensors, numbers, strings, dicts and lists."""


def read_legacy_checkpoint(path: str | PathLike[str]) -> LegacyCheckpoint:
    """Read an original CGCNN ``.pth.tar`` file; nothing in it is executed, and its optimizer is ignored.

    Parameters
    ----------
    path
        The file, in PyTorch's old or zip format.

    Returns
    -------
    LegacyCheckpoint
        Weights of the right names and shapes, all finite, with a finite normalizer.

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
        return _interpret(_load(content), n_bytes=len(content))
    except UnsafeCheckpointError as error:
        raise UnsafeCheckpointError(f"refused to load {path}: {error}; {_ADMITTED_IN_WORDS}") from None
    except (ValueError, OverflowError) as error:
        raise ValueError(f"cannot read {path} as a CGCNN checkpoint: {error}") from None


def _load(content: bytes) -> object:
    """Check every name in the file, then let torch build the object."""
    try:
        is_checkpoint = _check_names(content)
    except UnsafeCheckpointError:
        raise
    except _DAMAGED as error:
        raise ValueError(f"it is truncated, damaged or no PyTorch file ({_first_line(error)})") from error
    if not is_checkpoint:
        raise ValueError("it was not written by torch.save")
    try:
        with _ONE_AT_A_TIME, torch.serialization.safe_globals(_STAND_INS):
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsafeCheckpointError(_first_line(error)) from error
    except _DAMAGED as error:
        raise ValueError(f"it is truncated or damaged ({_first_line(error)})") from error


def _first_line(error: BaseException) -> str:
    """The fact in an error's message; torch puts advice to load the file without protection before it and after."""
    message = str(error).rpartition("WeightsUnpickler error: ")[2].strip()
    return message.splitlines()[0] if message else type(error).__name__


# Names
def _check_names(content: bytes) -> bool:
    """Refuse a name that is not admitted in any pickle that torch would read; True if torch.save wrote the file."""
    if content.startswith(_ZIP_MAGIC):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            if len({entry.filename for entry in entries}) < len(entries):
                raise ValueError("two entries of the archive have the same name")
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise ValueError("the archive is compressed")
            pickles = [archive.read(entry) for entry in entries if entry.filename.endswith(".pkl")]
        for data in pickles:
            _check_names_of_next_pickle(io.BytesIO(data))
        return bool(pickles)
    stream = io.BytesIO(content)
    if _check_names_of_next_pickle(stream) != _OLD_MAGIC:
        return False
    for _ in range(_PICKLES_IN_OLD_FORMAT - 1):
        _check_names_of_next_pickle(stream)
    return True


def _check_names_of_next_pickle(stream: io.BytesIO) -> object:
    """Refuse a name that is not admitted; return the first constant of the pickle."""
    start = stream.getvalue()[stream.tell() : stream.tell() + 2]
    first: object = None
    for name, constant in _walk(stream):
        if name is not None and name not in _ADMITTED:
            raise UnsafeCheckpointError(f"it asks for {name}")
        if first is None:
            first = constant
    if start[:1] == pickle.PROTO and start[1:] != b"\x02":
        raise ValueError(f"it is a pickle of protocol {start[1]}; torch.save writes protocol 2")
    return first


def _walk(stream: io.BytesIO) -> Iterator[tuple[str | None, object]]:
    """Step through one pickle without building anything: the name asked for, or the constant, at each step."""
    constants: list[object] = ["?", "?"]
    memo: dict[object, object] = {}
    for opcode, argument, _position in pickletools.genops(stream):
        if opcode.name in ("GLOBAL", "INST"):
            yield _dotted(*str(argument).split(" ", 1)), None
        elif opcode.name == "STACK_GLOBAL":
            yield _dotted(*map(str, constants[-2:])), None
        elif opcode.name.startswith("EXT"):
            yield f"number {argument} of the copyreg extension registry", None
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = constants[-1]
        elif opcode.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = constants[-1]
        elif opcode.name in ("GET", "BINGET", "LONG_BINGET"):
            constants.append(memo.get(argument))
        elif opcode.name not in ("PROTO", "FRAME") and argument is not None:
            constants.append(argument)
            yield None, argument


def _dotted(module: str, name: str) -> str:
    """The full name in Python 3; the old protocols write those of Python 2."""
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"


# Numpy scalars: numpy's own functions are not called, the bytes are read as a plain number
class _NumberType:
    """Stands in for ``numpy.dtype``: a real number, an integer or a boolean of 1 to 8 bytes."""

    def __init__(self, code: object, *_: object) -> None:
        if not isinstance(code, str) or not re.fullmatch("[fiub][1248]", code):
            raise pickle.UnpicklingError(f"it asks for numpy.dtype({code!r:.40})")
        self.code = code
        self.byte_order = "<"

    def __setstate__(self, state: tuple[object, ...]) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"it asks for a numpy.dtype of byte order {state[1]!r:.40}")
        self.byte_order = str(state[1])


def _number(kind: object, data: object) -> bool | int | float:
    """Stands in for ``numpy.core.multiarray.scalar``."""
    if not isinstance(kind, _NumberType) or not isinstance(data, bytes):
        raise pickle.UnpicklingError("it asks for a numpy scalar of something that is no number")
    (value,) = np.frombuffer(data, np.dtype(kind.byte_order + kind.code)).tolist()
    return value  # type: ignore[no-any-return]


_STAND_INS: list[Callable[..., object] | tuple[Callable[..., object], str]] = [
    (_NumberType, "numpy.dtype"),
    (_number, "numpy.core.multiarray.scalar"),
    (_number, "numpy._core.multiarray.scalar"),
]


# Meaning
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
    n_outputs = 2 if task == "classification" else 1
    _check_shapes(state, _shapes(atom_features, bond_features, hidden, n_conv, n_hidden, n_outputs))

    normalizer = _mapping(checkpoint["normalizer"], "normalizer")
    mean, std = (_real(normalizer.get(key), f"normalizer[{key!r}]") for key in ("mean", "std"))
    if std <= 0:
        raise ValueError(f"normalizer['std'] is {std}, not positive")
    epoch = int(_real(checkpoint["epoch"], "epoch"))
    return LegacyCheckpoint(state, mean, std, task, epoch, args, atom_features, bond_features, hidden, n_conv, n_hidden)


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


def _shapes(
    atom_features: int, bond_features: int, hidden: int, n_conv: int, n_hidden: int, n_outputs: int
) -> dict[str, tuple[int, ...]]:
    """Every weight of a CGCNN with its shape."""

    def linear(name: str, n_in: int, n_out: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (n_out, n_in), f"{name}.bias": (n_out,)}

    shapes = linear("embedding", DESCRIPTOR_SIZE, atom_features)
    for i in range(n_conv):
        shapes |= linear(f"convs.{i}.fc_full", 2 * atom_features + bond_features, 2 * atom_features)
        for norm, width in (("bn1", 2 * atom_features), ("bn2", atom_features)):
            for part in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"convs.{i}.{norm}.{part}"] = (width,)
    shapes |= linear("conv_to_fc", atom_features, hidden)
    for i in range(n_hidden - 1):
        shapes |= linear(f"fcs.{i}", hidden, hidden)
    return shapes | linear("fc_out", hidden, n_outputs)


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
    for task in get_args(Task):
        if stated == task:
            return task  # type: ignore[no-any-return]
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
