"""Record of what ran: versions of this package and of those that decide its numbers, the machine, threads, seeds."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from importlib import metadata
from pathlib import Path

from cgcnn_ase.core.files import atomic_write
from cgcnn_ase.core.parallel import available_cores

ENVIRONMENT = "environment.json"  # the file of a training run
PACKAGES = ("torch", "dgl", "numpy", "scipy", "ase", "pymatgen")  # those that decide numbers
_PACKAGE = Path(__file__).parents[1]  # this package's folder
_DIGITS = 12  # of the hash that names changes
_PATIENCE = 10  # seconds for git


def package_version() -> str:
    """Version of the installed package, ``unknown`` in a bare checkout."""
    return installed_versions("cgcnn-ase").get("cgcnn-ase", "unknown")


def installed_versions(*packages: str) -> dict[str, str]:
    """Versions of those of these packages (by default `PACKAGES`) that are installed."""
    installed = {name: next(iter(metadata.distributions(name=name)), None) for name in packages or PACKAGES}
    return {name: distribution.version for name, distribution in installed.items() if distribution is not None}


@cache
def checkout_state() -> dict[str, str]:
    """State of the checkout that the package runs from; empty where it was installed otherwise, or git is not there.

    Returns
    -------
    dict
        ``commit``, and where files of the package differ from it ``changes``, a hash of the difference.
    """
    if not (_PACKAGE.parent / ".git").exists():  # a folder, or a file in a working tree beside the first
        return {}
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return {}
    state = {"commit": commit.decode().strip()}
    if difference := _git("diff", "HEAD", "--", _PACKAGE.name):
        state["changes"] = sha256(difference).hexdigest()[:_DIGITS]
    return state


def environment_record(*, engine: str, device: str, seeds: Mapping[str, int]) -> dict[str, object]:
    """Describe what a run's numbers depend on beside its inputs, as JSON.

    Parameters
    ----------
    engine
        Of the message passing, resolved: dgl or torch.
    device
        ``cpu``, or the GPU by name.
    seeds
        By what they decide.

    Returns
    -------
    dict
        These, ``package_version``, ``checkout`` (see `checkout_state`), ``versions`` (of `PACKAGES`), ``python``,
        ``host``, ``platform`` and ``threads``.
    """
    return {
        "package_version": package_version(),
        "checkout": checkout_state(),
        "versions": installed_versions(),
        "python": platform.python_version(),
        "host": platform.node(),
        "platform": platform.platform(),
        "threads": _threads(),
        "device": device,
        "engine": engine,
        "seeds": dict(seeds),
    }


def write_environment(path: Path, *, engine: str, device: str, seeds: Mapping[str, int]) -> None:
    """Write the record to a JSON file; parameters as of `environment_record`."""
    record = environment_record(engine=engine, device=device, seeds=seeds)
    atomic_write(path, json.dumps(record, indent=1) + "\n")


def _threads() -> int:
    """Threads of torch where it is loaded, else those that it will take."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() else available_cores()


def _git(*words: str) -> bytes | None:
    """Output of a git command in the checkout, None where it fails."""
    try:
        done = subprocess.run(
            ["git", "-C", str(_PACKAGE.parent), *words], capture_output=True, timeout=_PATIENCE, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
