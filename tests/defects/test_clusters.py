"""Pairs and complexes: counted by hand, by ASE's neighbour list, and told apart by pymatgen's matcher."""

import numpy as np
import pytest
from ase.build import bulk, mx2
from ase.neighborlist import neighbor_list

from cgcnn_ase.defects.point import point_defects

from .conftest import example


def manifests(host, kind, **options):
    return [manifest for _, manifest in point_defects(host, kind, **options)]


def test_exchanged_cations_are_where_the_manifest_says(lithium_nickelate):
    result = list(point_defects(lithium_nickelate, "cation-mixing"))
    for atoms, manifest in result:
        first, second = manifest.sites
        assert (atoms.symbols[first], atoms.symbols[second]) == ("Ni", "Li")
        assert atoms.get_distance(first, second, mic=True) == pytest.approx(manifest.distance, abs=1e-5)
        assert manifest.defect == "Ni_Li+Li_Ni"
        assert atoms.symbols.count("Li") == atoms.symbols.count("Ni")
    distances = [manifest.distance for _, manifest in result]
    assert distances == sorted(distances)


@pytest.mark.parametrize("name", ["LiNiO2", "LiFePO4"])
def test_all_pairs_are_counted_once(name):
    host = example(name)
    metal = "Ni" if name == "LiNiO2" else "Fe"
    result = manifests(host, "cation-mixing", pair=("Li", metal), cutoff=5.0)
    first, second, distances = neighbor_list("ijd", host, 5.0)
    symbols = np.array(host.get_chemical_symbols())
    pairs = distances[(symbols[first] == "Li") & (symbols[second] == metal)]
    assert sum(manifest.multiplicity for manifest in result) == len(pairs)
    for distance in np.unique(pairs.round(4)):
        here = [m.multiplicity for m in result if abs(m.distance - distance) < 1e-3]
        assert sum(here) == (np.abs(pairs - distance) < 1e-3).sum()


def test_no_two_pairs_are_the_same_to_pymatgen():
    from pymatgen.core.structure_matcher import StructureMatcher
    from pymatgen.io.ase import AseAtomsAdaptor

    result = list(
        point_defects(example("LiFePO4"), "cation-mixing", pair=("Li", "Fe"), supercell=(1, 2, 2), cutoff=4.5)
    )
    structures = [AseAtomsAdaptor.get_structure(atoms) for atoms, _ in result]
    assert len(structures) > 2
    matcher = StructureMatcher(ltol=0.01, stol=0.01, angle_tol=0.1, primitive_cell=False, scale=False)
    assert len(matcher.group_structures(structures)) == len(structures)


@pytest.mark.slow
def test_every_pair_is_the_same_to_pymatgen_as_one_of_ours():
    from pymatgen.core.structure_matcher import StructureMatcher
    from pymatgen.io.ase import AseAtomsAdaptor

    host = example("LiFePO4")
    ours = [
        AseAtomsAdaptor.get_structure(atoms)
        for atoms, _ in point_defects(host, "cation-mixing", pair=("Li", "Fe"), supercell=(1, 2, 2), cutoff=4.0)
    ]
    matcher = StructureMatcher(ltol=0.01, stol=0.01, angle_tol=0.1, primitive_cell=False, scale=False)
    whole = host.repeat((1, 2, 2))
    first, second = neighbor_list("ij", whole, 4.0)
    pairs = [
        (i, j) for i, j in zip(first, second, strict=True) if whole.symbols[i] == "Li" and whole.symbols[j] == "Fe"
    ]
    for i, j in np.random.default_rng(0).permutation(pairs)[:12]:
        mixed = whole.copy()
        mixed.symbols[[i, j]] = ["Fe", "Li"]
        structure = AseAtomsAdaptor.get_structure(mixed)
        assert sum(matcher.fit(structure, one) for one in ours) == 1


def test_near_and_far(lithium_nickelate, layered_108):
    every = manifests(lithium_nickelate, "cation-mixing")
    (near,) = manifests(lithium_nickelate, "cation-mixing", pair_range="near")
    (far,) = manifests(lithium_nickelate, "cation-mixing", pair_range="far")
    assert (near.distance, far.distance) == (every[0].distance, every[-1].distance)
    without = manifests(layered_108, "cation-mixing", pair_range="near", supercell=1)
    assert len({manifest.site_index for manifest in without}) == 27
    distances = layered_108.get_all_distances(mic=True)
    nickel = np.array(layered_108.get_chemical_symbols()) == "Ni"
    for manifest in without:
        assert manifest.distance == pytest.approx(distances[manifest.site_index][nickel].min(), abs=0.011)


