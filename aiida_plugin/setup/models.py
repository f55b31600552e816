"""The pretrained models as nodes."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from aiida_plugin.data.model import CGCNNModelData
from aiida_plugin.setup.finding import SETUP, Finding, Part
from cgcnn_ase.registry import find_models, model_names


def pretrained_models() -> Iterator[Part]:
    """A part for each folder of pretrained models; several models may share one."""
    for path in dict.fromkeys(ref.path for name in model_names() for ref in find_models(name)):
        yield Part(f"model {path.name}", partial(_look, path), partial(_make, path))


def _look(path: Path) -> Finding:
    node = CGCNNModelData.from_name(path)
    stored = node.stored()
    what = f"model {path.name}"
    if stored is None:
        return Finding(what, "missing", "it is not stored", SETUP)
    stored.contents()
    names = [name for name in stored.names if name != path.name]
    return Finding(what, "there", f"node {stored.pk}" + (f": {', '.join(stored.names)}" if names else ""))


def _make(path: Path) -> None:
    CGCNNModelData.get_or_create(path)
