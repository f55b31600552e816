"""Read PyTorch files from strangers without running anything that is in them.

Such a file is a pickle, and a pickle can ask for any Python function to be called. It is read in two steps. First every
name that the file asks for is listed, without building anything, and one that is not needed for tensors, numbers,
strings, dicts and lists refuses the file by that name. PyTorch's own ``weights_only=True``, which then builds what is
left, admits more: sets, parameters, and what the program has admitted elsewhere. Numpy scalars become plain Python
numbers. Both of PyTorch's formats are read: the old one of the original CGCNN, and the zip archive of ``torch.save``.
"""

import io
import pickle
import pickletools
import re
import struct
import threading
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Iterator

import numpy as np
import torch

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
ADMITTED = "only tensors, numbers, strings, dicts and lists are admitted"

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

# torch keeps the admitted names of `safe_globals` in one place for the whole process
_ONE_AT_A_TIME = threading.Lock()


class UnsafeCheckpointError(ValueError):
    """A checkpoint that asks for something other than tensors, numbers, strings, dicts and lists."""


def unpickle(content: bytes) -> object:
    """Check every name in a file, then let torch build the object.

    :class:`UnsafeCheckpointError`, which names it, if the file asks for anything but tensors, numbers, strings, dicts
    and lists; ValueError if it is damaged or was not written by ``torch.save``.
    """
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


# numpy scalars: numpy's own functions are not called, the bytes are read as a plain number
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
    value: bool | int | float
    (value,) = np.frombuffer(data, np.dtype(kind.byte_order + kind.code)).tolist()
    return value


_STAND_INS: list[Callable[..., object] | tuple[Callable[..., object], str]] = [
    (_NumberType, "numpy.dtype"),
    (_number, "numpy.core.multiarray.scalar"),
    (_number, "numpy._core.multiarray.scalar"),
]
