"""The structures of a model's training set that lie nearest to another one, as the model sees them.

What is kept of the training set are ids and a compressed embedding of each: 32 bytes, the first principal components of
the first member's crystal embedding in eight bits each. No structure is kept.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cgcnn_ase.core.arrays import AnyArray, Floats, Floats32
from cgcnn_ase.graphs.crystal_graph import CrystalGraph, to_device
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.models.folder import CheckpointError

if TYPE_CHECKING:
    from cgcnn_ase.data.prepared import PreparedData

# name of the file in a model folder; a model without one has no index
NEIGHBORS = "neighbors.safetensors"

# principal components that are kept
N_COMPONENTS = 32

_BATCH = 128
_LEVELS = 127
# training structures whose nearest other one tells what a typical distance is
_N_TYPICAL = 1000
# fields that are written as they are
_ARRAYS = ("codes", "scale", "mean", "components")


class Neighbor(NamedTuple):
    """A structure of the training set."""

    id: str
    distance: float  # Euclidean, between the kept components of the embeddings


@dataclass(frozen=True, eq=False, kw_only=True)
class NeighborIndex:
    """Ids and compressed embeddings of n training structures; distances are Euclidean.

    ``codes * scale`` are the components of ``embedding - mean`` along the columns of ``components``, rounded.
    """

    ids: npt.NDArray[np.bytes_]  # (n,) UTF-8
    codes: npt.NDArray[np.int8]  # (n, D)
    scale: Floats32  # (D,)
    mean: Floats32  # (F,)
    components: Floats32  # (F, D), orthonormal columns
    typical: float  # median distance of a training structure from the nearest other one
    model_sha256: str  # of the weights whose embeddings these are

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of_embeddings(
        cls,
        ids: list[str],
        embeddings: npt.ArrayLike,
        *,
        model_sha256: str = "",
        n_components: int = N_COMPONENTS,
    ) -> "NeighborIndex":
        """Compress the embeddings (n, F), finite, of the structures with these n ids."""
        x = np.asarray(embeddings, dtype=np.float64)
        if x.ndim != 2 or not len(x) or len(x) != len(ids):
            raise ValueError(f"an index needs an embedding for each id: {len(ids)} ids, embeddings {x.shape}")
        if not np.isfinite(x).all():
            raise ValueError("embeddings hold values that are not finite")
        mean = x.mean(axis=0)
        variance, axes = np.linalg.eigh((x - mean).T @ (x - mean))
        components = axes[:, np.argsort(-variance)[:n_components]]
        projected = (x - mean) @ components
        scale = np.maximum(np.abs(projected).max(axis=0), np.finfo(np.float32).tiny * _LEVELS) / _LEVELS
        index = cls(
            ids=np.array([name.encode() for name in ids]),
            codes=np.rint(projected / scale).astype(np.int8),
            scale=scale.astype(np.float32),
            mean=mean.astype(np.float32),
            components=np.ascontiguousarray(components, dtype=np.float32),
            typical=0.0,
            model_sha256=model_sha256,
        )
        some = np.unique(np.linspace(0, len(x) - 1, _N_TYPICAL).astype(int))
        others = [np.delete(index.distances(x[i]), i).min(initial=np.inf) for i in some]
        return replace(index, typical=float(np.median(others)))

    def distances(self, embedding: npt.ArrayLike) -> Floats:
        """Distance of every training structure from one embedding (F,), shape (n,)."""
        x = np.asarray(embedding, dtype=np.float64)
        if x.shape != self.mean.shape:
            raise ValueError(f"the index is of embeddings of the shape {self.mean.shape}, got {x.shape}")
        difference = self.codes * self.scale - ((x - self.mean) @ self.components).astype(np.float32)
        return np.asarray(np.sqrt(np.einsum("nd,nd->n", difference, difference, dtype=np.float64)))

    def nearest(self, model: CrystalModel, graph: CrystalGraph, k: int = 5) -> list[Neighbor]:
        """The k nearest training structures of one crystal, the nearest first; all of them where there are fewer.

        ValueError if k is not positive, there is not one crystal, or the model is not the index's.
        """
        if k < 1:
            raise ValueError(f"the number of neighbours must be at least 1, not {k}")
        if len(graph.n_nodes) != 1:
            raise ValueError(f"neighbours are looked for of one crystal, not of {len(graph.n_nodes)}")
        if model.sha256 != self.model_sha256:
            raise ValueError(f"the index is of another model's weights than those of {model.name!r}")
        distances = self.distances(crystal_embeddings(model, graph)[0])
        order = np.argsort(distances, kind="stable")[:k]
        return [Neighbor(self.ids[i].decode(), float(distances[i])) for i in order]

    def save(self, folder: Path) -> Path:
        """Write :data:`NEIGHBORS` into a model folder; the file holds its own sha256."""
        arrays: dict[str, AnyArray] = {
            "ids": self.ids.view(np.uint8).reshape(len(self), -1),
            **{name: getattr(self, name) for name in _ARRAYS},
            "typical": np.array([self.typical], dtype=np.float32),
            "model_sha256": np.frombuffer(self.model_sha256.encode(), dtype=np.uint8),
        }
        file = folder / NEIGHBORS
        file.write_bytes(save(arrays | {"sha256": _hash(arrays)}))
        return file


def load_neighbor_index(folder: Path, *, model_sha256: str) -> NeighborIndex | None:
    """The index of a model folder, or None where it has none.

    :class:`CheckpointError` if the file is damaged, or was made of other weights.
    """
    file = folder / NEIGHBORS
    if not file.is_file():
        return None
    try:
        arrays = load(file.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from error
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{file}: damaged: {error}") from error
    if set(arrays) != {*_ARRAYS, "ids", "typical", "model_sha256", "sha256"}:
        raise CheckpointError(f"{file}: not an index of neighbours: it holds {', '.join(sorted(arrays)) or 'nothing'}")
    stated = arrays.pop("sha256")
    if not np.array_equal(stated, _hash(arrays)):
        raise CheckpointError(f"{file}: damaged: its content does not fit the sha256 in it")
    made_of = arrays["model_sha256"].tobytes().decode()
    if made_of != model_sha256:
        raise CheckpointError(
            f"{file}: made of weights with sha256 {made_of[:12]}..., the model's is {model_sha256[:12]}...; "
            "build it again, or remove it"
        )
    ids = np.ascontiguousarray(arrays["ids"])
    return NeighborIndex(
        ids=ids.view(f"S{ids.shape[1]}").ravel(),
        **{name: arrays[name] for name in _ARRAYS},
        typical=float(arrays["typical"][0]),
        model_sha256=made_of,
    )


def build_neighbor_index(
    model: CrystalModel, data: "PreparedData", *, split: str = "train", n_components: int = N_COMPONENTS
) -> NeighborIndex:
    """The index of one split of prepared data, by default what the model was trained on.

    ValueError if the data has another graph than the model, no structure in this split, or the model embeds sites.
    """
    if data.graph_config != model.graph:
        raise ValueError(f"the data was prepared with {data.graph_config}, the model reads {model.graph}")
    rows = data.rows(split).tolist()
    if not rows:
        raise ValueError(f"the data has no split {split!r}")
    batches = [data.graphs.batch(rows[k : k + _BATCH]) for k in range(0, len(rows), _BATCH)]
    embeddings = np.concatenate([crystal_embeddings(model, graph) for graph in batches])
    return NeighborIndex.of_embeddings(
        [data.ids[i] for i in rows], embeddings, model_sha256=model.sha256, n_components=n_components
    )


def crystal_embeddings(model: CrystalModel, graph: CrystalGraph) -> Floats32:
    """Embedding of each crystal by the model's first member, (B, P); ValueError if the model embeds sites."""
    network = model.networks[0]
    with torch.inference_mode():
        pooled = network.pooled(to_device(graph, next(network.parameters()).device), "torch")
    if len(pooled) != len(graph.n_nodes):
        raise ValueError(f"{model.name!r} embeds sites: only crystals have neighbours")
    return np.asarray(pooled.cpu().numpy())


def _hash(arrays: Mapping[str, AnyArray]) -> npt.NDArray[np.uint8]:
    """sha256 over names, types, shapes and content, (32,) bytes."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return np.frombuffer(digest.digest(), dtype=np.uint8)
