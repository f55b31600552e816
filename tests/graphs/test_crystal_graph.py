"""The bundle of tensors, how it is built, batched and handed to DGL, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from cgcnn_ase.core.elements import UnknownElementError
from cgcnn_ase.graphs import CrystalGraph, GraphConfig, batch, build_graph, build_graphs, unbatch
from cgcnn_ase.graphs.crystal_graph import Geometry, crystal_index, geometry, n_atoms, to_device

from .conftest import to_dgl

LONELY = Atoms("He", cell=[20, 20, 20], pbc=True)


def tensors(graph: CrystalGraph) -> dict[str, torch.Tensor | None]:
    """By name, those of the line graph too."""
    fields = graph._asdict()
    lines = fields.pop("lines")
    return fields if lines is None else fields | lines._asdict()


def assert_equal(one: CrystalGraph, other: CrystalGraph) -> None:
    assert tensors(one).keys() == tensors(other).keys()
    for name, (a, b) in {name: (a, tensors(other)[name]) for name, a in tensors(one).items()}.items():
        assert (a is None) == (b is None), name
        if a is not None and b is not None:
            assert a.dtype == b.dtype, name
            assert torch.equal(a, b), name


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("more", [{}, {"angular": True}, {"line_graph": True}])
def test_batch_and_unbatch(crystals: dict[str, Atoms], more: dict[str, bool], merge: bool) -> None:
    config = GraphConfig(merge=merge, **more)  # type: ignore[arg-type]
    structures = [*crystals.values(), LONELY, crystals["fcc"]]
    graphs = [build_graph(atoms, config) for atoms in structures]
    together = batch(graphs)
    assert_equal(together, build_graphs(structures, config))
    for one, other in zip(unbatch(together), graphs, strict=True):
        assert_equal(one, other)
    assert batch(graphs[:1]) is graphs[0]


def test_shapes_and_order(crystals: dict[str, Atoms]) -> None:
    graph = build_graphs([crystals["perovskite"], LONELY, crystals["fcc"]], GraphConfig(angular=True))
    assert repr(graph) == f"CrystalGraph(3 crystals, 7 nodes, {len(graph.centers)} edges)"
    assert graph.n_nodes.tolist() == [5, 1, 1]
    assert graph.n_edges.tolist()[1:] == [0, 12]
    assert (graph.centers.diff() >= 0).all()
    crystal = crystal_index(graph)
    assert torch.equal(crystal[graph.centers], crystal[graph.neighbors])
    assert graph.angular.shape == (len(graph.centers), 12)
    assert graph.vectors is not None
    torch.testing.assert_close(graph.vectors.norm(dim=1), graph.distances)


def test_every_bond_has_its_reverse_within_a_radius(crystals: dict[str, Atoms]) -> None:
    graph = build_graph(crystals["LiNiO2"], GraphConfig(rule="radius", cutoff=5.0))
    forth = sorted(
        zip(graph.centers.tolist(), graph.neighbors.tolist(), np.round(graph.distances.numpy(), 4), strict=True)
    )
    back = sorted(
        zip(graph.neighbors.tolist(), graph.centers.tolist(), np.round(graph.distances.numpy(), 4), strict=True)
    )
    assert forth == back


def test_atoms_are_counted_once_merged(crystals: dict[str, Atoms]) -> None:
    graph = build_graphs([crystals["spinel"], LONELY, crystals["hcp"]], GraphConfig(merge=True))
    assert n_atoms(graph).tolist() == [14, 1, 2]


def test_geometry_and_atoms_give_the_same_graph(crystals: dict[str, Atoms]) -> None:
    atoms = crystals["spinel"]
    assert_equal(build_graph(geometry(atoms), GraphConfig()), build_graph(atoms, GraphConfig()))


def test_to_device_keeps_everything(crystals: dict[str, Atoms]) -> None:
    graph = build_graph(crystals["hcp"], GraphConfig(merge=True, line_graph=True))
    assert_equal(to_device(graph, "cpu"), graph)


def test_to_dgl(crystals: dict[str, Atoms]) -> None:
    dgl = pytest.importorskip("dgl")
    graph = build_graphs([crystals["perovskite"], LONELY], GraphConfig())
    result = to_dgl(graph)
    assert result.batch_num_nodes().tolist() == [5, 1]
    assert result.batch_num_edges().tolist() == graph.n_edges.tolist()
    source, destination = result.edges()
    assert torch.equal(source, graph.neighbors)
    assert torch.equal(destination, graph.centers)
    assert torch.equal(result.ndata["Z"], graph.numbers)
    assert torch.equal(result.edata["d"], graph.distances)
    assert graph.vectors is not None
    assert torch.equal(result.edata["r"], graph.vectors)
    assert [g.num_nodes() for g in dgl.unbatch(result)] == [5, 1]
    assert "r" not in to_dgl(build_graph(crystals["fcc"], GraphConfig(merge=True))).edata


def test_empty_input_is_refused() -> None:
    with pytest.raises(ValueError, match="empty sequence"):
        batch([])
    fcc, pair = bulk("Cu"), [GraphConfig(), GraphConfig(line_graph=True)]
    with pytest.raises(ValueError, match="with a line graph and graphs without"):
        batch([build_graph(fcc, config) for config in pair])
    with pytest.raises(ValueError, match="no structures"):
        build_graphs([], GraphConfig())
    with pytest.raises(ValueError, match="no atoms"):
        build_graph(Atoms(cell=[3, 3, 3], pbc=True), GraphConfig())


@pytest.mark.parametrize("number", [0, 101, 118])
def test_unknown_elements_are_refused(number: int) -> None:
    with pytest.raises(UnknownElementError, match=str(number)):
        build_graph(Atoms([8, number], positions=[(0, 0, 0), (0, 0, 2)]), GraphConfig())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_positions_and_cells_that_are_not_finite_are_refused(value: float) -> None:
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    atoms.positions[1, 2] = value
    with pytest.raises(ValueError, match="position of atom 1 is not finite"):
        build_graph(atoms, GraphConfig())
    shape = geometry(bulk("Cu"))
    with pytest.raises(ValueError, match="cell is not finite"):
        build_graph(shape._replace(cell=np.full((3, 3), value)), GraphConfig())


def test_a_cell_without_volume_is_refused() -> None:
    shape = Geometry(np.array([3]), np.zeros((1, 3)), np.zeros((3, 3)), np.ones(3, dtype=bool))
    with pytest.raises(ValueError, match="periodic vectors are zero"):
        build_graph(shape, GraphConfig())


@pytest.mark.parametrize("wrong", [{"cutoff": 0.0}, {"n_neighbors": 0}, {"tolerance": -0.1}])
def test_settings_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        GraphConfig(**wrong)  # type: ignore[arg-type]


def test_padding_reproduces_the_original_graph() -> None:
    config = GraphConfig(rule="knn", padding="first-atom")
    graph = build_graph(Atoms("HHe", positions=[(0, 0, 0), (0, 0, 1)]), config)
    assert graph.distances.tolist() == [1.0, *[9.0] * 11, 1.0, *[9.0] * 11]
    assert graph.neighbors.tolist() == [1, *[0] * 11, 0, *[0] * 11]


def test_real_crystals_have_their_neighbours(shared_data: Path) -> None:
    """Spot check on Materials Project crystals: shells hold at least twelve, and never fewer than the radius allows."""
    with np.load(shared_data / "mp_elastic" / "structures.npz") as packed:
        lattice, offsets, numbers, frac = (packed[k] for k in ("lattice", "offsets", "numbers", "frac"))
    periodic = np.ones(3, dtype=bool)
    for i in range(0, 100, 5):
        span = slice(offsets[i], offsets[i + 1])
        cell = lattice[i].astype(float)
        shape = Geometry(numbers[span].astype(np.int64), frac[span].astype(float) @ cell, cell, periodic)
        shell = build_graph(shape, GraphConfig())
        radius = build_graph(shape, GraphConfig(rule="radius"))
        in_radius = np.bincount(radius.centers, minlength=len(shape.numbers))
        in_shell = np.bincount(shell.centers, minlength=len(shape.numbers))
        assert (in_shell >= np.minimum(in_radius, 12)).all()
        assert (in_shell <= in_radius).all()
