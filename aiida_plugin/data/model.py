"""A model as a node. Nothing here needs torch, but for an original ``.pth.tar``."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from aiida.common.exceptions import ValidationError
from aiida.orm import Data, QueryBuilder

from aiida_plugin.data import attribute
from cgcnn_ase.models.folder import CONFIG, WEIGHTS, CheckpointError, model_entries, read_config, read_weights
from cgcnn_ase.models.registry import DEFAULT_MODEL, find_models, scale_of

if TYPE_CHECKING:
    from cgcnn_ase.models.crystal_model import CrystalModel

# what a model folder may hold besides; neighbors.safetensors are the nearest training structures, for explanations
BESIDES = ("README.md", "training-ids.txt.gz", "neighbors.safetensors")


class CGCNNModelData(Data):
    """A model folder, or an original CGCNN ``.pth.tar`` file, in the node's repository.

    Models that share their members share a folder, and so a node: ``names``, ``targets``, ``units``, ``tasks``
    (regression or classification), ``levels`` (crystal or site), ``scales`` (of energies, by name, see
    :mod:`cgcnn_ase.energies.scales`; None of others, and where the file does not say) and ``train_hashes`` (sha256 of
    the ids and targets of the training set; None as well) are lists with one item each. The other attributes are
    ``name``, ``architecture``, ``n_members``, ``package_version`` (that wrote the model), ``sha256`` (of the weights:
    the ``model_sha256`` of its predictions), ``files`` (sha256 by file name) and ``content_sha256`` (of all of
    ``files``).

    Parameters
    ----------
    path : path, optional
        The folder or file.

    Raises
    ------
    CheckpointError, UnsafeCheckpointError
        If it is no model, damaged, or asks for more than data.
    """

    class AttributesModel(Data.AttributesModel):
        """Fields for queries: ``CGCNNModelData.fields.attributes.sha256`` and so on."""

        name: str = attribute("name", "The name of the folder or file")
        names: list[str] = attribute("names", "The names of the models")
        targets: list[str] = attribute("targets", "What each model predicts")
        units: list[str] = attribute("units", "The unit of each")
        tasks: list[str] = attribute("tasks", "Regression or classification, of each")
        levels: list[str] = attribute("levels", "Crystal or site, of each")
        train_hashes: list[str | None] = attribute("train_hashes", "The sha256 of each training set, where known")
        scales: list[str | None] | None = attribute("scales", "The scale of the energies, of each", default=None)
        architecture: str = attribute("architecture", "The kind of network")
        n_members: int = attribute("n_members", "How many networks there are")
        package_version: str | None = attribute("package_version", "The version that wrote the model")
        sha256: str = attribute("sha256", "Of the weights")
        files: dict[str, str] = attribute("files", "The sha256 of each file")
        content_sha256: str = attribute("content_sha256", "Of all files")
        labels_converged: bool | None = attribute(
            "labels_converged", "False where it learned from labels that are marked as not converged", default=None
        )

    # told by the files, and not there in nodes of early versions
    _hash_ignored_attributes = ("scales",)

    def __init__(self, path: str | Path | None = None, **kwargs: Any) -> None:
        Data.__init__(self, **kwargs)
        if path is None:
            return
        folder = model_path(Path(path))
        contents = read_contents(folder)
        for name, content in contents.items():
            self.base.repository.put_object_from_bytes(content, name)
        files = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        self.base.attributes.set_many(describe(folder) | {"files": files, "content_sha256": hash_of_files(files)})
        self.label = self.label or self.base.attributes.get("name")

    @classmethod
    def from_name(cls, name: str | Path = DEFAULT_MODEL) -> "CGCNNModelData":
        """A new node, not stored, of a pretrained name, a model or run folder, or an original ``.pth.tar`` file.

        The name of one of several models that share a folder gives the node of the whole folder.

        Raises
        ------
        UnknownModelError
            If there is no such model; the message lists the names.
        """
        return cls(model_path(name))

    @classmethod
    def get_or_create(cls, name: str | Path = DEFAULT_MODEL) -> "CGCNNModelData":
        """The stored node of a model: that which has the same files, or else a new one."""
        node = cls.from_name(name)
        return node.stored() or node.store()

    def stored(self) -> "CGCNNModelData | None":
        """The first stored node with the same files."""
        query = QueryBuilder().append(
            CGCNNModelData, tag="model", filters={"attributes.content_sha256": self.content_sha256}
        )
        result: list[CGCNNModelData] = query.order_by({"model": {"id": "asc"}}).limit(1).all(flat=True)
        return result[0] if result else None

    @property
    def names(self) -> list[str]:
        """Names of the models, in the order of ``targets`` and ``units``."""
        return list(self.base.attributes.get("names"))

    @property
    def scales(self) -> list[str | None]:
        """Scales of the energies of the models, in the order of ``names``; None where there is none."""
        stated: list[str | None] | None = self.base.attributes.get("scales", None)
        if stated is None:  # of an early version
            if CONFIG not in self.files:
                return [None] * len(self.names)
            stated = _scales(json.loads(self.base.repository.get_object_content(CONFIG, "rb")))
        return list(stated)

    @property
    def sha256(self) -> str:
        """Of the weights."""
        return str(self.base.attributes.get("sha256"))

    @property
    def content_sha256(self) -> str:
        """Of the names and sha256 of all files."""
        return str(self.base.attributes.get("content_sha256"))

    @property
    def files(self) -> dict[str, str]:
        """The sha256 of each file."""
        return dict(self.base.attributes.get("files"))

    def contents(self) -> dict[str, bytes]:
        """The files by name.

        Raises
        ------
        CheckpointError
            If one is missing or was changed since the node was made; the message names it.
        """
        here = set(self.base.repository.list_object_names())
        if strange := sorted(here ^ self.files.keys()):
            what = "is missing" if strange[0] in self.files else "does not belong to this model"
            raise CheckpointError(f"{self._in_words()}: {strange[0]} {what}")
        contents = {name: self.base.repository.get_object_content(name, "rb") for name in self.files}
        for name, content in contents.items():
            sha256 = hashlib.sha256(content).hexdigest()
            if sha256 != self.files[name]:
                raise CheckpointError(
                    f"{self._in_words()}: {name} was changed: its sha256 is {sha256[:12]}..., "
                    f"the node was made of {self.files[name][:12]}..."
                )
        return contents

    def export(self, folder: str | Path) -> Path:  # type: ignore[override]
        """Write the files into a new or empty folder.

        Returns
        -------
        Path
            What ``cgcnn-ase predict --model`` and :func:`cgcnn_ase.load_model` take: the folder, or the ``.pth.tar``
            file in it.

        Raises
        ------
        ValueError
            If the folder holds something.
        CheckpointError
            If a file was changed since the node was made.
        """
        path = Path(folder)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ValueError(f"{path}: not an empty folder; a model is exported into a new or empty one")
        contents = self.contents()
        path.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (path / name).write_bytes(content)
        return path / next(iter(contents)) if len(contents) == 1 else path

    def load(self, name: str | None = None) -> "CrystalModel":
        """The model, ready to predict.

        Parameters
        ----------
        name
            Which one, where several share the folder.

        Raises
        ------
        CheckpointError
            If a file was changed since the node was made.
        ValueError
            If the node holds several models and the name none of them.
        """
        from cgcnn_ase.models.registry import load_refs

        if name is None and len(self.names) > 1:
            raise ValueError(f"{self._in_words()} holds several models, name one: {', '.join(self.names)}")
        if name is not None and name not in self.names:
            raise ValueError(f"{self._in_words()} holds no model {name!r}; it holds {', '.join(self.names)}")
        with TemporaryDirectory(prefix="cgcnn-model-") as folder:
            refs = find_models(self.export(folder))
            return load_refs([ref for ref in refs if name is None or ref.name in (None, name)])[0]

    def _in_words(self) -> str:
        return f"model node {self.pk}" if self.is_stored else "unstored model node"

    def _validate(self) -> bool:
        """Refuse to store a node whose files are not those it was made of."""
        super()._validate()
        if "files" not in self.base.attributes.all:
            raise ValidationError("a model node needs a model: CGCNNModelData(path), .from_name or .get_or_create")
        try:
            self.contents()
        except CheckpointError as error:
            raise ValidationError(str(error)) from error
        return True


def model_path(name: str | Path) -> Path:
    """The folder or file of a pretrained name, a model or run folder, or an original ``.pth.tar`` file.

    The name of one of several models that share a folder stands for the folder; errors as of `find_models`, and a
    ValueError for the models of several folders (``all``).
    """
    paths = list(dict.fromkeys(ref.path for ref in find_models(name)))
    if len(paths) > 1:
        raise ValueError(
            f"{name}: these are the models of {len(paths)} folders; a node holds one: take them one by one"
        )
    return paths[0]


def read_contents(path: Path) -> dict[str, bytes]:
    """The files of a model by name, if they are whole; a CheckpointError if one is missing or damaged."""
    if not path.is_dir():
        return {path.name: path.read_bytes()}
    config = read_config(path)
    contents = {WEIGHTS: read_weights(path, config), CONFIG: (path / CONFIG).read_bytes()}
    return contents | {name: (path / name).read_bytes() for name in BESIDES if (path / name).is_file()}


def describe(path: Path) -> dict[str, object]:
    """Facts of a model from its files; lists hold one item for each model of the folder, in the same order."""
    return _of_folder(read_config(path)) if path.is_dir() else _of_original(path)


def hash_of_files(files: Mapping[str, str]) -> str:
    """One sha256 of the names of some files and their sha256: two models with the same have the same files."""
    return hashlib.sha256("".join(f"{sha}  {name}\n" for name, sha in sorted(files.items())).encode()).hexdigest()


def _of_folder(config: dict[str, Any]) -> dict[str, object]:
    entries = model_entries(config)
    targets = [entry["target"] for entry in entries]
    return {
        "name": config["name"],
        "names": [entry["name"] for entry in entries],
        "targets": [target["name"] for target in targets],
        "units": [target["unit"] for target in targets],
        "tasks": [target["task"] for target in targets],
        "levels": [target.get("level", "crystal") for target in targets],
        "train_hashes": [entry["training"].get("train_hash") for entry in entries],
        "scales": _scales(config),
        "architecture": config["network"]["architecture"].get("architecture", "cgcnn"),
        "n_members": config["n_members"],
        "package_version": config["package_version"],
        "sha256": config["sha256"][WEIGHTS],
        **({"labels_converged": False} if _learned_unconverged(entries) else {}),
    }


def _scales(config: dict[str, Any]) -> list[str | None]:
    """List the scale that each model of a folder states; None where it states none."""
    return [scale_of(config, entry) for entry in model_entries(config)]


def _learned_unconverged(entries: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether a model of the folder says that its labels are not converged."""
    return any(entry["training"].get("labels_converged") is False for entry in entries)


def _of_original(path: Path) -> dict[str, object]:
    """Of a ``.pth.tar``, which does not say what it was trained on nor with which version."""
    from cgcnn_ase.models.registry import load_model

    model = load_model(path)
    return {
        "name": model.name,
        "names": [model.name],
        "targets": [model.target.name],
        "units": [model.target.unit],
        "tasks": [model.target.task],
        "levels": [model.target.level],
        "train_hashes": [None],
        "scales": [model.scale],
        "architecture": "cgcnn",
        "n_members": 1,
        "package_version": None,
        "sha256": model.sha256,
    }
