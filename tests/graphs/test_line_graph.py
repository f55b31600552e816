"""Line graphs against loops and against DGL, and merged ones against whole ones."""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import make_supercell, molecule
from hypothesis import given, settings
from hypothesis import strategies as st

from cgcnn_ase.graphs import CrystalGraph, GraphConfig, build_graph, build_graphs
from cgcnn_ase.graphs.crystal_graph import LineGraph, n_atoms

from .conftest import to_dgl

NAMES = ["fcc", "bcc", "hcp", "diamond", "rocksalt", "perovskite", "LiNiO2", "spinel", "rutile"]
WHOLE, MERGED = GraphConfig(line_graph=True), GraphConfig(line_graph=True, merge=True)


def lines_of(graph: CrystalGraph) -> LineGraph:
    assert graph.lines is not None
    return graph.lines


def by_loops(graph: CrystalGraph) -> dict[tuple[int, int], float]:
    """Cosine by (target, source): i - j - k with the message j -> i -> k, j = k included."""
    assert graph.vectors is not None
    centers, neighbors = graph.centers.tolist(), graph.neighbors.tolist()
    vectors = graph.vectors.double().numpy()
    result = {}
    for target, source in product(range(len(centers)), repeat=2):
        if neighbors[target] == centers[source]:
            to_j, to_k = vectors[source], -vectors[target]
            result[target, source] = float(to_j @ to_k / np.linalg.norm(to_j) / np.linalg.norm(to_k))
    return result


def check_against_loops(graph: CrystalGraph) -> None:
    lines, expected = lines_of(graph), by_loops(graph)
    pairs = list(zip(lines.targets.tolist(), lines.sources.tolist(), strict=True))
    assert pairs == list(expected)  # the order too: by target, then by source
    np.testing.assert_allclose(lines.cosines.numpy(), list(expected.values()), atol=1e-6)
    assert lines.cosines.abs().max() <= 1
    assert (lines.multiplicity == 1).all()


@pytest.mark.parametrize("name", ["fcc", "bcc", "diamond", "rocksalt", "perovskite", "LiNiO2"])
def test_crystals(crystals: dict[str, Atoms], name: str) -> None:
    check_against_loops(build_graph(crystals[name], WHOLE))


def test_molecules_and_random_crystals() -> None:
    rng = np.random.default_rng(5)
    cell = 4 * np.eye(3) + rng.normal(scale=0.4, size=(3, 3))
    crystal = Atoms("LiOFe", cell=cell, scaled_positions=rng.random((3, 3)), pbc=True)
    for atoms in (crystal, molecule("CH3CH2OH")):
        for rule in ("shell", "knn", "radius"):
            config = GraphConfig(line_graph=True, rule=rule, cutoff=3.5, n_neighbors=6)  # type: ignore[arg-type]
            check_against_loops(build_graph(atoms, config))


def test_the_angle_of_water() -> None:
    """H -> O -> H': the angle at the oxygen; the way back to the same hydrogen has none."""
    angle = np.radians(104.5)
    atoms = Atoms("OHH", positions=[(0, 0, 0), (0.96, 0, 0), (0.96 * np.cos(angle), 0.96 * np.sin(angle), 0)])
    graph = build_graph(atoms, GraphConfig(rule="radius", cutoff=1.2, line_graph=True))
    lines = lines_of(graph)
    neighbor, center = graph.neighbors.tolist(), graph.centers.tolist()
    cosines = {
        (neighbor[s], center[s], center[t]): c
        for t, s, c in zip(lines.targets.tolist(), lines.sources.tolist(), lines.cosines.tolist(), strict=True)
    }
    cos = np.cos(angle)
    expected = {(1, 0, 2): cos, (2, 0, 1): cos, (1, 0, 1): 1, (2, 0, 2): 1, (0, 1, 0): 1, (0, 2, 0): 1}
    assert cosines == pytest.approx(expected)


@pytest.mark.parametrize("name", ["fcc", "perovskite", "LiNiO2", "rutile"])
def test_dgl_has_the_same(crystals: dict[str, Atoms], name: str) -> None:
    """All but the pairs of a bond with itself: an atom, its image, and the next image beyond, in a straight line.

    DGL leaves them out wherever a bond ends where it starts; a supercell, where it does not, then has other pairs.
    """
    dgl = pytest.importorskip("dgl")
    graph = build_graph(crystals[name], WHOLE)
    theirs = dgl.line_graph(to_dgl(graph), backtracking=True, shared=True)
    sources, targets = theirs.edges()
    r = theirs.ndata["r"]  # from centre to neighbour: against the message, so the signs are as in a line
    cosines = torch.nn.functional.cosine_similarity(r[sources], -r[targets])
    lines = lines_of(graph)
    ours = dict(zip(zip(lines.targets.tolist(), lines.sources.tolist(), strict=True), lines.cosines, strict=True))
    selves = [pair for pair in ours if pair[0] == pair[1]]
    assert all(ours[pair] == pytest.approx(-1) for pair in selves)
    assert len(selves) == int((graph.centers == graph.neighbors).sum())
    assert len(ours) == len(sources) + len(selves)
    for target, source, cosine in zip(targets.tolist(), sources.tolist(), cosines, strict=True):
        torch.testing.assert_close(ours[target, source], cosine, atol=2e-6, rtol=0)


