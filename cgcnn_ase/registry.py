"""Pretrained models by name: where they are, what they are, and how to load them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgcnn_ase.model_folder import WEIGHTS, CheckpointError, read_config

if TYPE_CHECKING:
    from cgcnn_ase.nn.model import CrystalModel

DEFAULT_MODEL = "formation-energy-per-atom"


class UnknownModelError(ValueError):
    """A model name that is neither pretrained nor a path."""


@dataclass(frozen=True)
class ModelInfo:
    """What a model's configuration says of it."""

    name: str
    target: str
    unit: str
    n_members: int
    test_mae: float | None  #: in ``unit``, on the test split that its card names
    size: int  #: bytes of its weights
    sha256: str
    path: Path


def pretrained_folder() -> Path:
    """Where the pretrained models lie: in the installed package, else beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "pretrained"
    return installed if installed.is_dir() else package.parent / "pretrained"


def model_names() -> list[str]:
    """Names of the pretrained models."""
    return sorted(path.parent.name for path in pretrained_folder().glob("*/config.json"))


def model_info(name: str) -> ModelInfo:
    """What is known of a model, without loading its weights."""
    folder = find_model(name)
    config: dict[str, Any] = read_config(folder)
    return ModelInfo(
        name=config["name"],
        target=config["target"]["name"],
        unit=config["target"]["unit"],
        n_members=config["n_members"],
        test_mae=config["training"].get("test", {}).get("mae"),
        size=(folder / WEIGHTS).stat().st_size,
        sha256=config["sha256"][WEIGHTS],
        path=folder,
    )


def find_model(name: str | Path) -> Path:
    """The folder or file of a model, by pretrained name or path.

    Raises
    ------
    UnknownModelError
        If there is neither; the message lists the names.
    """
    if (path := Path(name)).exists():
        return path
    if str(name) in model_names():
        return pretrained_folder() / str(name)
    raise UnknownModelError(
        f"no model {str(name)!r}: neither a file or folder nor a pretrained model; pretrained: "
        f"{', '.join(model_names()) or 'none'}"
    )


def model_folder(name: str | Path) -> Path | None:
    """The folder of a model that is one: a training run's folder holds it in ``best``. None for a file.

    Raises
    ------
    UnknownModelError
        If there is no such model.
    """
    path = find_model(name)
    run = path / "best"
    return None if path.is_file() else run if run.is_dir() else path


def load_model(name: str | Path = DEFAULT_MODEL) -> "CrystalModel":
    """Load a model by pretrained name, from a model or run folder, or from an original CGCNN ``.pth.tar``.

    Raises
    ------
    UnknownModelError
        If there is no such model.
    CheckpointError, UnsafeCheckpointError
        If its files are damaged or ask for more than data.
    """
    from cgcnn_ase.checkpoint import load_folder
    from cgcnn_ase.legacy_model import is_legacy, load_legacy

    path = model_folder(name) or find_model(name)
    if path.is_dir():
        return load_folder(path)
    if is_legacy(path):
        return load_legacy(path)
    raise CheckpointError(f"{path}: not a model; allowed: a model folder, or an original CGCNN .pth.tar file")
