"""Graphs are built once, in parallel, and found again by what they were built from."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk

from cgcnn_ase.core.files import default_cache_folder
from cgcnn_ase.data import graph_store
from cgcnn_ase.data.graph_store import GraphStore, build_store, cached_graphs, content_hash
from cgcnn_ase.graphs import GraphConfig
from cgcnn_ase.graphs.crystal_graph import Geometry, geometry

CONFIG = GraphConfig(angular=True, merge=True)


def structures(n: int) -> list[Geometry]:
    rng = np.random.default_rng(0)
    made = []
    for _ in range(n):
        atoms = bulk("NaCl", "rocksalt", a=rng.uniform(5, 6)) * (1, 1, int(rng.integers(1, 3)))
        atoms.rattle(0.05, rng=rng)
        made.append(geometry(atoms))
    return made


def assert_same(one: GraphStore, other: GraphStore) -> None:
    assert one.n_nodes.tolist() == other.n_nodes.tolist()
    assert one.n_edges.tolist() == other.n_edges.tolist()
    for name in one.fields:
        assert torch.equal(one.fields[name], other.fields[name].to(one.fields[name].dtype)), name


def test_parallel_equals_serial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_store, "_CHUNK", 7)
    crystals = structures(40)
    serial = build_store(crystals, CONFIG, workers=1)
    assert len(serial) == 40
    assert_same(build_store(crystals, CONFIG, workers=2), serial)
    monkeypatch.setattr(graph_store, "_CHUNK", 1000)
    assert_same(build_store(crystals, CONFIG, workers=2), serial)


def test_the_second_call_reads_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crystals = structures(6)
    first = cached_graphs(crystals, CONFIG, folder=tmp_path)

    def refuse(*_: Any, **__: Any) -> GraphStore:
        raise AssertionError("built again")

    monkeypatch.setattr(graph_store, "build_store", refuse)
    assert_same(cached_graphs(crystals, CONFIG, folder=tmp_path), first)
    with pytest.raises(AssertionError, match="built again"):
        cached_graphs(crystals[:5], CONFIG, folder=tmp_path)


def test_a_draft_left_by_a_killed_process_is_not_taken(tmp_path: Path) -> None:
    crystals = structures(3)
    path = tmp_path / "graphs" / content_hash(crystals, CONFIG)
    tmp = path.with_name(path.name + ".1234")
    tmp.mkdir(parents=True)
    (tmp / "numbers.npy").write_bytes(b"half a fi")
    assert len(cached_graphs(crystals, CONFIG, folder=tmp_path)) == 3
    assert (path / "meta.json").exists()


def changed(crystals: Sequence[Geometry], **fields: Any) -> list[Geometry]:
    return [*crystals[:-1], crystals[-1]._replace(**fields)]


def test_the_hash_sees_everything() -> None:
    crystals = structures(3)
    last = crystals[-1]
    others = [
        changed(crystals, numbers=last.numbers[::-1].copy()),
        changed(crystals, positions=last.positions + 1e-12),
        changed(crystals, cell=last.cell * (1 + 1e-12)),
        changed(crystals, pbc=np.array([True, True, False])),
        crystals[:2],
        crystals[::-1],
        [*crystals, last],
    ]
    hashes = [content_hash(made, CONFIG) for made in (crystals, *others)]
    settings: list[dict[str, Any]] = [
        {"rule": "radius"}, {"cutoff": 7.0}, {"n_neighbors": 11}, {"tolerance": 0.02}, {"angular": False},
        {"merge": False}, {"angular": False, "padding": "first-atom"},
    ]  # fmt: skip
    hashes += [content_hash(crystals, replace(CONFIG, **setting)) for setting in settings]
    assert len(set(hashes)) == len(hashes) == 15
    assert content_hash(structures(3), GraphConfig(angular=True, merge=True)) == hashes[0]


def test_the_hash_sees_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = content_hash(structures(1), CONFIG)
    monkeypatch.setattr(graph_store, "CACHE_VERSION", 999)
    assert content_hash(structures(1), CONFIG) != before


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.delenv("CGCNN_ASE_CACHE", raising=False)
    assert default_cache_folder() == Path("/x/cgcnn-ase")
    monkeypatch.setenv("CGCNN_ASE_CACHE", "/y")
    assert default_cache_folder() == Path("/y")


def test_errors_of_a_worker_reach_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_store, "_CHUNK", 2)
    crystals = changed(structures(10), positions=np.full((2, 3), np.nan), numbers=np.array([11, 17]))
    with pytest.raises(ValueError, match="not finite"):
        build_store(crystals, CONFIG, workers=2)
