"""The crystal graph coordinator against its words, atom by atom, and against what must not change it."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene, molecule
from ase.data import chemical_symbols
from hypothesis import given, settings
from hypothesis import strategies as st

from cgcnn_ase.core.elements import atomic_radii
from cgcnn_ase.graphs import CrystalGraph, GraphConfig, build_graph, build_graphs
from cgcnn_ase.graphs.neighbors import CENTER_DISTANCE, MAX_SPLITS, n_coordinated, search

COORDINATOR = GraphConfig(rule="coordinator")

Pairs = list[tuple[int, int, float]]


def as_pairs(graph: CrystalGraph) -> Pairs:
    columns = (graph.centers.tolist(), graph.neighbors.tolist(), graph.distances.tolist())
    return sorted((i, j, round(d, 4)) for i, j, d in zip(*columns, strict=True))


def nearer_cluster(x: list[float]) -> list[int]:
    """Indices that stay after all splits; each is found by trying all of them."""
    kept = sorted(range(len(x)), key=lambda k: x[k])
    for _ in range(10):
        if len(kept) < 2:
            break
        values = np.array([x[k] for k in kept])
        costs = [k * values[:k].var() + (len(kept) - k) * values[k:].var() for k in range(1, len(kept))]
        k = 1 + int(np.argmin(costs))
        if values[k:].mean() - values[:k].mean() <= 0.03:
            break
        kept = kept[:k]
    return kept


def by_words(atoms: Atoms) -> Pairs:
    """cutoff_ij = 1.2 (r_i + r_j) (V / sum 4/3 pi r^3)^(1/3), candidates nearer than that, then the splits."""
    radii = atomic_radii()[atoms.numbers]
    factor = 1.2 * (atoms.cell.volume / (4 / 3 * np.pi * (radii**3).sum())) ** (1 / 3)
    bonds = search(atoms.positions, atoms.cell.array, atoms.pbc, 2.01 * factor * radii.max())
    pairs = []
    for i in range(len(atoms)):
        js, ds = bonds.neighbors[bonds.centers == i], bonds.distances[bonds.centers == i]
        relative = ds / (factor * (radii[i] + radii[js]))
        inside = np.flatnonzero(relative < 1)
        kept = inside[nearer_cluster(relative[inside].tolist())]
        pairs += [(i, int(j), round(float(np.float32(d)), 4)) for j, d in zip(js[kept], ds[kept], strict=True)]
    return sorted(pairs)


def random_crystal(rng: np.random.Generator) -> Atoms:
    n = int(rng.integers(1, 6))
    cell = np.diag(rng.uniform(0.7, 1.4, 3)) + rng.normal(scale=0.2, size=(3, 3))
    cell *= np.cbrt(n * rng.uniform(6.0, 40.0) / abs(np.linalg.det(cell)))
    return Atoms(rng.choice([1, 3, 8, 28, 57], n), cell=cell, scaled_positions=rng.random((n, 3)), pbc=True)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_crystals_by_words(seed: int) -> None:
    atoms = random_crystal(np.random.default_rng(seed))
    assert as_pairs(build_graph(atoms, COORDINATOR)) == by_words(atoms)


def test_known_crystals(crystals: dict[str, Atoms]) -> None:
    """Coordination numbers that anybody would give, where radii and distances agree."""

    def numbers(name: str) -> dict[str, set[int]]:
        atoms = crystals[name]
        counts = np.bincount(build_graph(atoms, COORDINATOR).centers, minlength=len(atoms))
        return {s: set(counts[atoms.symbols == s].tolist()) for s in set(atoms.symbols)}

    assert numbers("fcc") == {"Cu": {12}}
    assert numbers("hcp") == {"Mg": {12}}
    assert numbers("bcc") == {"Fe": {8}}
    assert numbers("diamond") == {"Si": {4}}
    assert numbers("LiNiO2") == {"Li": {6}, "Ni": {6}, "O": {6}}
    # each atom chooses by itself: Ti counts the Sr around it, and Sr no Ti
    assert numbers("perovskite") == {"Sr": {8}, "Ti": {14}, "O": {2}}
    for name, atoms in crystals.items():
        if name != "perovskite":
            assert len(as_pairs(build_graph(atoms, COORDINATOR))) == len(by_words(atoms)), name


def test_the_splits_are_those_of_kmeans() -> None:
    """Of the library that the reference uses, given enough starts to find the best split."""
    cluster = pytest.importorskip("sklearn.cluster")
    rng = np.random.default_rng(2)
    for _ in range(40):
        x = np.sort(rng.uniform(0.3, 1.0, rng.integers(2, 15)))
        kept = x
        for _ in range(MAX_SPLITS):
            if len(kept) < 2:
                break
            result = cluster.KMeans(2, n_init=20, random_state=0).fit(kept[:, None])
            if abs(np.diff(result.cluster_centers_[:, 0])[0]) <= CENTER_DISTANCE:
                break
            kept = kept[result.labels_ == result.cluster_centers_[:, 0].argmin()]
        assert n_coordinated(x[None]).tolist() == [len(kept)]


@pytest.mark.parametrize("scale", [0.31, 0.9, 1.01, 7.0])
def test_a_uniformly_strained_crystal_has_the_same_graph(crystals: dict[str, Atoms], scale: float) -> None:
    rng = np.random.default_rng(3)
    for atoms in [*crystals.values(), *(random_crystal(rng) for _ in range(10))]:
        strained = atoms.copy()
        strained.set_cell(scale * atoms.cell.array, scale_atoms=True)
        one, other = build_graph(atoms, COORDINATOR), build_graph(strained, COORDINATOR)
        assert [p[:2] for p in as_pairs(one)] == [p[:2] for p in as_pairs(other)]


def environments(atoms: Atoms) -> dict[str, float]:
    """What each atom is bonded to, and which fraction of the atoms is."""
    graph = build_graph(atoms, COORDINATOR)
    around: list[list[tuple[int, float]]] = [[] for _ in atoms]
    for i, j, d in as_pairs(graph):
        around[i].append((int(graph.numbers[j]), round(d, 2)))
    names = [f"{symbol} {sorted(bonds)}" for symbol, bonds in zip(atoms.symbols, around, strict=True)]
    return {name: names.count(name) / len(names) for name in names}


def test_skewed_cells_lose_no_neighbour(crystals: dict[str, Atoms]) -> None:
    """The 27 nearest cells are not enough in these."""
    for name, atoms in crystals.items():
        skewed = atoms.copy()
        skewed.set_cell(np.array([[1, 0, 0], [5, 1, 0], [-4, 7, 1]]) @ atoms.cell.array, scale_atoms=False)
        assert as_pairs(build_graph(skewed, COORDINATOR)) == as_pairs(build_graph(atoms, COORDINATOR)), name
        assert environments(atoms * (2, 1, 3)) == pytest.approx(environments(atoms)), name


def test_ties_stay_together() -> None:
    """Noise far below what a structure file can say does not decide who is a neighbour."""
    rng = np.random.default_rng(4)
    shells = np.repeat([0.5, 0.7, 0.9], 6)
    for noise in (0.0, 1e-12, 1e-8):
        rows = np.sort(shells + noise * rng.standard_normal((50, 18)), axis=1)
        assert set(n_coordinated(rows).tolist()) == {6}  # {0.5} and {0.5, 0.7} are equally good clusters
    at_the_border = np.sort(np.concatenate([np.full(6, 0.98), np.full(6, 1.0)]) + 1e-9 * rng.standard_normal((50, 12)))
    assert set(n_coordinated(at_the_border).tolist()) <= {6, 12}


def test_rows_of_different_length() -> None:
    inf = np.inf
    table = np.array([[inf, inf, inf], [0.5, inf, inf], [0.5, 0.52, inf], [0.5, 0.54, inf], [0.5, 0.52, 0.99]])
    assert n_coordinated(table).tolist() == [0, 1, 2, 1, 2]
    assert n_coordinated(table[:, :1]).tolist() == [0, 1, 1, 1, 1]
    assert n_coordinated(np.full((2, 0), inf)).tolist() == [0, 0]


def test_a_batch_is_its_crystals(crystals: dict[str, Atoms]) -> None:
    together = build_graphs(list(crystals.values()), COORDINATOR)
    apart = [build_graph(atoms, COORDINATOR) for atoms in crystals.values()]
    assert together.n_edges.tolist() == [len(graph.centers) for graph in apart]
    assert together.distances.tolist() == [d for graph in apart for d in graph.distances.tolist()]


def test_what_has_no_volume_or_no_radius() -> None:
    with pytest.raises(ValueError, match="has no volume"):
        build_graph(molecule("H2O"), COORDINATOR)
    with pytest.raises(ValueError, match="has no volume"):
        build_graph(graphene(), COORDINATOR)
    with pytest.raises(ValueError, match="no atomic radius is known of At, Cm"):
        build_graph(Atoms(["Cm", "O", "At"], positions=np.eye(3), cell=[4] * 3, pbc=True), COORDINATOR)
    assert len(build_graph(graphene(vacuum=4.0), COORDINATOR).centers) == 6


def test_radii_are_those_of_pymatgen() -> None:
    from pymatgen.core import Element

    for number in range(1, 101):
        element = Element.from_Z(number)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("warnings.warn", lambda *_, **__: None)
            expected = element.atomic_radius_calculated or element.atomic_radius
        assert atomic_radii()[number] == pytest.approx(np.nan if expected is None else float(expected), nan_ok=True)
        assert chemical_symbols[number] == element.symbol


def test_one_atom() -> None:
    assert len(build_graph(bulk("Po", "sc", a=3.35), COORDINATOR).centers) == 6
