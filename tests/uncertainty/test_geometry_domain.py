"""Contacts and volumes that no training structure has, and what they add to the error."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.neighborlist import neighbor_list

from cgcnn_ase.graphs.builder import GraphConfig, build_graphs
from cgcnn_ase.graphs.crystal_graph import composition
from cgcnn_ase.uncertainty.conformal import PopulationFactors
from cgcnn_ase.uncertainty.contacts import VolumeModel, elements_of_pair, join, structure_geometry
from cgcnn_ase.uncertainty.geometric_error import GeometricError, signal_columns
from cgcnn_ase.uncertainty.geometry_domain import GeometryDomain

CONFIG = GraphConfig(merge=True)
#: lattice parameters of rock salts, Å
ROCK_SALTS = {
    "MgO": 4.212, "CaO": 4.811, "SrO": 5.160, "BaO": 5.539, "MnO": 4.445, "FeO": 4.332, "CoO": 4.263, "NiO": 4.177,
    "LiF": 4.026, "NaF": 4.634, "KF": 5.340, "LiCl": 5.130, "NaCl": 5.640, "KCl": 6.293, "MgS": 5.200, "CaS": 5.695,
}  # fmt: skip


def crystals(scale=1.0):
    return [bulk(name, "rocksalt", a=a * scale) for name, a in ROCK_SALTS.items()]


def measured(structures, *, of_sites=False, config=CONFIG):
    graph = build_graphs(structures, config)
    return structure_geometry(graph, of_sites=of_sites), composition(graph).numpy()


@pytest.fixture(scope="module")
def domain():
    known = [c for scale in np.linspace(0.98, 1.02, 9) for c in crystals(scale)]
    geometry, fractions = measured(known)
    return GeometryDomain.fit(geometry, fractions, geometry, fractions)


def judged(domain, structures):
    geometry, fractions = measured(structures)
    signals = domain.signals(geometry, fractions)
    scores = domain.scores(signals, geometry)
    return scores, [domain.reasons(k, signals, geometry) for k in range(len(structures))]


def test_shortest_contacts_are_those_of_a_neighbour_list():
    structures = [bulk("NiO", "rocksalt", a=4.177, cubic=True), bulk("Li", cubic=True), bulk("ZnS", "wurtzite", a=3.8)]
    geometry, _ = measured(structures)
    for k, atoms in enumerate(structures):
        i, j, d = neighbor_list("ijd", atoms, 4.0)
        expected = {}
        for a, b, distance in zip(atoms.numbers[i], atoms.numbers[j], d, strict=True):
            pair = (min(a, b), max(a, b))
            expected[pair] = min(expected.get(pair, np.inf), distance)
        mine = geometry.owner == k
        got = dict(zip(map(elements_of_pair, geometry.pair[mine].tolist()), geometry.shortest[mine], strict=True))
        assert got == pytest.approx({pair: expected[pair] for pair in got}, abs=1e-5)
        assert np.exp(geometry.log_volume[k]) == pytest.approx(atoms.get_volume() / len(atoms), rel=1e-5)
    assert not geometry.n_isolated.any()


def test_merged_atoms_and_larger_cells_measure_the_same():
    one = bulk("CaO", "rocksalt", a=4.811)
    for structures, config in (([one * (2, 1, 3)], CONFIG), ([one], GraphConfig())):
        geometry, _ = measured(structures, config=config)
        reference, _ = measured([one])
        assert geometry.pair.tolist() == reference.pair.tolist()
        assert geometry.shortest == pytest.approx(reference.shortest, abs=1e-5)
        assert geometry.log_volume == pytest.approx(reference.log_volume, abs=1e-6)


def test_sites_have_their_own_neighbours_and_parts_can_be_joined():
    ordered = Atoms("NiOLi", positions=[[0, 0, 0], [1.9, 0, 0], [4.9, 0, 0]], cell=[9, 9, 9], pbc=True)
    config = GraphConfig(cutoff=3.5)
    geometry, _ = measured([ordered], of_sites=True, config=config)
    assert geometry.owner.tolist() == [0, 1, 1, 2]
    assert sorted(geometry.shortest.tolist()) == pytest.approx([1.9, 1.9, 3.0, 3.0], abs=1e-5)
    whole = [measured([atoms])[0] for atoms in crystals()[:3]]
    joined, together = join(whole), measured(crystals()[:3])[0]
    for name in together._fields:
        assert np.array_equal(getattr(joined, name), getattr(together, name), equal_nan=True), name
    chosen = joined.select(np.array([False, True, True]))
    assert chosen.owner.min() == 0
    assert chosen.log_volume.tolist() == joined.log_volume[1:].tolist()


def test_ordinary_crystals_are_inside(domain):
    scores, reasons = judged(domain, crystals())
    assert scores.max() <= 1
    assert not any(reasons)


@pytest.mark.parametrize(("scale", "word"), [(0.8, "Ni-O"), (0.69, "volume"), (1.25, "volume"), (3.0, "volume")])
def test_compressed_and_expanded(domain, scale, word):
    scores, reasons = judged(domain, [bulk("NiO", "rocksalt", a=4.177 * scale)])
    assert scores[0] > 1
    assert word in "; ".join(reasons[0])


def test_reasons_name_elements_and_numbers(domain):
    _, reasons = judged(domain, [bulk("NiO", "rocksalt", a=4.177 * 0.85)])
    assert "Ni-O 1.78 Å" in reasons[0][0]
    assert "the closest in training is 2.05 Å" in reasons[0][0]
    assert "Å³/atom is 0.61" in reasons[0][1]


def test_lonely_atoms_molecules_and_slabs(domain):
    lonely = Atoms("Ni", cell=[30, 30, 30], pbc=True)
    surface = fcc111("Ni", (1, 1, 2), vacuum=10, periodic=True)
    scores, reasons = judged(domain, [lonely, molecule("O2"), surface])
    assert (scores > 1).all()
    assert "1 atom has no neighbour within the cutoff" in reasons[0]
    assert "is not periodic in all three directions, as the training structures are" in reasons[1]
    assert any("volume" in reason for reason in reasons[2])


def test_a_pair_that_no_training_structure_has_is_judged_by_radii(domain):
    close = Atoms("MgNa", positions=[[0, 0, 0], [1.2, 0, 0]], cell=[4.2, 4.2, 4.2], pbc=True)
    scores, reasons = judged(domain, [close])
    assert scores[0] > 1
    assert "Mg-Na 1.20 Å, which no training structure has" in reasons[0][0] or "Na-Mg" in reasons[0][0]


def test_the_arrays_are_the_domain(domain):
    again = GeometryDomain.from_arrays(domain.arrays())
    odd = [bulk("NiO", "rocksalt", a=3.5), bulk("MgO", "rocksalt", a=6.0), molecule("O2")]
    assert judged(again, odd)[0].tolist() == judged(domain, odd)[0].tolist()
    assert judged(again, odd)[1] == judged(domain, odd)[1]
    assert GeometryDomain.from_arrays({}) is None
    assert sum(array.nbytes for array in domain.arrays().values()) < 100_000
    with pytest.raises(ValueError, match="lacks limits"):
        GeometryDomain.from_arrays({name: a for name, a in domain.arrays().items() if name != "limits"})


def test_volumes_follow_the_composition_and_an_outlier_moves_nothing():
    structures = [c for scale in np.linspace(0.99, 1.01, 5) for c in crystals(scale)]
    geometry, fractions = measured(structures)
    model = VolumeModel.fit(fractions, geometry.log_volume)
    assert np.abs(model.predict(fractions) - geometry.log_volume).max() < 0.15
    wrong = geometry.log_volume.copy()
    wrong[0] += 3.0
    assert np.abs(VolumeModel.fit(fractions, wrong).predict(fractions) - model.predict(fractions)).max() < 0.05
    again = VolumeModel.from_arrays(model.arrays())
    assert again.predict(fractions).tolist() == model.predict(fractions).tolist()


# The error that geometry adds


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(0)
    ordinary = np.column_stack([rng.normal(-0.1, 0.03, (2000, 1)), rng.normal(0, 0.05, (2000, 2)), np.full(2000, -4.0)])
    ordinary[:, 2] = -ordinary[:, 1]
    std = np.full(2000, 0.05)
    squeezed = np.column_stack(
        [rng.uniform(0, 0.5, 1000), rng.uniform(0, 1, 1000), np.full(1000, -0.5), np.full(1000, -4.0)]
    )
    true_std = np.hypot(0.05, 20 * np.maximum(squeezed[:, 0] - np.quantile(ordinary[:, 0], 0.98), 0) ** 1.5)
    error = np.abs(rng.laplace(0, true_std / np.sqrt(2)))
    fit = GeometricError.fit(
        squeezed, error, np.full(1000, 0.05), ordinary=ordinary, ordinary_errors=rng.normal(0, 0.05, 2000),
        ordinary_std=std, truth="made up",
    )  # fmt: skip
    return fit, ordinary, squeezed, true_std


def test_the_true_scale_and_exponent_are_found(fitted):
    fit, _, squeezed, true_std = fitted
    ratio = np.hypot(0.05, fit.std(squeezed)) / true_std
    assert np.median(ratio) == pytest.approx(1.0, abs=0.15)
    assert np.quantile(ratio, [0.05, 0.95]) == pytest.approx([1.0, 1.0], abs=0.35)


def test_ordinary_structures_are_hardly_widened_and_nothing_saturates(fitted):
    fit, ordinary, _, _ = fitted
    assert np.median(fit.std(ordinary)) == 0.0
    further = np.column_stack([np.linspace(0.1, 0.9, 9), np.zeros(9), np.zeros(9), np.full(9, -4.0)])
    assert (np.diff(fit.std(further)) > 0).all()
    assert fit.std(further)[-1] > 5


def test_what_is_not_known_of_the_volume_adds_nothing(domain):
    geometry, fractions = measured([molecule("O2")])
    columns = signal_columns(domain.signals(geometry, fractions), np.array([0.02]))
    assert columns[0, 1:3].tolist() == [0.0, 0.0]
    assert columns[0, 3] == pytest.approx(np.log(0.02))


def test_upper_ends_of_hypothetical_crystals():
    rng = np.random.default_rng(1)
    std = rng.uniform(0.02, 0.1, 4000)
    error = std * rng.normal(1.0, 1.5, 4000)
    factors = PopulationFactors.fit(std[:2000], error[:2000], above_hull=(0.05, 0.5))
    wide, upper = factors.apply(np.zeros(2000), std[2000:])
    assert (error[2000:] <= upper).mean() == pytest.approx(0.9, abs=0.03)
    assert np.mean((error[2000:] / wide) ** 2) == pytest.approx(1.0, abs=0.1)


def test_both_ends_of_hypothetical_crystals_together_hold_the_level():
    """Without the crystals below the lower end, one in ten above the upper end is too many."""
    rng = np.random.default_rng(2)
    std = rng.uniform(0.02, 0.1, 8000)
    error = std * rng.normal(0.5, 1.5, 8000)
    factors = PopulationFactors.fit(std[:4000], error[:4000], above_hull=(0.05, 0.5), lower_factor=1.5)
    _, upper = factors.apply(np.zeros(4000), std[4000:])
    assert np.mean((error[4000:] >= -1.5 * std[4000:]) & (error[4000:] <= upper)) == pytest.approx(0.9, abs=0.02)
    assert np.mean(error[4000:] <= upper) > 0.96


def test_signals_together_count_for_more_than_their_sum_where_the_errors_say_so():
    """Errors that grow with the square of the sum of two signals, which no sum of squares of each can give."""
    rng = np.random.default_rng(3)
    ordinary = np.column_stack([rng.normal(0, 0.01, (2000, 3)), np.full(2000, -4.0)])
    distorted = np.column_stack([rng.uniform(0, 0.5, (3000, 2)), np.zeros(3000), np.full(3000, -4.0)])
    true_std = np.hypot(0.05, 10 * (distorted[:, 0] + distorted[:, 1]) ** 2)
    fit = GeometricError.fit(
        distorted, np.abs(rng.laplace(0, true_std / np.sqrt(2))), np.full(3000, 0.05), ordinary=ordinary,
        ordinary_errors=rng.normal(0, 0.05, 2000), ordinary_std=np.full(2000, 0.05), truth="made up",
    )  # fmt: skip
    one, other, both = fit.std(np.array([[0.3, 0, 0, -4], [0, 0.3, 0, -4], [0.3, 0.3, 0, -4]]))
    assert both > 1.5 * (one + other)  # 3.6 against 0.9 and 0.9
    assert both == pytest.approx(3.6, rel=0.25)


def test_an_interval_of_the_rest_of_the_errors_holds_them_with_the_term(fitted):
    fit, _, squeezed, true_std = fitted
    error = np.random.default_rng(4).laplace(0, true_std / np.sqrt(2))
    rest, term = fit.less(error, squeezed), fit.factor * fit.std(squeezed)
    for half in (0.0, 0.03, 0.5):
        np.testing.assert_array_equal(np.abs(rest) <= half, (error >= -half) & (error <= np.hypot(half, term)))
