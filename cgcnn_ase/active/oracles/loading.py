"""Python objects by name: ``package.module:name``, or ``file.py:name`` beside the configuration."""

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any


def load_named(name: str, folder: Path, setting: str) -> Any:
    """The object with a name.

    Parameters
    ----------
    name
        ``module:attribute`` of a module that can be imported, or ``file.py:attribute``.
    folder
        Where a file is looked for: that of the configuration.
    setting
        Where the name stands, for messages.

    Raises
    ------
    ValueError
        If there is no such module, file or attribute, or it cannot be called.
    """
    where, _, attribute = name.rpartition(":")
    if not where or not attribute:
        raise ValueError(f"{setting} {name!r}: give module:name or file.py:name")
    module = _from_file(folder / where, setting) if where.endswith(".py") else _imported(where, setting)
    found = getattr(module, attribute, None)
    if not callable(found):
        raise ValueError(f"{setting} {name!r}: {where} has no function or class {attribute}")
    return found


def _imported(where: str, setting: str) -> Any:
    try:
        return import_module(where)
    except ModuleNotFoundError as error:
        if error.name is not None and (where == error.name or where.startswith(f"{error.name}.")):
            raise ValueError(f"{setting}: there is no module {where}") from error
        raise


def _from_file(file: Path, setting: str) -> Any:
    if not file.is_file():
        raise ValueError(f"{setting}: there is no file {file}")
    name = f"cgcnn_ase_oracle_{file.stem}"
    spec = spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
