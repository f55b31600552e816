"""Build the graphs of a data set once, on all cores, and keep them on disk under a hash of their content."""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import torch

from cgcnn_ase.core.files import atomic_path, default_cache_folder
from cgcnn_ase.core.parallel import available_cores
from cgcnn_ase.core.progress import with_progress
from cgcnn_ase.data.graph_store import GraphStore
from cgcnn_ase.graphs.builder import GraphConfig, build_graphs
from cgcnn_ase.graphs.crystal_graph import CrystalGraph
from cgcnn_ase.graphs.geometry import Geometry

# raise when the meaning of a cached graph changes
CACHE_VERSION = 2

_CHUNK, _BAR = 128, "Building graphs"


def content_hash(structures: Sequence[Geometry], config: GraphConfig) -> str:
    """sha256 over every structure, the graph settings and the cache version."""
    digest = hashlib.sha256(json.dumps([CACHE_VERSION, asdict(config)], sort_keys=True).encode())
    for structure in structures:
        digest.update(len(structure.numbers).to_bytes(8, "little"))
        for array in structure:
            digest.update(array.tobytes())
    return digest.hexdigest()


def cached_graphs(
    structures: Sequence[Geometry],
    config: GraphConfig,
    *,
    folder: Path | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> GraphStore:
    """Graphs of the structures, in order: from the cache where they are there, else built and put there."""
    path = (folder or default_cache_folder()) / "graphs" / content_hash(structures, config)
    if not (path / "meta.json").exists():
        store = build_store(structures, config, workers=workers, progress=progress)
        try:
            with atomic_path(path) as tmp:
                store.save(tmp, {"version": CACHE_VERSION, "graph": asdict(config), "n": len(structures)})
        except OSError:  # another process was quicker; its files are the same
            if not (path / "meta.json").exists():
                raise
    return GraphStore.load(path)


def build_store(
    structures: Sequence[Geometry], config: GraphConfig, *, workers: int | None = None, progress: bool = False
) -> GraphStore:
    """Build graphs in parallel processes; the result does not depend on their number."""
    workers = workers or available_cores()
    chunks = [(structures[k : k + _CHUNK], config) for k in range(0, len(structures), _CHUNK)]
    if workers == 1 or len(chunks) < 4:
        graphs = with_progress(map(_build, chunks), _BAR, len(chunks), shown=progress)
        return GraphStore.from_graphs(graphs)
    with ProcessPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        graphs = with_progress(pool.map(_build, chunks), _BAR, len(chunks), shown=progress)
        return GraphStore.from_graphs(graphs)


def _build(chunk: tuple[Sequence[Geometry], GraphConfig]) -> CrystalGraph:
    return build_graphs(*chunk)._replace(vectors=None)