def test_divacancies_and_triangles_of_rock_salt():
    """12 neighbours of each kind's own at a/√2, 6 of the other at a/2; 8 triangles a site in a face-centred lattice."""
    salt = bulk("NaCl", "rocksalt", a=5.64)
    result = manifests(salt, "complex", complex_size=3)
    counts = {manifest.defect: manifest.multiplicity for manifest in result}
    assert counts["v_Na+v_Cl"] == 6
    assert counts["v_Na+v_Na"] == counts["v_Cl+v_Cl"] == 6
    assert counts["v_Na+v_Na+v_Na"] == counts["v_Cl+v_Cl+v_Cl"] == 8
    assert counts["v_Na+v_Na+v_Cl"] == 12
    distances = {manifest.defect: manifest.distance for manifest in result if len(manifest.sites) == 2}
    assert distances["v_Na+v_Cl"] == pytest.approx(2.82)
    assert distances["v_Na+v_Na"] == pytest.approx(5.64 / np.sqrt(2))
    assert {manifest.n_atoms + len(manifest.sites) for manifest in result} == {40}


def test_a_conventional_cell_counts_four_times_as_many():
    options = {"complex_of": ["vacancy", "antisite"], "min_distance": 8.5}
    small = manifests(bulk("NaCl", "rocksalt", a=5.64), "complex", **options)
    large = manifests(bulk("NaCl", "rocksalt", a=5.64, cubic=True), "complex", **options)

    def counts(result, factor):
        return sorted(
            ("+".join(sorted(m.defect.split("+"))), round(m.distance, 3), factor * m.multiplicity) for m in result
        )

    assert counts(small, 4) == counts(large, 1)


def test_frenkel_pairs():
    result = manifests(
        example("MgO"), "complex", complex_of=["vacancy", "interstitial"], elements=["Mg"], cutoff=2.0, supercell=2
    )
    (frenkel,) = [manifest for manifest in result if manifest.defect == "v_Mg+Mg_i"]
    assert frenkel.multiplicity == 4 * 8  # eight holes around each of four
    assert frenkel.distance == pytest.approx(4.2112 * np.sqrt(3) / 4)
    assert frenkel.n_atoms == 64


def test_pairs_in_a_layer_stay_in_it():
    layer = mx2("MoS2", vacuum=3.5)  # the images above are nearer than those in the plane
    for manifest in manifests(layer, "complex", cutoff=4.0):
        assert manifest.distance <= 4.0
    total = sum(m.multiplicity for m in manifests(layer, "complex", elements=["S"], cutoff=3.3))
    assert total == 2 * 3 + 1  # three neighbours in its plane each, and the pairs across


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("cation-mixing", {"pair": ("Li", "Co")}, "host has no Co"),
        ("cation-mixing", {"pair": ("Li", "Li")}, "give two different elements"),
        ("cation-mixing", {"pair": ("Li",)}, "give two different elements"),
        ("cation-mixing", {"pair_range": "nearest"}, "allowed: all, near, far"),
        ("cation-mixing", {"cutoff": 9.0}, "at most 5.19 Å, half the distance between images"),
        ("cation-mixing", {"cutoff": -1.0}, "must be positive"),
        ("complex", {"complex_of": ["cation-mixing"]}, "allowed: vacancy, antisite, substitution, interstitial"),
        ("complex", {"complex_of": []}, "complex_of: is empty"),
        ("complex", {"complex_of": ["substitution"]}, "substitution needs dopants"),
        ("complex", {"complex_size": 1}, "a complex has 2 or more defects"),
        ("complex", {"supercell": (2, 2, 1)}, "need images 8 Å apart, here they are 5.76"),
    ],
)
def test_bad_input_is_told_at_once(lithium_nickelate, kind, options, words):
    with pytest.raises(ValueError, match=words):
        point_defects(lithium_nickelate, kind, **options)


def test_nothing_within_the_cutoff(lithium_nickelate):
    with pytest.raises(ValueError, match="no Li and Ni are within 2 Å"):
        list(point_defects(lithium_nickelate, "cation-mixing", cutoff=2.0))
    with pytest.raises(ValueError, match="no two defects are within the cutoff"):
        list(point_defects(lithium_nickelate, "complex", cutoff=1.0))
