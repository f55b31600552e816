"""Read an array of Python objects out of an ``.npz`` file without running anything that is in it.

``numpy.load(..., allow_pickle=True)`` runs whatever the file asks for. Here only arrays, numbers, strings, lists,
tuples and dicts are built; a file that asks for anything else is refused by name.
"""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

_CORE = ("numpy.core.multiarray", "numpy._core.multiarray")
_ADMITTED = frozenset(
    {
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
        *((module, name) for module in _CORE for name in ("_reconstruct", "scalar")),
    }
)

#: what a damaged file makes the readers of zip, npy and pickle raise
_DAMAGED = (zipfile.BadZipFile, pickle.UnpicklingError, ValueError, EOFError, LookupError, TypeError, AttributeError)


class _Unpickler(pickle.Unpickler):
    """Builds arrays and plain Python values."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise _UnsafeError(
                f"it asks for {module}.{name}; only arrays, numbers, strings, lists and dicts are admitted"
            )
        return super().find_class(module, name)


class _UnsafeError(Exception):
    """The file asks for something that is not admitted."""


def read_object(file: Path, name: str) -> Any:
    """The object that ``numpy.savez(file, name=object)`` wrote, in Python 2 or 3.

    Raises
    ------
    ValueError
        If the file has no such array, is damaged, or asks for anything but plain data.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            if f"{name}.npy" not in archive.namelist():
                found = ", ".join(entry.removesuffix(".npy") for entry in archive.namelist()) or "nothing"
                raise _UnsafeError(f"it holds no {name}, but {found}")
            with archive.open(f"{name}.npy") as stream:
                version = np.lib.format.read_magic(stream)
                header = (
                    np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = header(stream)
                if shape != () or dtype != np.dtype(object):
                    raise _UnsafeError(f"{name} is an array of the shape {shape}, not one object")
                return _Unpickler(stream, encoding="latin1").load().item()
    except _UnsafeError as error:
        raise ValueError(f"{file}: {error}") from None
    except _DAMAGED as error:
        raise ValueError(f"{file}: damaged, or not written by numpy.savez ({error})") from error