def test_no_edges_and_no_pairs() -> None:
    lonely = Atoms("He", cell=[30] * 3, pbc=True)
    for config in (WHOLE, MERGED):
        graph = build_graphs([lonely, Atoms("LiH", positions=[(0, 0, 0), (0, 0, 1.6)]), lonely], config)
        assert lines_of(graph).n_lines.tolist() == [0, 2, 0]
        assert lines_of(build_graph(lonely, config)).targets.shape == (0,)


def test_pairs_of_a_crystal_that_stays_one_sided() -> None:
    """With k nearest neighbours i may be a neighbour of k without the reverse: then nothing comes back."""
    atoms = Atoms("HHHe", positions=[(0, 0, 0), (0, 0, 0.7), (0, 0, 3)])
    graph = build_graph(atoms, GraphConfig(rule="knn", n_neighbors=1, line_graph=True))
    check_against_loops(graph)


def expanded(graph: CrystalGraph) -> tuple[float, float, float]:
    """Atoms, bonds and pairs of bonds, merged ones counted."""
    edges = graph.multiplicity[graph.centers]
    if graph.edge_multiplicity is not None:
        edges = edges * graph.edge_multiplicity
    lines = edges[lines_of(graph).targets] * lines_of(graph).multiplicity
    return float(graph.multiplicity.sum()), float(edges.sum()), float(lines.sum())


@pytest.mark.parametrize("name", NAMES)
def test_merging_counts_everything(crystals: dict[str, Atoms], name: str) -> None:
    for cell in (crystals[name], make_supercell(crystals[name], [[1, 1, 0], [-1, 1, 0], [0, 0, 2]])):
        whole, merged = build_graph(cell, WHOLE), build_graph(cell, MERGED)
        assert expanded(merged) == expanded(whole)
        assert int(n_atoms(merged)) == len(cell)
        assert len(lines_of(merged).targets) < len(lines_of(whole).targets) / 2
        lines = lines_of(merged)
        assert (lines.targets.diff() >= 0).all()
        assert torch.equal(merged.neighbors[lines.targets], merged.centers[lines.sources])


def test_merged_pairs_of_rocksalt(crystals: dict[str, Atoms]) -> None:
    """Mg has 6 O and 12 Mg around it, and O the same: two classes of bonds each, told apart by length.

    From an atom's 18 neighbours, the cosines with one bond take few values, which the counts must show.
    """
    graph = build_graph(crystals["rocksalt"], MERGED)
    assert graph.numbers.tolist() == [12, 8]
    assert graph.edge_multiplicity is not None
    assert graph.edge_multiplicity.tolist() == [6, 12, 6, 12]
    lines = lines_of(graph)
    first = (lines.targets == 0) & (lines.sources == 2)  # O - O's six Mg, one of which is the target itself
    result = dict(zip(lines.cosines[first].round(decimals=4).tolist(), lines.multiplicity[first].tolist(), strict=True))
    assert result == {-1.0: 1, 0.0: 4, 1.0: 1}


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_supercells_merge(seed: int) -> None:
    """Translations are found again, and what is merged stays the same in sum."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 4))
    atoms = Atoms(rng.choice([8, 28], n), cell=np.diag(rng.uniform(3.5, 5, 3)), scaled_positions=rng.random((n, 3)))
    atoms.pbc = True
    whole, merged = (build_graph(atoms * (2, 1, 2), config) for config in (WHOLE, MERGED))
    assert expanded(merged) == expanded(whole)
    assert len(merged.numbers) < len(whole.numbers)


def test_only_angles_tell_them_apart() -> None:
    """A square and a tetrahedron of neighbours at the same distance."""
    square = [(0, 0, 0), (1.5, 0, 0), (-1.5, 0, 0), (0, 1.5, 0), (0, -1.5, 0)]
    corner = 1.5 / np.sqrt(3)
    tetrahedron = [(0, 0, 0), *(np.array(v) * corner for v in [(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)])]
    atoms = Atoms("CH4CH4", positions=np.vstack([square, np.array(tetrahedron) + 50]))
    graph = build_graph(atoms, GraphConfig(rule="radius", cutoff=1.6, merge=True, line_graph=True))
    assert graph.multiplicity.tolist() == [1, 4, 1, 4]


@pytest.mark.parametrize("more", [{"padding": "first-atom"}, {"angular": True}])
def test_settings_that_do_not_go_together(more: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="line_graph=True gives the angles"):
        GraphConfig(line_graph=True, **more)  # type: ignore[arg-type]


def test_merging_changes_no_prediction(crystals: dict[str, Atoms], output: Callable[..., torch.Tensor]) -> None:
    vacancy = crystals["perovskite"] * (2, 2, 2)
    del vacancy[3]
    for atoms in [*crystals.values(), vacancy]:
        torch.testing.assert_close(output(atoms, MERGED), output(atoms, WHOLE), atol=1e-5, rtol=0)
